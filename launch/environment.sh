# shellcheck shell=bash
# What the scripts share: a virtual environment, made once, and the compiler's
# flags. Sourced, not run, from the folder of setup.py; `program`, which the
# sourcing file sets, is the name that messages begin with.
: "${program:?}"

# Prints a Python of version 3.11 or newer that can make environments.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))
import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# What an environment is made of; another one is made when it changes.
environment_stamp() {
  local extra=$1
  echo "$extra $(cksum <setup.py)"
}

environment_is_complete() {
  local folder=$1 extra=$2
  [[ -x $folder/bin/python && -f $folder/complete &&
    $(<"$folder/complete") == "$(environment_stamp "$extra")" ]]
}

# Says so, and removes it, if an environment of another setup.py is there or one
# whose making was cut short.
remove_stale_environment() {
  local folder=$1
  [[ -e $folder ]] || return 0
  if [[ -f $folder/complete ]]; then
    echo "$program: $folder was made for other requirements; making it anew" >&2
  else
    echo "$program: $folder was left half-made; making it anew" >&2
  fi
  rm -rf "$folder"
}

# Installs the package and jax[EXTRA]; only then is the environment complete.
install_package() {
  local folder=$1 extra=$2
  "$folder/bin/python" -m pip install --quiet -e . "jax[$extra]" &&
    environment_stamp "$extra" >"$folder/complete"
}

# XLA would try Triton's kernels for every product in full float32: the gradient
# of ViT-B/32 had then not compiled after two minutes on an H100; so it takes 10 s.
use_gpu_compiler_flags() {
  export XLA_FLAGS="--xla_gpu_enable_triton_gemm=false ${XLA_FLAGS:-}"
}
