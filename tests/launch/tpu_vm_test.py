"""launch/tpu_vm.sh against a gcloud that notes what it is asked."""

import os
import re
import shlex
import time

import pytest

from tests.launch import fakes

_AWKWARD = [
    "--config.tasks=('digits', 'faces')",
    '--workdir=runs/a "b"  $HOME\\n `c` #*',
    '',
]


@pytest.fixture
def machine(tmp_path):
  """A machine with gcloud, and a TPU VM of two workers that is not made yet."""
  machine = fakes.Machine(tmp_path, 'gcloud', 'python3')
  for worker in ('worker0', 'worker1'):
    (machine.fake / worker).mkdir()
  return machine


@pytest.fixture
def vm(machine):
  """The same with the VM made."""
  machine.set('state', 'READY\n')
  return machine


def tpu(machine, *words, **env):
  done = machine.run(machine.package / 'launch/tpu_vm.sh', *words, **env)
  assert 'Traceback' not in done.stderr
  return done


def start(machine, *words):
  return tpu(machine, 'run', '--', '--config=configs/ffn.py', *words)


def wait_until_ended(machine, num_runs=1):
  """Returns what status says once both workers have ended so many runs."""
  for _ in range(1000):
    if len(list(machine.fake.rglob('.launch/*/code'))) == 2 * num_runs:
      break
    time.sleep(0.02)
  return tpu(machine, 'status')


def started(machine, *, num_processes):
  """Returns the calls of the package once there are so many."""
  for _ in range(500):
    if len(machine.calls('main')) == num_processes:
      break
    time.sleep(0.02)
  calls = machine.calls('main')
  assert len(calls) == num_processes
  return calls


def test_create_asks_for_the_vm_that_was_named(machine):
  done = tpu(
      machine,
      *('create', '--name=mine', '--zone=z-1', '--type=v5p-8', '--spot'),
      *('--version=v2', '--project=p'),
  )
  assert (done.returncode, done.stderr) == (0, '')
  where = ['--zone=z-1', '--project=p']
  vm = ['gcloud', 'compute', 'tpus', 'tpu-vm']
  assert machine.calls() == [
      [*vm, 'describe', 'mine', '--format=value(state)', *where],
      [*vm, 'create', 'mine', '--accelerator-type=v5p-8', '--version=v2']
      + ['--spot', *where],
  ]


def test_the_environment_names_a_vm_too_and_flags_win(machine):
  done = tpu(
      machine,
      *('create', '--dry-run', '--zone=flag'),
      TASKVEC_TPU_NAME='named',
      TASKVEC_TPU_ZONE='env',
      TASKVEC_TPU_TYPE='v4-32',
  )
  assert 'create named --accelerator-type=v4-32' in done.stdout
  assert '--zone=flag' in done.stdout and 'env' not in done.stdout


def test_create_refuses_a_vm_that_exists(vm):
  done = tpu(vm, 'create')
  assert done.returncode == 1
  assert 'taskvec-jax exists in us-central2-b already' in done.stderr
  assert not [call for call in vm.calls() if 'create' in call]


def test_the_exit_code_of_gcloud_comes_back(vm):
  vm.set('code_of_scp', 7)
  assert start(vm).returncode == 7
  vm.set('code_of_ssh', 9)
  for words in (['status'], ['logs'], ['run', '--', '--config=configs/ffn.py']):
    assert tpu(vm, *words).returncode == 9
  assert not vm.calls('main')


def test_a_run_starts_once_on_every_worker_and_goes_on_by_itself(vm):
  vm.set('hold')
  done = start(vm, *_AWKWARD)  # back at once, while the run is held
  assert (done.returncode, done.stderr) == (0, '')
  assert tpu(vm, 'status').stdout.count(': running ') == 2
  calls = started(vm, num_processes=2)
  words = ['main', '-m', 'taskvec_jax.main', '--config=configs/ffn.py']
  assert calls == [words + _AWKWARD] * 2  # every quote, blank and dollar

  again = start(vm)
  assert again.returncode == 1 and 'a run is going on' in again.stderr
  kept = tpu(vm, 'delete')
  assert kept.returncode == 1 and 'a run is going on' in kept.stderr
  assert vm.calls('main') == calls
  assert not [call for call in vm.calls() if 'delete' in call]

  vm.set('code', 3)
  vm.unset('hold')
  ended = wait_until_ended(vm)
  assert ended.returncode == 3
  assert ended.stdout.count('ended with code 3') == 2
  logs = tpu(vm, 'logs')
  assert logs.returncode == 3
  assert f'words {words[3:] + _AWKWARD}' in logs.stdout
  assert logs.stdout.count('words') == 1  # of worker 0 alone


