"""Several processes: the numbers of one, and a death that has a name."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from taskvec_jax import checkpoints
from taskvec_jax import processes
from taskvec_jax.experiments import regimes
from taskvec_jax.report import results as results_lib
from tests import problems

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = _ROOT / 'tests' / 'experiments' / 'tiny.py'


@pytest.mark.parametrize(
    ('coordinator', 'num_processes', 'process_id', 'said'),
    [
        (
            'a:1',
            None,
            None,
            '--coordinator needs --num_processes and --process_',
        ),
        (
            'a:1',
            2,
            None,
            '--coordinator and --num_processes needs --process_id',
        ),
        ('', 2, 0, '--num_processes and --process_id needs --coordinator'),
        ('', None, 1, '--process_id needs --coordinator and --num_processes'),
        ('a:1', 2, 2, r'--process_id is 2, but must lie in 0 \.\. 1'),
        ('a:1', 2, -1, r'--process_id is -1, but must lie in 0 \.\. 1'),
        ('', 0, None, '--num_processes is 0, but must be at least 1'),
        ('a', 2, 0, "--coordinator is 'a', but must be HOST:PORT"),
        (':1', 2, 0, "--coordinator is ':1'"),
        ('a:b', 2, 0, "--coordinator is 'a:b'"),
        ('a:70000', 2, 0, "--coordinator is 'a:70000'"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(
    coordinator, num_processes, process_id, said
):
  with pytest.raises(ValueError, match=said):
    processes.cluster(coordinator, num_processes, process_id, environ={})


def test_one_process_is_one_unless_flags_or_a_slurm_step_say_otherwise():
  batch = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_PROCID': '0'}
  for environ in ({}, batch, batch | {'SLURM_STEP_NUM_TASKS': '1'}):
    assert processes.cluster('', None, None, environ=environ) is None
  step = batch | {'SLURM_STEP_NUM_TASKS': '2'}
  found = processes.cluster('', None, None, environ=step)
  assert found == processes.Cluster(None, None, None)
  assert processes.cluster('', 1, None, environ={}) is None
  assert processes.cluster('', 3, None, environ={}).local
  assert processes.cluster('a:80', 3, 1, environ={}) == ('a:80', 3, 1, False)


def supervised(asked, program, capfd):
  """Returns the status and the last words of a parent of such children."""
  before = """
import json, os, signal, sys, time
part = json.loads(os.environ['TASKVEC_JAX_CHILD'])
index = part['process_id']
def tell(**facts):
  os.write(part['facts'], (json.dumps(facts) + '\\n').encode())
"""
  command = [sys.executable, '-c', before + program]
  previous = signal.getsignal(signal.SIGTERM)
  try:
    status = processes.supervise(asked, command)
  finally:
    signal.signal(signal.SIGTERM, previous)
  return status, capfd.readouterr().err.splitlines()


_JOINED = "tell(index=index, hosts=['ant', 'bee'])\ntell(workdir='w')\n"


def test_a_killed_child_is_named_and_the_others_are_ended(capfd):
  start = time.monotonic()
  status, lines = supervised(
      processes.Cluster(None, 2, None, True),
      _JOINED + 'if index: os.kill(os.getpid(), 9)\ntime.sleep(50)',
      capfd,
  )
  assert status == 1
  assert lines == [
      'taskvec_jax: process 1 of 2 (host bee) was killed by signal 9; start the'
      ' same command, with --workdir=w, to go on'
  ]
  assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ('index', 'words', 'dead', 'ended'),
    [
        (
            0,
            'UNAVAILABLE: The following tasks are unhealthy (stopped sending'
            ' heartbeats):\\n1\\nThe tasks have crashed.\\n',
            'process 1 of 2 (host bee)',
            'process 0 of 2 (host ant)',
        ),
        (
            1,
            'Either the leader task was preempted/died/restarted\\n',
            'process 0 of 2 (host ant)',
            'process 1 of 2 (host bee)',
        ),
    ],
)
def test_a_peer_that_died_on_another_host_is_named(
    capfd, index, words, dead, ended
):
  status, lines = supervised(
      processes.Cluster('ant:1', 2, index),
      f"{_JOINED}sys.stderr.write('{words}')\nsys.stderr.flush()\nos.abort()",
      capfd,
  )
  assert status == 1
  assert lines[-1] == (
      f'taskvec_jax: {dead} died (no sign of life for 20 s), and {ended} was'
      ' ended; start the same command on every host, with --workdir=w, to go on'
  )


def test_a_child_that_has_said_why_is_not_talked_over(capfd):
  program = "sys.exit(sys.stderr.write('taskvec_jax: no\\n') and 2)"
  asked = processes.Cluster('ant:1', 2, 0)
  assert supervised(asked, program, capfd) == (2, ['taskvec_jax: no'])


def test_a_run_that_not_all_join_says_where_they_were_awaited(capfd):
  status, lines = supervised(
      processes.Cluster('ant:1', 3, 0), 'os.abort()', capfd
  )
  assert status == 1
  assert (
      'process 0 was killed by signal 6 before it had joined the other 2 of 3'
      ' at ant:1, which it awaits for 300 s'
  ) in lines[-1]


def command(folder, *arguments):
  return [
      sys.executable,
      '-m',
      'taskvec_jax.main',
      f'--config={_CONFIG}:shortest',
      f'--workdir={folder}',
      *arguments,
  ]


def environment(cache, num_devices):
  return {
      **{k: v for k, v in os.environ.items() if not k.startswith('SLURM')},
      'TASKVEC_JAX_CACHE': str(cache),
      'PYTHONPATH': str(_ROOT),
      # What costs most here is compiling, and threads that wait for work; the
      # numbers need no fast code.
      'OMP_NUM_THREADS': '1',
      'OPENBLAS_NUM_THREADS': '1',
      'XLA_FLAGS': (
          f'--xla_force_host_platform_device_count={num_devices}'
          ' --xla_backend_optimization_level=0'
          ' --xla_cpu_multi_thread_eigen=false'
      ),
  }


def start(folder, cache, *arguments, num_devices):
  return subprocess.Popen(
      command(folder, *arguments),
      env=environment(cache, num_devices),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )


def child_of(process):
  """Returns the process that a parent watches."""
  path = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  (child,) = path.read_text().split()
  return int(child)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Compiled programs of this file's runs."""
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def one(cache, tmp_path_factory):
  """The run of one process of one device."""
  folder = tmp_path_factory.mktemp('one')
  with start(folder, cache, num_devices=1) as process:
    _, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  return folder


