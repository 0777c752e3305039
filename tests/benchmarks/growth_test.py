import numpy as np
import pytest

from benchmarks import growth

TINY = growth.Sizes(
    num_examples=40, batch_size=10, num_tasks=2, num_epochs=2, width=8
)


def test_the_exponent_of_a_power_law_is_found_without_error():
  numbers = np.array([1.0, 2.0, 4.0, 8.0])
  found = growth.fit(numbers, 3.0 * numbers**1.5)
  assert found.exponent == pytest.approx(1.5)
  assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_the_standard_error_covers_the_noise():
  numbers = 2.0 ** np.arange(6)
  rng = np.random.default_rng(0)
  off = []
  for _ in range(2000):
    found = growth.fit(numbers, numbers * np.exp(rng.normal(0, 0.1, 6)))
    off.append((found.exponent - 1.0) / found.standard_error)
  # Student's t with four degrees of freedom: 95 % within 2.776.
  assert np.mean(np.abs(off) < 2.776) == pytest.approx(0.95, abs=0.01)


def test_resident_examples_are_held_and_streamed_ones_are_not():
  streamed = growth.measure('streamed gradient', TINY, num_turns=1)
  resident = growth.measure('gradient', TINY, num_turns=1)
  assert resident.num_parameters == 784 * 8 + 8 + 8 * 8 + 8
  assert 0 < resident.seconds.low <= resident.seconds.high
  # Forty images of bytes, with labels and masks.
  assert resident.held_bytes - streamed.held_bytes == 40 * (784 + 4 + 1)


def test_memory_that_grows_with_the_examples_fails():
  quartiles = growth.timing.Quartiles(1.0, 1.0, 1.0)
  points = [
      growth.Point(
          'gradient', TINY._replace(num_examples=n), 9, quartiles, w, n
      )
      for n, w in ((10, 500), (20, 500), (40, 510))
  ]
  flat = growth.growth('gradient', 'num_examples', points)
  assert growth.passes(flat)
  assert flat.held.exponent == pytest.approx(1.0)
  grown = [p._replace(working_bytes=p.sizes.num_examples) for p in points]
  found = growth.growth('gradient', 'num_examples', grown)
  assert not growth.passes(found)
  assert growth.passes(found._replace(function='plain gradient'))
