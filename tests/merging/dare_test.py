import jax
import numpy as np
import pytest

from taskvec_jax.merging import dare
from taskvec_jax.merging import draws
from taskvec_jax.merging import ties
from tests.merging import cases


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_each_coordinate_is_dropped_or_rescaled(num_tasks, kind):
  vectors = cases.task_vectors(num_tasks, kind)
  dropped = dare.dropped(vectors, drop_rate=0.4, seed=3)
  rows, kept_rows = cases.flats(vectors), cases.flats(dropped)
  for row, kept_row in zip(rows, kept_rows, strict=True):
    for before, after in zip(row, kept_row, strict=True):
      assert after == 0 or after == pytest.approx(before / 0.6, rel=1e-12)
  merged = dare.dare(vectors, drop_rate=0.4, seed=3)
  cases.assert_close(merged, [sum(column) for column in kept_rows.T])


def test_dropping_is_unbiased_with_the_stated_variance():
  # 2,000 tasks with one task vector: as many independent draws of it.
  vector = {'x': np.linspace(-2.0, 3.0, 15)}
  num_draws, drop_rate = 2000, 0.9
  dropped = dare.dropped(
      {str(index): vector for index in range(num_draws)}, drop_rate=drop_rate
  )
  rows = cases.flats(dropped)
  variance = vector['x'] ** 2 * drop_rate / (1 - drop_rate)
  error = np.sqrt(variance / num_draws)
  assert np.all(np.abs(rows.mean(axis=0) - vector['x']) <= 4.5 * error)
  # The relative deviation of a variance of two values, from its kurtosis.
  spread = np.sqrt((1 / (drop_rate * (1 - drop_rate)) - 4) / num_draws)
  np.testing.assert_allclose(rows.var(axis=0), variance, rtol=4.5 * spread)
  # Coordinates are independent of each other.
  correlation = np.corrcoef((rows != 0).astype(float).T)
  off_diagonal = correlation[np.triu_indices(15, 1)]
  assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(num_draws)


def test_a_seed_gives_the_same_bits_whatever_the_order_of_the_tasks():
  vectors = cases.task_vectors(8)
  turned = dict(reversed(vectors.items()))
  alone = {'task 3': vectors['task 3']}
  first, second, third = (
      dare.dropped(each, drop_rate=0.5, seed=7)['task 3']
      for each in (vectors, turned, alone)
  )
  np.testing.assert_array_equal(cases.flat(first), cases.flat(second))
  np.testing.assert_array_equal(cases.flat(first), cases.flat(third))
  other = dare.dropped(alone, drop_rate=0.5, seed=8)['task 3']
  assert np.any(cases.flat(first) != cases.flat(other))


def test_tasks_and_leaves_draw_for_themselves():
  values = np.ones(64)
  vectors = {'a': {'x': values, 'y': values}, 'b': {'x': values, 'y': values}}
  dropped = dare.dropped(vectors, drop_rate=0.5)
  patterns = {
      leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(dropped))
  }
  assert len(patterns) == 4


def test_any_slice_of_a_tensor_draws_its_own_part_of_the_whole():
  numbers = {'drop_rate': 0.5, 'seed': 1, 'task': 'a', 'leaf': 'x'}
  whole = dare.drop(np.arange(1.0, 102.0).reshape(1, 101), **numbers)
  for start, stop in [(0, 101), (0, 8), (3, 4), (5, 29), (8, 9), (77, 101)]:
    part = dare.drop(np.arange(start + 1.0, stop + 1.0), start=start, **numbers)
    np.testing.assert_array_equal(part, whole[0, start:stop])


def test_the_bits_are_the_ones_that_recipes_on_disk_rely_on():
  bits = draws.bits(0, 'dare', 'task', 'leaf', start=6, stop=10)
  assert bits.dtype == np.uint32
  assert bits.tolist() == [1983433507, 3340120721, 233464442, 325600699]
  assert draws.bits(0, 'dare', start=4, stop=4).shape == (0,)


def test_a_drop_rate_of_one_gives_zeros_and_of_zero_changes_nothing():
  vectors = cases.task_vectors(2)
  assert not np.any(cases.flat(dare.dare(vectors, drop_rate=1.0)))
  assert not np.any(cases.flat(dare.dare_ties(vectors, drop_rate=1)))
  cases.assert_close(
      dare.dare(vectors, drop_rate=0.0), cases.flats(vectors).sum(axis=0)
  )


def test_without_rescaling_what_is_kept_is_unchanged():
  vectors = cases.task_vectors(2)
  rows = cases.flats(vectors)
  kept = cases.flats(dare.dropped(vectors, drop_rate=0.5, rescale=False))
  assert np.all((kept == 0) | (kept == rows))
  assert 0 < np.sum(kept == 0) < kept.size


def test_dare_then_ties_is_ties_of_what_dare_leaves():
  vectors = cases.task_vectors(8)
  numbers = {'density': 0.3, 'merge': 'dis-sum', 'tie_break': 'majority'}
  dropped = dare.dropped(vectors, drop_rate=0.5, seed=2)
  merged = dare.dare_ties(vectors, drop_rate=0.5, seed=2, **numbers)
  np.testing.assert_array_equal(
      cases.flat(merged), cases.flat(ties.ties(dropped, **numbers))
  )


def test_float32_slices_stay_float32():
  values = np.ones(9, np.float32)
  dropped = dare.drop(values, drop_rate=0.5, seed=0, task='a', leaf='x')
  assert dropped.dtype == np.float32


@pytest.mark.parametrize('drop_rate', [-0.1, 1.5, float('nan')])
def test_a_drop_rate_outside_0_to_1_is_refused(drop_rate):
  with pytest.raises(ValueError, match='drop_rate must lie between 0 and 1'):
    dare.dare(cases.task_vectors(2), drop_rate=drop_rate)


def test_a_seed_is_an_integer():
  with pytest.raises(ValueError, match='seed must be an integer but is 0.5'):
    dare.dare(cases.task_vectors(2), seed=0.5)