def test_killed_processes_are_named_and_the_resumed_run_finds_what_one_finds(
    one, cache, tmp_path
):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  parents = [
      start(
          tmp_path,
          cache,
          f'--coordinator=127.0.0.1:{port}',
          '--num_processes=2',
          f'--process_id={i}',
          num_devices=2,
      )
      for i in range(2)
  ]
  middle = tmp_path / 'checkpoints/seed0/exact/digits/000001.sha256'
  while not middle.exists():
    assert parents[0].poll() is parents[1].poll() is None
    time.sleep(0.01)
  os.kill(child_of(parents[1]), signal.SIGKILL)
  begin = time.monotonic()
  said = [parent.communicate(timeout=60)[1] for parent in parents]
  assert time.monotonic() - begin < 60
  assert [parent.returncode for parent in parents] == [1, 1], said
  host = socket.gethostname()[:64]
  again = f'with --workdir={tmp_path}, to go on'
  assert f'process 1 of 2 (host {host}) died' in said[0].splitlines()[-1]
  assert said[0].rstrip().endswith(again)
  assert said[1].splitlines()[-1] == (
      f'taskvec_jax: process 1 of 2 (host {host}) was killed by signal 9; start'
      f' the same command on every host, {again}'
  )
  with start(tmp_path, cache, '--num_processes=2', num_devices=2) as process:
    output, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors
  assert output.count('The page with the results') == 1
  assert_the_same(tmp_path, one)


def assert_the_same(folder, other):
  names = [
      sorted(
          str(path.relative_to(run))
          for path in run.rglob('*')
          if path.is_file() and 'checkpoints' not in path.parts
      )
      for run in (folder, other)
  ]
  assert names[0] == names[1]  # one set of files
  environments = [
      json.loads((run / 'environment.json').read_text())
      for run in (folder, other)
  ]
  assert [one['processes'] for one in environments] == [2, 1]
  assert [len(one['devices']) for one in environments] == [4, 1]
  ours, theirs = (
      results_lib.read(run / 'results.json') for run in (folder, other)
  )
  for field in ('finetuning', 'accuracies', 'equality', 'ladders'):
    assert len(getattr(ours, field)) == len(getattr(theirs, field)) > 0
  assert ours.setting.tasks[0].num_head_examples > 0
  for a, b in zip(ours.setting.tasks, theirs.setting.tasks, strict=True):
    assert a.num_train == b.num_train
    assert a.lambda_max == pytest.approx(b.lambda_max, rel=1e-5)
  for a, b in zip(ours.equality, theirs.equality, strict=True):
    assert a.step_norm == pytest.approx(b.step_norm, rel=1e-5)
    assert a.largest_ulps <= 4
  for field in ('gap_share', 'correction_share', 'response_share', 'indicator'):
    np.testing.assert_allclose(
        getattr(ours.response_map, field),
        getattr(theirs.response_map, field),
        rtol=1e-5,
    )
  (a,), (b,) = ours.ladders, theirs.ladders
  assert [rung.name for rung in a.rungs] == [rung.name for rung in b.rungs]
  for mine, its in zip(a.rungs, b.rungs, strict=True):
    assert mine.value == pytest.approx(its.value, rel=1e-5)
  for mine, its in zip(a.certificates, b.certificates, strict=True):
    assert mine.value == pytest.approx(its.value, rel=1e-5)
  for a, b in zip(ours.finetuning, theirs.finetuning, strict=True):
    for field in ('losses', 'validation_losses', 'update_norms', 'tau_norms'):
      np.testing.assert_allclose(
          getattr(a, field), getattr(b, field), rtol=1e-5
      )
  for a, b in zip(ours.accuracies, theirs.accuracies, strict=True):
    assert (a.model, a.epochs) == (b.model, b.epochs)
    if a.alpha_rule == 'validation' and a.alpha != b.alpha:
      continue  # two coefficients within an image of each other
    for task, share in a.accuracy.items():
      assert abs(share - b.accuracy[task]) * 50 <= 2 + 1e-6
  for regime in ('exact', 'empirical'):
    for task in ('digits', 'faces', regimes.MULTITASK):
      a, b = (
          checkpoints.restore_latest(
              run / 'checkpoints' / 'seed0' / regime / task
          ).tree
          for run in (folder, other)
      )
      difference = jax.tree.map(lambda x, y: x - y, a, b)
      assert problems.norm(difference) < 1e-5 * problems.norm(b)
