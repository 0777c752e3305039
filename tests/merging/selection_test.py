import math

import numpy as np
import pytest

from taskvec_jax.merging import selection


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(selection, '_BLOCK', 4)


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
    assert len(started) == (1 if capacity == 1000 else 2)


def test_none_asked_for_needs_no_pass():
  passes, started = slices_of(np.ones((2, 5), np.float32))
  found = selection.kth_largest(
      passes, [0, 0], size=5, dtype=np.dtype(np.float32), capacity=0
  )
  assert (found == np.inf).all()
  assert not started


@pytest.mark.parametrize('share', [0.0, 0.5, 0.97])
def test_few_are_held_of_float64_whatever_its_values_are(monkeypatch, share):
  size, block = 40_000, 256
  monkeypatch.setattr(selection, '_BLOCK', block)
  rng = np.random.default_rng(0)
  # They share their first 40 bits, and one value is there again and again.
  vectors = 1e-3 + 1e-16 * rng.integers(0, 10**4, (2, size))
  vectors[rng.random((2, size)) < share] = 1e-3 + 5e-13
  num_held, kth_smallest = [], selection._kth_smallest

  def counted(held, *rest):
    num_held.append(len(held))
    return kth_smallest(held, *rest)

  monkeypatch.setattr(selection, '_kth_smallest', counted)
  for num in (1, 8000, 20_000, 39_999):
    passes, started = slices_of(vectors, size=700)
    found = selection.kth_largest(
        passes, [num, num], size=size, dtype=np.dtype(np.float64), capacity=400
    )
    np.testing.assert_array_equal(found, np.sort(vectors)[:, -num])
    assert len(started) == 2
  error = size * math.log2(size / block) / (2 * block)
  assert 0 < max(num_held) <= 3 * error
