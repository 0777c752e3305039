"""A run of two processes: the numbers of one, and a death that has a name."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from taskvec_jax.report import results as results_lib
from tests.experiments import agreement

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = _ROOT / 'tests' / 'experiments' / 'tiny.py'


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


def start_two(folder, cache):
  """Starts two hosts' commands; returns when a task has been trained on."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  parents = [
      start(
          folder,
          cache,
          f'--coordinator=127.0.0.1:{port}',
          '--num_processes=2',
          f'--process_id={i}',
          num_devices=2,
      )
      for i in range(2)
  ]
  middle = folder / 'checkpoints/seed0/exact/digits/000001.sha256'
  while not middle.exists():
    assert parents[0].poll() is parents[1].poll() is None
    time.sleep(0.01)
  return parents


def last_line(process):
  """Returns the last words of a command that ends with status 1 in time."""
  begin = time.monotonic()
  said = process.communicate(timeout=60)[1]
  assert process.returncode == 1, said
  assert time.monotonic() - begin < 60
  return said.splitlines()[-1]


def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(cache, tmp_path):
  with start(tmp_path, cache, '--num_processes=2', num_devices=1) as process:
    assert process.stdout.readline().startswith(f'Working in {tmp_path}')
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert 'Traceback' not in errors
  assert errors.splitlines()[-1] == (
      f'taskvec_jax: stopped; the same command with --workdir={tmp_path} goes'
      ' on from there'
  )


def test_a_host_that_falls_silent_is_named(cache, tmp_path):
  first, second = start_two(tmp_path, cache)
  lost = [second.pid, child_of(second)]
  for pid in lost:
    os.kill(pid, signal.SIGSTOP)
  try:
    host = socket.gethostname()[:64]
    assert last_line(first) == (
        f'taskvec_jax: process 1 of 2 (host {host}) died (no sign of life for'
        f' 20 s), and process 0 of 2 (host {host}) was ended; start the same'
        f' command on every host, with --workdir={tmp_path}, to go on'
    )
  finally:
    for pid in lost:
      os.kill(pid, signal.SIGKILL)
    second.communicate()


def test_killed_processes_are_named_and_the_resumed_run_finds_what_one_finds(
    one, cache, tmp_path
):
  first, second = start_two(tmp_path, cache)
  os.kill(child_of(second), signal.SIGKILL)
  host = socket.gethostname()[:64]
  again = (
      'start the same command on every host, with'
      f' --workdir={tmp_path}, to go on'
  )
  died = f'taskvec_jax: process 1 of 2 (host {host}) was killed by signal 9'
  assert last_line(second) == f'{died}; {again}'
  ended = f'process 0 of 2 (host {host}) was ended'
  assert last_line(first) == f'{died}, and {ended}; {again}'
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
  agreement.assert_accuracies_agree(ours.accuracies, theirs.accuracies)
  agreement.assert_parameters_agree(folder, other)