def test_a_worker_refuses_a_second_run_by_itself(vm):
  vm.set('hold')
  assert start(vm).returncode == 0
  calls = started(vm, num_processes=2)
  # Its own session: the end of the connection's does not end it.
  assert int((vm.fake / 'session').read_text()) != os.getsid(0)
  worker = vm.fake / 'worker0' / 'taskvec_jax' / 'launch' / 'tpu_worker.sh'
  second = vm.run(worker, 'start', 'second', '--config=configs/ffn.py')
  assert second.returncode == 4
  assert 'another run is going' in second.stderr
  assert vm.calls('main') == calls
  vm.unset('hold')
  wait_until_ended(vm)


def test_the_second_run_installs_nothing_and_keeps_the_results(vm):
  assert start(vm).returncode == 0
  wait_until_ended(vm)
  installed = vm.calls('.venv/bin/python')
  assert (
      installed
      == [
          ['.venv/bin/python', '-m', 'pip', 'install', '--quiet', '-e', '.']
          + ['jax[tpu]']
      ]
      * 2
  )
  package = vm.fake / 'worker0' / 'taskvec_jax'
  assert not list(package.rglob('__pycache__'))
  (package / 'runs').mkdir()
  (package / 'runs' / 'results.json').write_text('{}')
  (package / 'configs' / 'of_yesterday.py').write_text('')

  assert start(vm, '--config.num_epochs=2').returncode == 0
  assert wait_until_ended(vm, num_runs=2).returncode == 0
  assert vm.calls('.venv/bin/python') == installed
  assert (package / 'runs' / 'results.json').exists()
  assert not (package / 'configs' / 'of_yesterday.py').exists()
  # Two folders of state, and one run folder for all workers of a run.
  assert len([p for p in (package / '.launch').iterdir() if p.is_dir()]) == 2
  workdirs = [call[-1] for call in vm.calls('main')]
  assert workdirs[0] == workdirs[1] != workdirs[2] == workdirs[3]
  assert workdirs[0].startswith('--workdir=runs/')


def test_an_installation_that_failed_starts_nothing_and_is_done_anew(vm):
  vm.set('pip_code', 1)
  assert start(vm).returncode != 0
  assert not vm.calls('main')
  vm.unset('pip_code')
  done = start(vm)
  assert done.returncode == 0
  assert done.stderr.count('.venv was left half-made') == 2
  assert wait_until_ended(vm).returncode == 0


def test_uv_fetches_a_python_where_the_image_has_an_old_one(vm):
  vm.set('old_python', 1)
  assert start(vm).returncode == 0
  pip, venv = vm.calls('python3')[:2]
  assert pip[1:] == ['-m', 'pip', 'install', '--quiet', '--user', 'uv']
  assert venv[1:] == '-m uv venv --quiet --seed --python 3.12 .venv'.split()
  assert wait_until_ended(vm).returncode == 0


def test_a_repeated_start_is_the_same_run(vm):
  assert start(vm).returncode == 0
  wait_until_ended(vm)
  (command,) = [
      word.removeprefix('--command=')
      for word in vm.calls('gcloud')[3]
      if word.startswith('--command=')
  ]
  assert ' start ' in command
  worker = vm.fake / 'worker0'
  (worker / 'again.sh').write_text(f'cd {shlex.quote(str(worker))}; {command}')
  again = vm.run(worker / 'again.sh')
  # It says when it starts something.
  assert (again.returncode, again.stdout) == (0, '')
  assert len(vm.calls('main')) == 2


def test_status_tells_a_run_that_was_killed_from_one_that_ended(vm):
  assert tpu(vm, 'status').returncode == 1
  assert tpu(vm, 'status').stdout.count('has run nothing yet') == 2
  assert start(vm).returncode == 0
  wait_until_ended(vm)
  last = vm.fake / 'worker1' / 'taskvec_jax' / '.launch' / 'last'
  (last.parent / last.read_text().strip() / 'code').unlink()
  done = tpu(vm, 'status')
  assert done.returncode == 1
  assert done.stdout.count('ended with code 0') == 1
  assert done.stdout.count('ended without a code') == 1


def test_fetch_copies_the_results_of_worker_0(vm):
  done = tpu(vm, 'fetch', '--dry-run')
  assert done.stdout == (
      'gcloud compute tpus tpu-vm scp --recurse taskvec-jax:taskvec_jax/runs'
      f" '{vm.package}/runs_tpu/' --worker=0 --zone=us-central2-b\n"
  )


