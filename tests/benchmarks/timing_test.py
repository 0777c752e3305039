import time

import numpy as np

from benchmarks import timing


def test_a_turn_times_both_functions_by_the_call():
  first, second = timing.interleaved_seconds(
      lambda: time.sleep(0.002),
      lambda: time.sleep(0.02),
      num_turns=3,
      turn_seconds=0.01,
  )
  assert first.shape == second.shape == (3,)
  # A sleep may last longer than it was asked to, never shorter.
  assert (first >= 0.002).all()
  assert (second >= 0.02).all()
  assert np.median(second / first) > 2


def test_quartiles_are_those_of_the_values():
  found = timing.quartiles(np.array([4.0, 0.0, 2.0, 1.0, 3.0]))
  assert found == (1.0, 2.0, 3.0)
