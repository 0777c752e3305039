#!/usr/bin/env bash
# Runs the package on a Cloud TPU VM, of one host or many:
#
#   launch/tpu_vm.sh create
#   launch/tpu_vm.sh run -- --config=configs/vit_tiny.py --workdir=runs/tpu
#   launch/tpu_vm.sh status
#   launch/tpu_vm.sh logs
#   launch/tpu_vm.sh fetch
#   launch/tpu_vm.sh delete
#
# create   makes the VM, if there is none of that name
# run      copies the package to every worker, installs it there once, and
#          starts the same `python -m taskvec_jax.main ...` on all of them, in
#          the background: it goes on when this machine is switched off
# status   says of every worker whether it runs or with which code it ended;
#          exit status: the highest of those codes, 0 while they run
# logs     follows worker 0 to the end of the run; exit status: the run's own
# fetch    copies runs/ of worker 0, which writes all results, to runs_tpu/
# delete   deletes the VM and all on its disk, after gcloud has asked; not while
#          a run is going
#
# Flags, or environment variables, before `--`:
#   --name      TASKVEC_TPU_NAME     taskvec-jax
#   --zone      TASKVEC_TPU_ZONE     us-central2-b
#   --type      TASKVEC_TPU_TYPE     v4-8
#   --version   TASKVEC_TPU_VERSION  tpu-ubuntu2204-base
#   --project   TASKVEC_TPU_PROJECT  gcloud's own
#   --spot      create: cheaper, and taken away when others want it
#   --force     delete: without asking, and in the middle of a run
#   --dry-run   prints the commands, ready to be pasted, and runs none
#
# Exit status: 2 for a wrong call, 1 for what is refused, else gcloud's.
# With several workers gcloud needs its key in the agent:
#   ssh-add ~/.ssh/google_compute_engine
set -euo pipefail

program=launch/tpu_vm.sh
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${TASKVEC_TPU_NAME:-taskvec-jax}
zone=${TASKVEC_TPU_ZONE:-us-central2-b}
type=${TASKVEC_TPU_TYPE:-v4-8}
version=${TASKVEC_TPU_VERSION:-tpu-ubuntu2204-base}
project=${TASKVEC_TPU_PROJECT:-}
spot=
force=
dry_run=

# What a worker gets; results and environments stay where they are.
shipped=(setup.py pyproject.toml README.md LICENSE taskvec_jax configs launch)
archive=taskvec_jax_upload.tar.gz

fail() {
  echo "$program: $2" >&2
  exit "$1"
}

