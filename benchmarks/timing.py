"""Times of functions that are called turn by turn, and their quartiles.

What else a machine does meets all functions that take turns; a ratio of two of
them is taken turn by turn, and the median over the turns is what counts.
"""

from collections.abc import Callable
import time
from typing import Any
from typing import NamedTuple

import jax
import numpy as np


class Quartiles(NamedTuple):
  """A median and the spread around it."""

  low: float
  median: float
  high: float


def interleaved_seconds(
    *fns: Callable[[], Any], num_turns: int, turn_seconds: float = 0.1
) -> np.ndarray:
  """Returns the seconds of one call of each function, `[functions, turns]`.

  In each turn every function is called as often as fills about `turn_seconds`
  and at least once, in their order and in every other turn the last one first.
  A call lasts until the arrays that it returns are computed. All are called
  twice before, untimed: that compiles.
  """
  calls = [_calls(fn, turn_seconds) for fn in fns]
  seconds = np.zeros((len(fns), num_turns))
  for turn in range(num_turns):
    order = range(len(fns)) if turn % 2 == 0 else reversed(range(len(fns)))
    for index in order:
      seconds[index, turn] = _seconds(fns[index], calls[index])
  return seconds


def quartiles(values: np.ndarray) -> Quartiles:
  """Returns the 25th, 50th and 75th percentile."""
  return Quartiles(*(float(q) for q in np.percentile(values, [25, 50, 75])))


def _calls(fn: Callable[[], Any], turn_seconds: float) -> int:
  _seconds(fn, 1)  # compiles
  return max(1, round(turn_seconds / _seconds(fn, 1)))


def _seconds(fn: Callable[[], Any], calls: int) -> float:
  start = time.perf_counter()
  for _ in range(calls):
    jax.block_until_ready(fn())
  return (time.perf_counter() - start) / calls
