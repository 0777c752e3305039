"""launch/slurm.sh with a faked srun, as sbatch would run it."""

import re
import shutil

import pytest

from tests.launch import fakes

_CONFIG = '--config=configs/ffn.py'
_TEXT = (fakes.ROOT / 'launch' / 'slurm.sh').read_text()


@pytest.fixture
def machine(tmp_path):
  """A machine with srun and the environment of launch/gpu.sh."""
  machine = fakes.Machine(tmp_path, 'srun')
  python = machine.package / '.venv-gpu' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text('')
  python.chmod(0o755)
  machine.env['SLURM_JOB_ID'] = '17'
  machine.env['SLURM_SUBMIT_DIR'] = str(machine.package)
  return machine


def sbatch(machine, *words, **env):
  # Slurm runs a copy from its own folder.
  copy = shutil.copy(machine.package / 'launch' / 'slurm.sh', machine.cwd)
  return machine.run(copy, *words, **env)


def srun(python, *words, processors='1'):
  return [
      *('srun', '--kill-on-bad-exit=1', f'--cpus-per-task={processors}'),
      *(python, '-m', 'taskvec_jax.main', *words),
  ]


def test_the_same_command_is_started_by_srun(machine):
  words = [_CONFIG, "--config.tasks=('digits', 'faces')"]
  assert sbatch(machine, *words, SLURM_CPUS_PER_TASK='8').returncode == 0
  assert sbatch(machine, _CONFIG, '--workdir=a b').returncode == 0
  python = '.venv-gpu/bin/python'
  assert machine.calls() == [
      srun(python, *words, '--workdir=runs/slurm_17', processors='8'),
      srun(python, _CONFIG, '--workdir=a b'),
  ]


def test_the_exit_code_of_the_run_comes_back(machine):
  machine.set('code', 5)
  assert sbatch(machine, _CONFIG).returncode == 5


@pytest.mark.parametrize(
    ('words', 'env', 'status', 'said'),
    [
        ([_CONFIG], {'SLURM_JOB_ID': ''}, 2, 'submit it with sbatch'),
        ([], {}, 2, 'name a config'),
        ([_CONFIG], {'TASKVEC_VENV': 'no'}, 1, 'there is no .*/no/bin/python'),
    ],
)
def test_what_cannot_run_gets_one_sentence(machine, words, env, status, said):
  done = sbatch(machine, *words, **env)
  assert (done.returncode, done.stdout) == (status, '')
  (line,) = done.stderr.splitlines()
  assert re.search(said, line) and not machine.calls()


def test_options_stand_before_the_first_command():
  # sbatch reads no further.
  head = _TEXT.partition('set -euo')[0]
  assert head.count('#SBATCH') == _TEXT.count('#SBATCH')
  assert re.search(r'^#SBATCH --nodes=2$', head, re.M)
