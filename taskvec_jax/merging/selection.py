"""The k-th largest magnitude of a vector that is too large to hold, exactly.

Magnitudes of floats are ordered as the integers that their bits are. A pass
over the vector counts how many there are by their first 16 bits; the counts
say which first bits the k-th largest has, and how many of the same first bits
are before it. Then either those that share them are few enough to be held, and
the next pass picks them out, or it counts them by their next bits. So float32
takes two passes at most, whatever the values are. float64 is counted by its
first 19 bits, 8 of them of the mantissa; it takes two passes unless more
magnitudes than may be held share them with the k-th, and else up to four.

Cost a pass: a shift, a comparison and a count an element. Counts take 0.5 MB a
vector, those of float64 16 MB at most in all.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class _Layout(NamedTuple):
  """Bits of a magnitude: how many there are, how many one pass counts by."""

  bits: type[np.unsignedinteger]
  num_bits: int  # without the sign
  num_counted: int


_MAX_COUNTS = 2**21  # of float64, in all vectors
_LAYOUTS = {
    np.dtype(np.float32): _Layout(np.uint32, 31, 16),
    np.dtype(np.float64): _Layout(np.uint64, 63, 19),
}


def kth_largest(
    passes: Callable[[], Iterable[Sequence[np.ndarray]]],
    nums: Sequence[int],
    *,
    size: int,
    dtype: np.dtype,
    capacity: int,
) -> np.ndarray:
  """Returns the `nums[v]`-th largest of each vector v, `[V]`.

  Args:
    passes: starts a pass: yields slices, V arrays `[n]` each, of magnitudes
      that are finite and of `dtype`.
    nums: `[V]`, counted from 1; for 0 infinity is returned, so that none is as
      large.
    size: how many magnitudes a vector has in all.
    dtype: float32 or float64.
    capacity: how many magnitudes, of all vectors, may be held.
  """
  layout = _LAYOUTS[np.dtype(dtype)]
  if not any(nums):
    return np.full(len(nums), np.inf, dtype)
  ranks = np.maximum(nums, 1)  # among those that share the prefix
  prefixes = np.zeros(len(nums), np.uint64)  # first bits of the num-th
  num_left = layout.num_bits
  sizes = np.full(len(nums), size)  # how many share the prefix
  while num_left:
    if sizes.sum() <= capacity:
      prefixes = _pick(passes, layout, prefixes, num_left, ranks, sizes)
      break
    num_counted = min(layout.num_counted, num_left)
    while num_counted > 16 and len(nums) * 2**num_counted > _MAX_COUNTS:
      num_counted -= 1
    counts = _count(passes, layout, prefixes, num_left, num_counted)
    for v, row in enumerate(counts):
      above = np.cumsum(row[::-1])[::-1]  # in each bin or a higher one
      found = np.flatnonzero(above >= ranks[v])[-1]
      sizes[v] = row[found]
      ranks[v] -= above[found] - sizes[v]
      prefixes[v] = int(prefixes[v]) << num_counted | int(found)
    num_left -= num_counted
  found = prefixes.astype(layout.bits).view(dtype)
  return np.where(np.asarray(nums) == 0, np.inf, found).astype(dtype)


def _count(
    passes, layout: _Layout, prefixes, num_left: int, num_counted: int
) -> np.ndarray:
  """Returns how many there are by the next bits, `[V, 2**n]`."""
  counts = np.zeros((len(prefixes), 2**num_counted), np.int64)
  shift = layout.bits(num_left - num_counted)
  mask = layout.bits(2**num_counted - 1)
  for magnitudes in passes():
    for row, vector, prefix in zip(counts, magnitudes, prefixes, strict=True):
      shared = _sharing(vector.view(layout.bits), layout, prefix, num_left)
      found = np.bincount((shared >> shift & mask).astype(np.intp))
      row[: len(found)] += found
  return counts


def _pick(
    passes, layout: _Layout, prefixes, num_left: int, ranks, sizes
) -> np.ndarray:
  """Returns all bits of the num-th largest, `[V]`."""
  held = [np.empty(size, layout.bits) for size in sizes]
  ends = np.zeros(len(held), np.intp)
  for magnitudes in passes():
    for index, vector in enumerate(magnitudes):
      shared = _sharing(
          vector.view(layout.bits), layout, prefixes[index], num_left
      )
      held[index][ends[index] : ends[index] + len(shared)] = shared
      ends[index] += len(shared)
  found = []
  for values, rank in zip(held, ranks, strict=True):
    values.partition(len(values) - rank)
    found.append(values[len(values) - rank])
  return np.array(found)


def _sharing(bits, layout: _Layout, prefix, num_left: int) -> np.ndarray:
  """Returns those of `bits [n]` that begin with a prefix."""
  if num_left == layout.num_bits:
    return bits
  return bits[bits >> layout.bits(num_left) == layout.bits(prefix)]
