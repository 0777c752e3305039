"""launch/gpu.sh with a faked Python, pip and nvidia-smi."""

import subprocess

import pytest

from tests.launch import fakes

_CONFIG = '--config=configs/ffn.py'


@pytest.fixture
def machine(tmp_path):
  """A machine with a GPU and without an environment."""
  machine = fakes.Machine(tmp_path, 'nvidia-smi', 'python3')
  machine.set('gpus', 'GPU 0: of a test\n')
  return machine


def gpu(machine, *words, **env):
  return machine.run(machine.package / 'launch/gpu.sh', *words, **env)


def made(machine):
  """Returns the calls that make environments."""
  return [
      call[1:]
      for call in machine.calls()
      if call[1:3] in (['-m', 'venv'], ['-m', 'pip'])
  ]


def test_the_environment_is_made_once_and_the_run_gets_all_arguments(machine):
  words = [_CONFIG, "--config.tasks=('digits', 'faces')", '--workdir=a "b" $c']
  for _ in range(2):
    done = gpu(machine, *words)
    assert done.returncode == 0
    assert done.stdout == f'words {words} on cuda,cpu\n'
  environment = str(machine.package / '.venv-gpu')
  pip = ['-m', 'pip', 'install', '--quiet', '-e', '.', 'jax[cuda12]']
  assert made(machine) == [['-m', 'venv', environment], pip]


def test_flags_of_the_compiler_are_set_and_the_users_come_last(machine):
  done = gpu(machine, _CONFIG, XLA_FLAGS='--xla_mine=1')
  assert done.stderr.splitlines()[-1] == (
      '--xla_gpu_enable_triton_gemm=false --xla_mine=1'
  )


def test_the_exit_code_of_the_run_comes_back(machine):
  machine.set('code', 3)
  assert gpu(machine, _CONFIG).returncode == 3


def test_a_half_made_environment_is_made_anew(machine):
  machine.set('pip_code', 1)
  done = gpu(machine, _CONFIG)
  assert done.returncode == 1
  assert '.venv-gpu could not be made' in done.stderr
  assert not machine.calls('main')
  machine.unset('pip_code')
  done = gpu(machine, _CONFIG)
  assert done.returncode == 0
  assert '.venv-gpu was left half-made; making it anew' in done.stderr
  assert len(made(machine)) == 4


def test_other_requirements_need_another_environment(machine):
  assert gpu(machine, _CONFIG).returncode == 0
  (machine.package / 'setup.py').write_text('more')
  done = gpu(machine, _CONFIG)
  assert 'was made for other requirements' in done.stderr
  done = gpu(machine, _CONFIG, TASKVEC_GPU_EXTRA='cuda13')
  assert 'was made for other requirements' in done.stderr
  assert made(machine)[-1][-1] == 'jax[cuda13]'
  assert len(made(machine)) == 6


def test_of_two_first_calls_one_makes_the_environment(machine):
  processes = [
      subprocess.Popen(
          ['bash', machine.package / 'launch/gpu.sh', _CONFIG],
          env=machine.env,
          stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL,
      )
      for _ in range(2)
  ]
  assert [process.wait(timeout=60) for process in processes] == [0, 0]
  assert len(made(machine)) == 2 and len(machine.calls('main')) == 2


@pytest.mark.parametrize(
    ('missing', 'words', 'env', 'status', 'said'),
    [
        ('gpus', [_CONFIG], {}, 1, 'nvidia-smi sees no GPU here'),
        ('bin/nvidia-smi', [_CONFIG], {}, 1, 'nvidia-smi sees no GPU here'),
        ('', [], {}, 2, 'name a config'),
        ('', [_CONFIG], {'TASKVEC_GPU_EXTRA': 'tpu'}, 2, "is 'tpu', not an"),
    ],
)
def test_what_cannot_run_gets_one_sentence(
    machine, missing, words, env, status, said
):
  if missing:
    machine.unset(missing)
  done = gpu(machine, *words, **env)
  assert (done.returncode, done.stdout) == (status, '')
  (line,) = done.stderr.splitlines()
  assert line.startswith('launch/gpu.sh: ') and said in line
  assert made(machine) == [] and not (machine.package / '.venv-gpu').exists()


def test_an_old_python_is_refused(machine):
  machine.set('old_python', 1)
  done = gpu(machine, _CONFIG)
  assert done.returncode == 1
  assert 'no Python 3.11 or newer with venv was found' in done.stderr
