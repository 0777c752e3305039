import numpy as np
import pytest

from taskvec_jax.merging import selection


def slices_of(vectors, size=7):
  """Returns `passes` over `vectors [V, n]`, and a list that counts them."""
  started = []

  def passes():
    started.append(True)
    for start in range(0, vectors.shape[1], size):
      yield [*vectors[:, start : start + size]]

  return passes, started


def magnitudes(name, dtype):
  rng = np.random.default_rng(0)
  found = {
      'normal': np.abs(rng.normal(size=(3, 50))),
      'many equal': rng.integers(0, 3, (3, 50)).astype(float),
      'all equal': np.full((3, 50), 0.7),
      'zeros': np.zeros((3, 50)),
      # They differ in their last bits only, and in all orders of magnitude.
      'close': 1 + np.finfo(dtype).eps * rng.integers(0, 9, (3, 50)),
      'wide': 10.0 ** rng.uniform(-42, 38, (3, 50)),
  }
  return found[name].astype(dtype)


@pytest.mark.parametrize('capacity', [0, 20, 1000])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize(
    'name', ['normal', 'many equal', 'all equal', 'zeros', 'close', 'wide']
)
def test_it_is_the_one_that_sorting_finds(name, dtype, capacity):
  vectors = magnitudes(name, dtype)
  for nums in ([1, 50, 17], [25, 0, 49]):
    passes, started = slices_of(vectors)
    found = selection.kth_largest(
        passes, nums, size=50, dtype=np.dtype(dtype), capacity=capacity
    )
    expected = [
        np.sort(row)[::-1][num - 1] if num else np.inf
        for row, num in zip(vectors, nums, strict=True)
    ]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    most = 1 if capacity == 1000 else 2 if dtype == 'float32' else 4
    assert len(started) <= most


def test_none_asked_for_needs_no_pass():
  passes, started = slices_of(np.ones((2, 5), np.float32))
  found = selection.kth_largest(
      passes, [0, 0], size=5, dtype=np.dtype(np.float32), capacity=0
  )
  assert (found == np.inf).all()
  assert not started


def test_float64_takes_two_passes_where_few_are_near_the_threshold():
  vectors = np.abs(np.random.default_rng(0).normal(size=(8, 4000)))
  passes, started = slices_of(vectors, size=1000)
  found = selection.kth_largest(
      passes, [800] * 8, size=4000, dtype=np.dtype(np.float64), capacity=400
  )
  np.testing.assert_array_equal(found, np.sort(vectors)[:, -800])
  assert len(started) == 2