# Prints a command so that a shell reads the same words again.
quote() {
  local word line='' mark="'" inside="'\\''"
  for word in "$@"; do
    if [[ -z $word || $word == *[!A-Za-z0-9_./:=,@%+-]* ]]; then
      word="'${word//$mark/$inside}'"
    fi
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command, or prints it.
call() {
  if [[ -n $dry_run ]]; then
    quote "$@"
  else
    "$@"
  fi
}

# --- gcloud, nowhere else in the repository -----------------------------------

# tpu_vm VERB [ARG...]
tpu_vm() {
  local flags=("--zone=$zone")
  [[ -z $project ]] || flags+=("--project=$project")
  call gcloud compute tpus tpu-vm "$@" "${flags[@]}"
}

# on_workers all|NUMBER COMMAND: one string, which a shell there takes apart.
on_workers() {
  tpu_vm ssh "$name" "--worker=$1" "--command=$2"
}

# Prints nothing where there is no VM of that name. Whatever else gcloud fails
# with, such as a login that has expired, says nothing of the VM.
vm_state() {
  local said code=0
  {
    said=$(tpu_vm describe "$name" '--format=value(state)' 2>&1 >&3) || code=$?
  } 3>&1
  if ((code)) && [[ $said == *NOT_FOUND* ]]; then
    return 0
  fi
  [[ -z $said ]] || echo "$said" >&2
  return "$code"
}

# --- commands -----------------------------------------------------------------

create() {
  local state
  # An assignment of its own: within a condition a failure would go unseen.
  state=$(vm_state)
  if [[ -n $dry_run ]]; then
    echo "$state"
  elif [[ -n $state ]]; then
    fail 1 "$name exists in $zone already; use it with run, or delete it first"
  fi
  tpu_vm create "$name" "--accelerator-type=$type" "--version=$version" \
    ${spot:+--spot}
}

run() {
  check_arguments "$@"
  refuse_while_running
  local folder=${TMPDIR:-/tmp} id
  if [[ -z $dry_run ]]; then
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder's name of now
    trap "rm -rf $(quote "$folder")" EXIT
  fi
  call tar -czf "$folder/$archive" -C "$root" --exclude=__pycache__ \
    "${shipped[@]}"
  tpu_vm scp "$folder/$archive" "$name:$archive" --worker=all
  # Under the lock of a run, so that none loses its files on the way.
  on_workers all "mkdir -p taskvec_jax/.launch && (\
flock --nonblock 9 || { echo 'taskvec_jax: a run is going' >&2; exit 4; }; \
cd taskvec_jax && rm -rf taskvec_jax configs launch && \
tar -xzf ../$archive && bash launch/tpu_worker.sh install\
) 9>taskvec_jax/.launch/lock"
  id=$(date +%Y%m%d-%H%M%S)-$$
  # All workers must name the same folder, and each would name its own time.
  has_workdir "$@" || set -- "$@" "--workdir=runs/$id"
  on_workers all \
    "$(quote bash taskvec_jax/launch/tpu_worker.sh start "$id" "$@")"
}

has_workdir() {
  local argument
  for argument in "$@"; do
    [[ $argument != --workdir=* ]] || return 0
  done
  return 1
}

# What is only found out on the TPU has been paid for.
check_arguments() {
  local argument config=
  for argument in "$@"; do
    case $argument in
      --config=*)
        config=${argument#--config=}
        config=${config%%:*}
        ;;
    esac
  done
  [[ -n $config ]] ||
    fail 2 'run needs a config, such as: run -- --config=configs/ffn.py'
  [[ $config != /* && -f $root/$config ]] ||
    fail 2 "there is no config file '$config' below $root, which is what is copied to the VM"
}

worker_states() {
  on_workers all "if [ -f taskvec_jax/launch/tpu_worker.sh ]; then \
bash taskvec_jax/launch/tpu_worker.sh status; \
else echo \"taskvec_jax: \$(hostname): has run nothing yet\"; fi"
}

refuse_while_running() {
  local states
  if [[ -n $dry_run ]]; then
    worker_states
    return
  fi
  states=$(worker_states) ||
    fail $? "the workers of $name could not be asked whether a run is going"
  case $states in
    *': running '* | *': installing '*)
      fail 1 "a run is going on $name; follow it with logs"
      ;;
  esac
}

status() {
  local states codes
  if [[ -n $dry_run ]]; then
    worker_states
    return
  fi
  states=$(worker_states)
  echo "$states"
  case $states in
    *': running '* | *': installing '*) return 0 ;;
  esac
  # One that has no code has not ended well.
  codes=$(sed -n -e 's/^taskvec_jax: .*: ended with code \([0-9]*\)$/\1/p' \
    -e 's/^taskvec_jax: .*: ended without.*/1/p' \
    -e 's/^taskvec_jax: .*: has run nothing yet$/1/p' <<<"$states")
  return "$(sort -n <<<"${codes:-1}" | tail -n 1)"
}

logs() {
  on_workers 0 'bash taskvec_jax/launch/tpu_worker.sh logs'
}

fetch() {
  mkdir -p "$root/runs_tpu"
  tpu_vm scp --recurse "$name:taskvec_jax/runs" "$root/runs_tpu/" --worker=0
}

delete() {
  local state
  if [[ -n $dry_run ]]; then
    vm_state
    [[ -n $force ]] || refuse_while_running
  else
    state=$(vm_state)
    [[ -n $state ]] || fail 1 "there is no $name in $zone"
    # A VM that is not ready cannot be asked, and runs nothing.
    [[ -n $force || $state != READY ]] || refuse_while_running
  fi
  tpu_vm delete "$name" ${force:+--quiet}
}

# --- the command line ---------------------------------------------------------

command=${1:-}
case $command in
  create | run | status | logs | fetch | delete) shift ;;
  *) fail 2 "'$command' is none of create, run, status, logs, fetch and delete" ;;
esac

while (($#)); do
  case $1 in
    --name=?*) name=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --version=?*) version=${1#*=} ;;
    --project=?*) project=${1#*=} ;;
    --spot) spot=yes ;;
    --force) force=yes ;;
    --dry-run) dry_run=yes ;;
    --)
      shift
      break
      ;;
    *) fail 2 "'$1' is no flag of this script; those are --name=, --zone=, --type=, --version=, --project=, --spot, --force and --dry-run, and the run's own stand behind --" ;;
  esac
  shift
done
[[ $command == run ]] || ! (($#)) ||
  fail 2 "$command takes nothing behind --; only run does"
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  fail 2 "'$name' is no name for a TPU VM; use small letters, digits and dashes"
[[ -n $dry_run ]] || type -P gcloud >/dev/null ||
  fail 1 'there is no gcloud on the PATH; install the Google Cloud CLI first'

"$command" "$@"
