import dataclasses

import numpy as np
import pytest
from scipy import stats

from taskvec_jax.report import accuracy
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts


def _entry(model, seed, value, *, epochs=None, rule='', regime='exact'):
  return results_lib.Accuracy(
      seed=seed,
      regime='' if model == 'base' else regime,
      model=model,
      epochs=epochs,
      converged=epochs is None and model != 'base',
      alpha_rule=rule,
      alpha=0.5 if rule else None,
      accuracy={'a': value - 0.1, 'b': value + 0.1},
  )


def _run(results, first, converged, *, base=0.5, finetuned=0.8):
  """A run with one pair of merged accuracies a seed."""
  entries = []
  for seed, (one, last) in enumerate(zip(first, converged, strict=True)):
    entries += [
        _entry('base', seed, base),
        _entry('finetuned', seed, finetuned),
        _entry('merged', seed, one, epochs=1, rule='1/T'),
        _entry('merged', seed, last, rule='1/T'),
    ]
  return dataclasses.replace(results, accuracies=entries)


def test_the_interval_is_the_t_interval_of_scipy():
  values = [0.71, 0.74, 0.69, 0.72]
  found = accuracy.spread(values)
  low, high = stats.t.interval(
      0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
  )
  assert found.mean == pytest.approx(np.mean(values), abs=1e-14)
  assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-12)
  assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_one_seed_has_a_mean_and_no_spread():
  assert accuracy.spread([0.7]) == accuracy.Spread(0.7, 1, None, None, None)


def test_equal_seeds_have_an_interval_of_length_zero():
  found = accuracy.spread([0.5, 0.5, 0.5])
  assert (found.std, found.low, found.high) == (0.0, 0.5, 0.5)


def test_a_mean_over_no_seed_is_refused():
  with pytest.raises(ValueError, match='0 seeds'):
    accuracy.spread([])


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (-0.009, 0.02, verdicts.HOLDS),
        (-0.03, -0.011, verdicts.DOES_NOT_HOLD),
        (-0.03, 0.01, verdicts.UNDECIDED),
        (-0.01, 0.01, verdicts.UNDECIDED),  # the end itself is not above
        (-0.03, -0.01, verdicts.UNDECIDED),
        (0.02, 0.04, verdicts.HOLDS),  # better counts as as good
        (None, None, verdicts.UNDECIDED),  # one seed
    ],
)
def test_the_verdict_follows_the_whole_interval(low, high, expected):
  difference = accuracy.Spread(0.0, 3, 0.01, low, high)
  room = accuracy.spread([0.2])
  assert accuracy.verdict(difference, room) == expected


@pytest.mark.parametrize('gain', [0.0999, -0.2, float('nan')])
def test_the_verdict_says_nothing_without_ten_points_of_room(gain):
  difference = accuracy.Spread(0.0, 3, 0.001, -0.002, 0.002)
  assert (
      accuracy.verdict(difference, accuracy.spread([gain]))
      == verdicts.SAYS_NOTHING
  )


def test_the_comparison_pairs_the_seeds(results):
  # Seeds differ by 10 points, the two models of each seed by half a point.
  first = [0.605, 0.705, 0.806]
  found = accuracy.comparisons(_run(results, first, [0.6, 0.7, 0.8]))
  assert len(found) == 1
  expected = accuracy.spread([0.005, 0.005, 0.006])
  assert found[0].difference == pytest.approx(expected, abs=1e-12)
  assert found[0].verdict == verdicts.HOLDS


def test_a_seed_without_its_partner_is_not_compared(results):
  run = _run(results, [0.6, 0.7], [0.6, 0.7])
  run.accuracies = [
      one
      for one in run.accuracies
      if not (one.seed == 1 and one.model == 'merged' and one.converged)
  ]
  assert accuracy.comparisons(run)[0].difference.num_seeds == 1


def test_a_share_divides_the_gain_by_the_gain_of_finetuning(results):
  run = _run(results, [0.6], [0.7], base=0.5, finetuned=0.75)
  shares = {(row.model, row.converged): row.share for row in accuracy.rows(run)}
  assert shares['merged', False].mean == pytest.approx(0.4)
  assert shares['merged', True].mean == pytest.approx(0.8)
  assert shares['finetuned', True].mean == pytest.approx(1.0)


@pytest.mark.parametrize('finetuned', [0.505, 0.5, 0.4])
def test_there_is_no_share_where_finetuning_gains_nothing(results, finetuned):
  rows = accuracy.rows(_run(results, [0.6], [0.7], finetuned=finetuned))
  merged = [row for row in rows if row.model == 'merged']
  assert [row.share for row in merged] == [None, None]
  assert merged[0].task_shares == {'a': None, 'b': None}


def test_rows_put_the_base_first_and_epochs_in_order(results):
  rows = accuracy.rows(results)
  assert rows[0].model == 'base'
  merged = [
      (row.epochs, row.converged)
      for row in rows
      if (row.model, row.regime, row.alpha_rule) == ('merged', 'exact', '1/T')
  ]
  assert merged == [
      (1, False),
      (2, False),
      (3, False),
      (5, False),
      (None, True),
  ]


def test_the_order_of_the_entries_does_not_matter(results):
  shuffled = dataclasses.replace(
      results, accuracies=list(reversed(results.accuracies))
  )
  for row, other in zip(
      accuracy.rows(results), accuracy.rows(shuffled), strict=True
  ):
    assert row.accuracy == pytest.approx(other.accuracy)


def test_the_binomial_error_is_that_of_a_share_of_images():
  assert accuracy.binomial_error(0.9, 40) == pytest.approx(0.0474342, rel=1e-5)
  assert accuracy.binomial_error(1.0, 40) == 0.0
