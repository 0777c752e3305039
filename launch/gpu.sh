#!/usr/bin/env bash
# Runs the package on this machine's NVIDIA GPUs:
#
#   launch/gpu.sh --config=configs/vit_tiny.py --workdir=runs/gpu
#
# All arguments are those of `python -m taskvec_jax.main`. The first call makes
# the environment .venv-gpu beside the package; the driver must be there
# already. TASKVEC_GPU_EXTRA names jax's extra: cuda12 or, for newer drivers,
# cuda13. Exit status: the run's own; 1 where there is no GPU or no Python.
set -euo pipefail

program=launch/gpu.sh
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extra=${TASKVEC_GPU_EXTRA:-cuda12}
environment=$root/.venv-gpu

fail() {
  echo "$program: $2" >&2
  exit "$1"
}

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$root/launch/environment.sh"

[[ $extra =~ ^cuda[0-9]+(-local)?$ ]] ||
  fail 2 "TASKVEC_GPU_EXTRA is '$extra', not an extra of jax such as cuda12"
(($#)) || fail 2 'name a config, such as --config=configs/ffn.py'

gpus=$(nvidia-smi --list-gpus 2>/dev/null) || gpus=
[[ -n $gpus ]] || fail 1 'nvidia-smi sees no GPU here; on a CPU, run python -m taskvec_jax.main itself'

make_environment() {
  local python
  python=$(find_python) ||
    fail 1 'no Python 3.11 or newer with venv was found as python3'
  remove_stale_environment "$environment"
  echo "$program: making $environment with jax[$extra], once" >&2
  if ! "$python" -m venv "$environment" ||
    ! install_package "$environment" "$extra"; then
    fail 1 "$environment could not be made; the reason stands above"
  fi
}

# The package is installed from here; arguments keep the caller's folder.
caller=$PWD
cd "$root"
if ! environment_is_complete "$environment" "$extra"; then
  # Of two first calls, the second waits for the first and finds its work done.
  exec 9>"$environment.lock"
  flock 9
  environment_is_complete "$environment" "$extra" || make_environment
  exec 9>&-
fi
cd "$caller"

# Without this JAX would go on, slowly, on the CPU if CUDA did not start.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
use_gpu_compiler_flags
exec "$environment/bin/python" -m taskvec_jax.main "$@"
