#!/usr/bin/env bash
# An example for Slurm, one process a GPU on two nodes of four:
#
#   sbatch launch/slurm.sh --config=configs/vit_tiny.py
#   sbatch --nodes=8 launch/slurm.sh --config=configs/vit_tiny.py
#
# Submit it from the package's folder, on a file system that all nodes share;
# `launch/gpu.sh --config=...` on a node with a GPU has made .venv-gpu there, or
# TASKVEC_VENV names another environment. All arguments are those of
# `python -m taskvec_jax.main`: the processes find each other through Slurm's
# own variables. Results go to runs/slurm_JOB unless --workdir says otherwise; a
# job that is requeued goes on there. On nodes without GPUs, one process a node:
#   sbatch --gres=none --ntasks-per-node=1 launch/slurm.sh --config=...
#SBATCH --job-name=taskvec_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
# All GPUs of a node are shown to each of its processes: JAX gives process i of
# the node GPU i. With --gpus-per-task there would be no GPU i to be found.
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_%j.log
set -euo pipefail

fail() {
  echo "launch/slurm.sh: $2" >&2
  exit "$1"
}

[[ -n ${SLURM_JOB_ID:-} ]] ||
  fail 2 'this is a job script; submit it with sbatch launch/slurm.sh --config=...'
(($#)) || fail 2 'name a config, such as --config=configs/ffn.py'

# sbatch runs a copy of this file from elsewhere.
cd "$SLURM_SUBMIT_DIR"
python=${TASKVEC_VENV:-.venv-gpu}/bin/python
[[ -x $python ]] ||
  fail 1 "there is no $PWD/$python; make the environment with launch/gpu.sh or name one in TASKVEC_VENV"

# All processes must name the same folder, and each would name its own time.
named=
for argument in "$@"; do
  [[ $argument != --workdir=* ]] || named=yes
done
[[ -n $named ]] || set -- "$@" "--workdir=runs/slurm_$SLURM_JOB_ID"

program=launch/slurm.sh
# shellcheck source-path=SCRIPTDIR source=environment.sh
source launch/environment.sh
use_gpu_compiler_flags

# A process that dies would leave the others waiting for its sums. srun does not
# take the processors of a task over from sbatch.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" -m taskvec_jax.main "$@"
