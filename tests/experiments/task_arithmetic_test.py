"""The main job end to end: what it finds, leaves behind and goes on from."""

import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from taskvec_jax import checkpoints
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import task_arithmetic
from taskvec_jax.report import results as results_lib
from tests.experiments import agreement
from tests.experiments import tiny

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parents[1]


@pytest.fixture(scope='module')
def finished(cache, tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  results = task_arithmetic.run(tiny.config(), folder, command='make it')
  return folder, results


def plain(folder):
  """Returns results.json without the times, which differ from run to run."""
  found = json.loads((folder / 'results.json').read_text())
  del found['seconds']
  found['setting'].pop('command')
  return found


def test_the_run_leaves_everything_a_reader_needs(finished):
  folder, _ = finished
  names = {path.name for path in folder.iterdir()}
  assert names >= {
      'results.json',
      'metrics.jsonl',
      'config.json',
      'environment.json',
      'checkpoints',
      'figures',
      'report.html',
  }
  assert list((folder / 'figures').glob('*.png'))
  environment = json.loads((folder / 'environment.json').read_text())
  assert environment['packages']['jax'] and environment['devices']
  assert not list(folder.rglob('*.tmp'))


def test_the_results_on_disk_are_those_that_were_returned(finished):
  folder, results = finished
  assert results_lib.read(folder / 'results.json') == results


def test_one_epoch_is_multitask_training_to_rounding(finished):
  _, results = finished
  assert {entry.dtype for entry in results.equality} == {'float32', 'float64'}
  assert {entry.seed for entry in results.equality} == {0, 1}
  for entry in results.equality:
    assert entry.largest_ulps <= 4
    assert entry.step_norm > 1e-3  # it moved, so that equality says something


def test_the_slopes_are_two_and_three(finished):
  _, results = finished
  assert {entry.batches for entry in results.rates} == {
      'full batch',
      'mini-batches',
  }
  for entry in results.rates:
    assert entry.gap_slope == pytest.approx(2, abs=0.05)
    assert entry.correction_slope == pytest.approx(3, abs=0.07)
    assert entry.response_slope == pytest.approx(3, abs=0.07)


def test_the_response_map_has_every_step_and_epoch(finished):
  _, results = finished
  found = results.response_map
  assert found.epochs == [2, 3]
  assert len(found.learning_rates) == 2
  for field in ('gap_share', 'left_by_response', 'indicator'):
    assert np.shape(getattr(found, field)) == (2, 2)
  # Delta_2 = eta^2 C_2, so both leave the same of the gap at k = 2.
  for second, linear in zip(
      found.left_by_correction, found.left_by_response, strict=True
  ):
    assert second[0] == pytest.approx(linear[0], rel=1e-6)


def test_the_ladder_is_in_order_and_the_certificates_hold(finished):
  _, results = finished
  (found,) = results.ladders
  values = {rung.name: rung.value for rung in found.rungs}
  assert values['R0'] >= values['R1'] >= values['R2'] >= values['R3']
  assert values['R1'] >= values['R2K'] >= values['R3']
  assert values['R3'] >= values['R3t'] * (1 - 1e-5)
  assert values['R3t'] >= values['R4'] * (1 - 1e-5)
  for certificate in found.certificates:
    assert certificate.value >= certificate.gap


def test_the_first_full_batch_epoch_is_the_gradient_and_shares_add_up(finished):
  _, results = finished
  assert len(results.finetuning) == 2 * 2 * 3  # seeds, regimes, two tasks + all
  for run in results.finetuning:
    assert sum(run.path_shares) == pytest.approx(1, abs=1e-6)
    assert run.cos_tau_last[-1] == pytest.approx(1, abs=1e-5)
    assert run.snapshot_epochs[-1] == run.converged_epoch
    best = int(np.argmin(run.validation_losses)) + 1
    assert run.converged_epoch == best
    if run.regime == 'exact':
      assert run.cos_gradient == pytest.approx(1, abs=1e-5)


def test_accuracies_are_shares_of_the_test_images_for_every_model(finished):
  _, results = finished
  rows = results.accuracies
  for seed in (0, 1):
    for regime in ('exact', 'empirical'):
      found = {
          (row.model, row.epochs, row.alpha_rule)
          for row in rows
          if row.seed == seed and row.regime == regime
      }
      assert found == {
          (model, epoch, rule)
          for epoch in (1, 3, None)
          for model, rule in (
              ('finetuned', ''),
              ('multitask', ''),
              ('merged', '1/T'),
              ('merged', 'validation'),
          )
      }
  for row in rows:
    for share in row.accuracy.values():
      assert share * 50 == pytest.approx(round(share * 50), abs=1e-4)


def test_metrics_have_one_line_an_epoch_and_task(finished):
  folder, results = finished
  lines = [
      json.loads(line)
      for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]
  keys = [(x['seed'], x['regime'], x['task'], x['epoch']) for x in lines]
  assert len(keys) == len(set(keys))
  assert len(keys) == sum(len(run.losses) for run in results.finetuning)


def test_a_finished_run_is_read_back_and_not_repeated(finished):
  folder, results = finished
  before = (folder / 'metrics.jsonl').read_text()
  start = time.monotonic()
  again = task_arithmetic.run(tiny.config(), folder, command='make it')
  assert again == results
  assert (folder / 'metrics.jsonl').read_text() == before
  assert time.monotonic() - start < 60


def test_another_config_is_refused_and_the_field_is_named(finished):
  folder, _ = finished
  with pytest.raises(ValueError, match=r'config\.num_epochs = 3.*has 2'):
    task_arithmetic.run(tiny.config(num_epochs=2), folder, command='')
  changed = tiny.config()
  changed.empirical.batch_size = 9
  with pytest.raises(
      ValueError, match=r'config\.empirical\.batch_size = 10.*has 9'
  ):
    task_arithmetic.run(changed, folder, command='')


def command(folder, *arguments):
  return [
      sys.executable,
      '-m',
      'taskvec_jax.main',
      f'--config={_HERE / "tiny.py"}:one_seed',
      f'--workdir={folder}',
      *arguments,
  ]


def environment(cache, num_devices=1):
  return {
      **os.environ,
      'TASKVEC_JAX_CACHE': str(cache),
      'PYTHONPATH': str(_ROOT),
      # What costs most here is compiling; the numbers need no fast code.
      'XLA_FLAGS': (
          f'--xla_force_host_platform_device_count={num_devices}'
          ' --xla_backend_optimization_level=0'
      ),
  }


@pytest.fixture(scope='module')
def one_device(cache, tmp_path_factory):
  """A run of the real driver, one seed, on one device."""
  folder = tmp_path_factory.mktemp('one')
  done = subprocess.run(
      command(folder),
      env=environment(cache),
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder, done


def test_the_driver_says_what_was_measured_and_where_the_page_is(one_device):
  folder, done = one_device
  assert 'one epoch is exact' in done.stdout
  assert done.stdout.rstrip().endswith(f'{folder}/report.html')
  assert 'it/s' not in done.stderr  # no progress bars without a terminal


def test_a_run_killed_again_and_again_ends_with_the_same_results(
    one_device, cache, tmp_path
):
  whole, _ = one_device
  folder = tmp_path / 'killed'
  watched = (
      ('checkpoints/seed0/exact/digits/000002', 'the middle of a run'),
      ('checkpoints/seed0/empirical/faces/000001', 'another regime'),
      ('parts/rates-full_batch.json', 'a finished part'),
  )
  for name, _ in watched:
    with subprocess.Popen(
        command(folder),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
      while process.poll() is None and not (folder / name).exists():
        time.sleep(0.005)
      process.send_signal(signal.SIGKILL)
  done = subprocess.run(
      command(folder), env=environment(cache), capture_output=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert plain(folder) == plain(whole)
  assert sorted((folder / 'metrics.jsonl').read_text().splitlines()) == sorted(
      (whole / 'metrics.jsonl').read_text().splitlines()
  )


def test_a_damaged_part_is_said_and_computed_again(finished, tmp_path, caplog):
  folder, results = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  part = copy / 'parts' / 'equality-0.json'
  part.write_text(part.read_text()[:40])
  again = task_arithmetic.run(tiny.config(), copy, command='')
  assert 'equality-0.json is damaged' in caplog.text
  assert again.equality == results.equality


def test_parameters_that_do_not_move_are_said(tmp_path):
  config = tiny.config(
      learning_rate=1e-30, regimes=('exact',), seeds=(0,), num_epochs=2
  )
  with pytest.raises(
      FloatingPointError,
      match='Task digits, seed 0, exact regime: no parameter moved in',
  ):
    task_arithmetic.run(config, tmp_path, command='')


def test_one_task_is_its_own_merge_and_has_no_gap(cache, tmp_path):
  config = tiny.config(tasks=('digits',), seeds=(0,), regimes=('exact',))
  found = task_arithmetic.run(config, tmp_path, command='')
  assert found.rates == found.ladders == []
  assert found.response_map.learning_rates == []
  assert any('there is no gap' in said for said in found.setting.left_out)
  for entry in found.equality:
    assert entry.largest_ulps <= 4
  own, multitask = (
      [entry.accuracy for entry in found.accuracies if entry.model == model]
      for model in ('finetuned', 'multitask')
  )
  assert own == multitask
  assert (tmp_path / 'report.html').exists()


def test_more_rates_than_training_images_are_refused_before_any_work(tmp_path):
  config = tiny.config(
      max_train=20,
      analysis=config_lib.Analysis(num_examples=4, rates_epochs=(2, 3, 5)),
  )
  with pytest.raises(ValueError, match=r"Task 'digits' has 4 .* \(2, 3, 5\)"):
    task_arithmetic.run(config, tmp_path / 'new', command='')
  assert not (tmp_path / 'new').exists()


def test_a_truncated_checkpoint_is_said_and_the_results_stay(
    finished, tmp_path, caplog
):
  folder, _ = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  run = copy / 'checkpoints' / 'seed1' / 'exact' / 'digits'
  newest = sorted(path for path in run.iterdir() if path.is_dir())[-1]
  largest = max(
      (p for p in newest.rglob('*') if p.is_file()),
      key=lambda p: p.stat().st_size,
  )
  largest.write_bytes(largest.read_bytes()[:100])
  for part in ('exact-1-digits', 'accuracy-exact-1'):
    (copy / 'parts' / f'{part}.json').unlink()
  with caplog.at_level(logging.WARNING):
    task_arithmetic.run(tiny.config(), copy, command='make it')
  assert 'going back to the one before' in caplog.text
  assert plain(copy) == plain(folder)


@pytest.fixture(scope='module')
def two_devices(cache, tmp_path_factory):
  """The run of one device, on two; rates and map are left out."""
  folder = tmp_path_factory.mktemp('two')
  done = subprocess.run(
      [
          *command(folder),
          '--config.analysis.rates_epochs=()',
          '--config.analysis.map_sharpness=()',
      ],
      env=environment(cache, 2),
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


# Two devices in each of two processes: tests/processes/run_test.py.
@pytest.mark.parametrize('num_devices', [2, 4])
def test_all_devices_of_this_process_find_what_one_finds(
    finished, one_device, two_devices, num_devices
):
  several = {2: two_devices, 4: finished[0]}[num_devices]
  folders = several, one_device[0]
  if jax.default_backend() == 'cpu':
    assert [
        len(json.loads((folder / 'environment.json').read_text())['devices'])
        for folder in folders
    ] == [num_devices, 1]
  ours, theirs = (results_lib.read(f / 'results.json') for f in folders)
  # The first of the two seeds is the one device's.
  ours.finetuning = [run for run in ours.finetuning if run.seed == 0]
  ours.accuracies = [row for row in ours.accuracies if row.seed == 0]
  for a, b in zip(ours.finetuning, theirs.finetuning, strict=True):
    for field in ('losses', 'validation_losses', 'update_norms'):
      np.testing.assert_allclose(
          getattr(a, field), getattr(b, field), rtol=1e-5
      )
  agreement.assert_accuracies_agree(ours.accuracies, theirs.accuracies)
  agreement.assert_parameters_agree(*folders)
  (a,), (b,) = ours.ladders, theirs.ladders
  assert a.rungs[-1].value == pytest.approx(b.rungs[-1].value, rel=1e-5)


def test_a_diverging_run_names_the_epoch_and_keeps_what_it_has(cache, tmp_path):
  config = tiny.config(learning_rate=1e30, seeds=(0,), regimes=('empirical',))
  with pytest.raises(FloatingPointError, match=r'multitask.*epoch 1.*1e\+30'):
    task_arithmetic.run(config, tmp_path, command='')
  assert (tmp_path / 'parts' / 'map-0.5.json').exists()


def test_a_step_that_overflows_where_the_loss_saturates_is_named(
    cache, tmp_path
):
  config = tiny.config(learning_rate=1e30, seeds=(0,))
  with pytest.raises(
      FloatingPointError,
      match='Task digits, seed 0, exact regime: the norm .* inf in epoch 1;',
  ):
    task_arithmetic.run(config, tmp_path, command='')


def test_a_finetuning_run_that_diverges_is_named(cache, tmp_path):
  # Without an activation nothing saturates, so the second step overflows.
  config = tiny.config(
      model=config_lib.FFNModel(
          widths=(12, 8), activation='identity', use_bias=False
      ),
      empirical=config_lib.Empirical(
          optimizer='sgd', learning_rate=1e30, batch_size=10, max_epochs=4
      ),
      seeds=(0,),
  )
  with pytest.raises(
      FloatingPointError,
      match='Task digits, seed 0, empirical regime: the loss became nan',
  ):
    task_arithmetic.run(config, tmp_path, command='')
  assert (tmp_path / 'parts' / 'exact-0-digits.json').exists()
  assert (tmp_path / 'metrics.jsonl').read_text()


def test_a_checkpoint_holds_the_parameters_of_the_merged_epochs(finished):
  folder, _ = finished
  stored = checkpoints.restore_latest(
      folder / 'checkpoints' / 'seed0' / 'exact' / 'digits'
  )
  assert set(stored.tree['snapshots']) == {'1', '3'}
  assert stored.tree['best']['layer_0']['kernel'].shape == (64, 12)
  assert config_lib.MULTITASK in {
      path.name for path in (folder / 'checkpoints/seed0/exact').iterdir()
  }
