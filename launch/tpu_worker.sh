#!/usr/bin/env bash
# The half of tpu_vm.sh that runs on each worker of a TPU VM, in the folder that
# it was unpacked into. Not meant to be called by hand.
#
#   install            makes .venv with jax[tpu], once
#   start ID ARG...    starts python -m taskvec_jax.main ARG... in the background
#   status             says in a line what the last run does
#   logs               follows its output; ends with its exit code
#
# .launch/ID holds a run's command, output (log) and exit code (code);
# .launch/last names the last. .launch/lock is held by whatever runs or installs,
# and by nothing once that is gone, however it ended.
set -euo pipefail

program=launch/tpu_worker.sh
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p .launch

say() {
  echo "taskvec_jax: $(hostname): $1"
}

fail() {
  say "$2" >&2
  exit "$1"
}

# shellcheck source-path=SCRIPTDIR source=environment.sh
source launch/environment.sh

install() {
  local python
  environment_is_complete .venv tpu && return
  remove_stale_environment .venv
  if python=$(find_python); then
    "$python" -m venv .venv
  else
    # The images of TPU VMs have an older Python; uv, a package, fetches one.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
  fi
  install_package .venv tpu
  say 'installed'
}

start() {
  local id=$1
  shift
  # gcloud repeats a command whose connection broke: the same run starts once.
  if [[ -f .launch/last && $(<.launch/last) == "$id" ]]; then
    return
  fi
  exec 9>.launch/lock
  flock --nonblock 9 || fail 4 'another run is going; see status and logs'
  mkdir -p ".launch/$id"
  echo "$id" >.launch/last
  printf '%q ' python -m taskvec_jax.main "$@" >".launch/$id/command"
  # Of its own session, and with no end of the connection open, so that it goes
  # on when that breaks. It keeps the lock, file 9.
  setsid nohup bash launch/tpu_worker.sh execute "$id" "$@" \
    </dev/null >".launch/$id/log" 2>&1 &
  echo "$!" >".launch/$id/pid"
  say 'started'
}

execute() {
  local id=$1 code=0
  shift
  .venv/bin/python -m taskvec_jax.main "$@" || code=$?
  echo "$code" >".launch/$id/code.part"
  mv ".launch/$id/code.part" ".launch/$id/code"
}

last_run() {
  [[ -f .launch/last ]] && cat .launch/last
}

# Prints running, installing, ended, lost or idle.
state() {
  local id
  if ! flock --nonblock --shared .launch/lock true; then
    if id=$(last_run) && [[ ! -f .launch/$id/code ]]; then
      echo running
    else
      echo installing
    fi
  elif ! id=$(last_run); then
    echo idle
  elif [[ -f .launch/$id/code ]]; then
    echo ended
  else
    echo lost
  fi
}

status() {
  case $(state) in
    running) say "running $(<".launch/$(last_run)/command")" ;;
    installing) say 'installing the package' ;;
    ended) say "ended with code $(<".launch/$(last_run)/code")" ;;
    lost) say 'ended without a code: it was killed, or the VM restarted' ;;
    idle) say 'has run nothing yet' ;;
  esac
}

logs() {
  local id code
  id=$(last_run) || fail 3 'has run nothing yet'
  tail -n +1 --follow=name --pid="$(<".launch/$id/pid")" ".launch/$id/log"
  [[ -f .launch/$id/code ]] || fail 3 "$(status)"
  code=$(<".launch/$id/code")
  say "ended with code $code" >&2
  # To gcloud 255 is a broken connection, which it would try again.
  exit "$((code > 254 ? 254 : code))"
}

case ${1:-} in
  install | start | execute | status | logs) "$@" ;;
  *) fail 2 "'${1:-}' is not install, start, status or logs" ;;
esac