def test_delete_asks_unless_forced_and_needs_a_vm(vm):
  assert tpu(vm, 'delete').returncode == 0
  assert '--quiet' not in vm.calls()[-1]
  gone = tpu(vm, 'delete', '--force')
  assert gone.returncode == 1
  assert 'there is no taskvec-jax in us-central2-b' in gone.stderr
  vm.set('state', 'PREEMPTED\n')  # cannot be asked
  vm.set('code_of_ssh', 255)
  assert tpu(vm, 'delete', '--force').returncode == 0
  assert vm.calls()[-1][5:7] == ['taskvec-jax', '--quiet']


@pytest.mark.parametrize('command', ['create', 'delete'])
def test_a_gcloud_that_cannot_ask_is_not_taken_for_no_vm(vm, command):
  vm.set('code_of_describe', 5)
  vm.set('said_of_describe', 'ERROR: reauthentication is needed\n')
  done = tpu(vm, command)
  assert (done.returncode, done.stdout) == (5, '')
  assert done.stderr == 'ERROR: reauthentication is needed\n'
  assert [call[4] for call in vm.calls('gcloud')] == ['describe']


def test_what_gcloud_warns_of_is_shown_and_not_taken_for_a_state(vm):
  vm.set('said_of_describe', 'WARNING: an update is there\n')
  vm.set('state', 'PREEMPTED\n')
  vm.set('code_of_ssh', 255)
  done = tpu(vm, 'delete')
  assert (done.returncode, done.stderr) == (0, 'WARNING: an update is there\n')


@pytest.mark.parametrize(
    'words',
    [
        ['create', '--spot'],
        ['run', '--', '--config=configs/ffn.py', *_AWKWARD],
        ['status'],
        ['logs'],
        ['delete'],
    ],
)
def test_a_dry_run_prints_commands_that_can_be_pasted_and_runs_none(vm, words):
  done = tpu(vm, words[0], '--dry-run', *words[1:])
  assert (done.returncode, done.stderr) == (0, '')
  assert vm.calls() == []
  pasted = vm.cwd / 'pasted.sh'
  pasted.write_text(done.stdout)
  if words[0] == 'create':
    vm.unset('state')
  vm.run(pasted)
  printed = [shlex.split(line) for line in done.stdout.splitlines()]
  assert vm.calls('gcloud') == [line for line in printed if line[0] != 'tar']
  if words[0] == 'run':
    assert [line[0] for line in printed].count('tar') == 1
    assert started(vm, num_processes=2)[0][3:] == words[2:]


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ([], "'' is none of create, run, status"),
        (['start'], "'start' is none of create"),
        (['create', '--nmae=x'], "'--nmae=x' is no flag"),
        (['create', '--name='], "'--name=' is no flag"),
        (['create', '--name=My VM'], "'My VM' is no name"),
        (['run', '--config=configs/ffn.py'], 'stand behind --'),
        (['run'], 'run needs a config'),
        (['run', '--', '--workdir=x'], 'run needs a config'),
        (['run', '--', '--config=configs/no.py'], "no config file 'configs/no"),
        (['run', '--', '--config=/etc/passwd'], "no config file '/etc/passwd'"),
        (['status', '--', 'x'], 'status takes nothing behind --'),
    ],
)
def test_a_wrong_call_gets_one_sentence_and_does_nothing(vm, words, said):
  done = tpu(vm, *words)
  assert (done.returncode, done.stdout) == (2, '')
  (line,) = done.stderr.splitlines()
  assert line.startswith('launch/tpu_vm.sh: ') and said in line
  assert vm.calls() == []


def test_a_machine_without_gcloud_is_told_so(tmp_path):
  done = tpu(fakes.Machine(tmp_path), 'status')
  assert done.returncode == 1
  assert 'no gcloud on the PATH' in done.stderr


def test_gcloud_is_called_in_one_file():
  found = {
      path.relative_to(fakes.ROOT).as_posix()
      for folder in ('taskvec_jax', 'launch', 'configs', 'benchmarks', '.ci')
      for path in (fakes.ROOT / folder).rglob('*')
      if path.suffix in ('.py', '.sh', '.html', '.ipynb', '')
      and path.is_file()
      and re.search(r'\bgcloud (compute|auth|config)', path.read_text())
  }
  assert found == {'launch/tpu_vm.sh'}
