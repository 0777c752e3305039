"""Alternating tuning and merging at one budget, end to end, by identities."""

import dataclasses
import json

import numpy as np
import pytest

from taskvec_jax.experiments import atm
from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import atm_rounds
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.report import atm_findings
from taskvec_jax.report import atm_page
from taskvec_jax.report import atm_results
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts
from tests.experiments import tiny_atm

_IMAGES = 80  # two tasks of 40
_VALIDATION = 32  # 20 digits, 12 faces


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, atm.run(tiny_atm.config(), folder, command='make it')


def curve(results, method, num_rounds, seed=0):
  (found,) = (
      one
      for one in results.curves
      if (one.method, one.num_rounds, one.seed) == (method, num_rounds, seed)
  )
  return found


def test_every_training_counts_its_images_and_what_it_sends(finished):
  _, results = finished
  for rounds in (4, 2, 1):
    found = curve(results, 'pa', rounds)
    each = 4 // rounds * _IMAGES
    assert found.images == [each * (k + 1) for k in range(rounds)]
    assert found.copies == [4 * (k + 1) for k in range(rounds)]
    assert found.images[-1] == results.budget * _IMAGES
  # 80 images a round are 4 steps of a batch of 10 for each of two tasks.
  joint = curve(results, 'joint', 4)
  assert joint.images == curve(results, 'pa', 4).images
  assert joint.copies == [16, 32, 48, 64]
  # What post-hoc rounds start from has cost the budget and one merge.
  ph = curve(results, 'ph', 2)
  assert ph.images == [320 + _VALIDATION, 320 + 2 * _VALIDATION]
  assert ph.copies == [8, 12]
  # At most: a batch of 10 for each of two tasks fits into 32 images once.
  assert curve(results, 'ph-joint', 2).images == [340, 360]
  assert curve(results, 'descent', 4).learning_rate == 0.1


def test_single_epoch_full_batch_rounds_are_multitask_descent(finished):
  _, results = finished
  single, double = results.identity
  assert (single.dtype, double.dtype) == ('float32', 'float64')
  for one in (single, double):
    assert len(one.gap_norms) == 2
    assert all(ulps < 1 for ulps in one.gap_ulps)
    assert one.path_norms[0] > 1e-3  # it moved, so that equality says something
  # Rounding shrinks with the rounding unit, a difference of methods does not.
  assert double.gap_norms[-1] < 1e-12 * double.path_norms[-1]


def test_with_tasks_of_equal_size_fedavg_is_the_mean(finished):
  _, results = finished
  ours, theirs = (curve(results, m, 4) for m in ('pa', 'fedavg'))
  np.testing.assert_allclose(
      ours.merged_lengths, theirs.merged_lengths, rtol=1e-4
  )
  for a, b in zip(ours.accuracy, theirs.accuracy, strict=True):
    for task in a:  # an image on the boundary may fall either way
      assert abs(a[task] - b[task]) * 50 < 1.5


def test_every_pass_of_joint_training_reads_every_image_once():
  places = np.arange(21).reshape(3, 7)
  found = atm_rounds.in_passes(7, places, seed=3)
  assert [sorted(row) for row in found] == [list(range(7))] * 3
  assert len({tuple(row) for row in found}) > 1  # each in its own order
  again = atm_rounds.in_passes(7, places[1:], seed=3)
  np.testing.assert_array_equal(again, found[1:])  # whatever came before


def test_parts_that_are_there_are_not_computed_again(finished, monkeypatch):
  folder, results = finished
  monkeypatch.setattr(atm_page, 'write_page', lambda *_: None)
  kept = (folder / 'parts' / 'joint-0-4x1.json').stat().st_mtime_ns
  for part in ('pa-0-2x2', 'ph-0-2x1'):
    (folder / 'parts' / f'{part}.json').unlink()
  (folder / 'results.json').unlink()
  again = atm.run(tiny_atm.config(), folder, command='make it')
  assert dataclasses.replace(again, seconds=results.seconds) == results
  assert (folder / 'parts' / 'joint-0-4x1.json').stat().st_mtime_ns == kept
  assert results_lib.read(folder / 'results.json', type(again)) == again


def test_the_page_and_the_table_say_what_was_measured(finished):
  folder, results = finished
  page = (folder / 'report.html').read_text()
  assert 'federated averaging with the same weight' in page
  assert page.count('data:image/png') == 4
  table = atm.summary(results)
  assert 'a round is a multitask step' in table
  assert table.isascii()
  assert max(map(len, table.splitlines())) <= 96
  stored = json.loads((folder / 'results.json').read_text())
  assert {one['method'] for one in stored['curves']} == set(atm_results.METHODS)


@pytest.mark.parametrize(
    ('gains', 'verdict'),
    [
        ((0.05, 0.06, 0.07), verdicts.HOLDS),
        ((-0.05, -0.06, -0.07), verdicts.DOES_NOT_HOLD),
        ((-0.05, 0.0, 0.06), verdicts.UNDECIDED),
        ((0.05,), verdicts.UNDECIDED),
    ],
)
def test_a_difference_is_decided_by_its_interval_over_seeds(
    finished, gains, verdict
):
  _, results = finished
  curves = [
      atm_results.Curve(
          seed=seed,
          method=method,
          num_rounds=2,
          num_epochs=2,
          learning_rate=None,
          images=[1, 2],
          copies=[1, 2],
          # Only the end counts.
          accuracy=[{'digits': 0.0}, {'digits': accuracy}],
          merged_lengths=[],
      )
      for seed, gain in enumerate(gains)
      for method, accuracy in (
          ('pa', 0.5 + 0.1 * seed + gain),
          ('joint', 0.5 + 0.1 * seed),
      )
  ]
  found = atm_findings.claims(dataclasses.replace(results, curves=curves))
  (ours,) = (one for one in found if one.where.endswith('as many images'))
  assert ours.verdict == verdict
  (other,) = (one for one in found if one.where.endswith('as little sent'))
  assert other.verdict == verdicts.NOT_MEASURED


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'splits': ('4x1', '2x3')}, r'one budget.*4x1 of 4, 2x3 of 6'),
        ({'splits': ('4*1',)}, r"ROUNDSxEPOCHS.*has '4\*1'"),
        ({'splits': ('0x4',)}, "has '0x4'"),
        ({'splits': ()}, 'one ROUNDSxEPOCHS at least'),
        ({'splits': ('1x4', '4x1')}, 'many rounds to few'),
        ({'splits': ('4x1', '2x2')}, "must end with one round.*add '1x4'"),
        ({'scaling': 0.0}, r'scaling must be positive .* is 0\.0'),
        ({'ties_density': 1.5}, r'in \[0, 1\], but is 1\.5'),
        ({'posthoc_rounds': -1}, 'posthoc_rounds must be at least 0 but is -1'),
        ({'descent_rates': (0.1, -1.0)}, r'must be positive .* -1\.0\)'),
        ({'num_epochs': 3}, r'num_epochs is 3, but has no effect.*at 20'),
        (
            {'empirical': config_lib.Empirical(task_epochs=('digits=30',))},
            'task_epochs must be empty',
        ),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(changes, said):
  with pytest.raises(ValueError, match=said):
    atm_config.check(tiny_atm.config(**changes))
