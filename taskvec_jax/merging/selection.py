"""The k-th largest magnitude of a vector that is too large to hold, exactly.

Two passes over the vector at most, whatever the values are, and one if all of
it may be held.

float32: magnitudes of floats are ordered as the integers that their bits are.
The first pass counts how many there are by their first 16 bits; the counts say
which first bits the k-th largest has, and how many of the same first bits are
before it. Then either those that share them are few enough to be held, and the
second pass picks them out, or it counts them by their other 15 bits.

float64 has too many bits to be counted by in two passes. The first one sorts
blocks of 2^14 and thins them out: of two blocks whose magnitudes stand for w
each, every second one stays and stands for 2 w. At most one block is left of
each level, w = 2^l. Of G(x), those up to x that the blocks stand for, and F(x),
those that there are, it holds that G <= F <= G + E, since each thinning leaves
out less than w: E = sum_l l 2^(l - 1), about n log2(n / 2^14) / 2^15. So the
k-th lies between two magnitudes that are left. Others between them are 3 E at
most, except that the first one left there may be repeated without end; the
second pass holds them and counts that one.

Cost a pass: a shift, a comparison and a count an element; for float64 it is
sorting, which takes about ten times as long. Counts take 0.5 MB a vector,
blocks 0.13 MB a level.

Source of the thinning: Munro and Paterson, "Selection and sorting with limited
storage", Theoretical Computer Science 12, 1980.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NUM_BITS = 31  # of a magnitude of float32
_NUM_COUNTED = 16  # of them, in the first pass
_BLOCK = 2**14


class _Bounds(NamedTuple):
  """Where a magnitude lies: above `low`, at most at `high`."""

  low: np.float64
  repeated: np.float64  # the first one left above `low`
  high: np.float64


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
    capacity: how many magnitudes, of all vectors, are held and not counted.
  """
  if not any(nums):
    return np.full(len(nums), np.inf, dtype)
  ranks = np.maximum(nums, 1)
  if len(nums) * size <= capacity:
    found = _by_holding(passes, ranks, size, dtype)
  elif np.dtype(dtype) == np.float32:
    found = _by_counting(passes, ranks, capacity)
  else:
    found = _by_thinning(passes, ranks, size)
  return np.where(np.asarray(nums) == 0, np.inf, found).astype(dtype)


def _by_holding(passes, ranks, size: int, dtype) -> np.ndarray:
  held = np.empty((len(ranks), size), dtype)
  start = 0
  for vectors in passes():
    stop = start + len(vectors[0])
    for row, vector in zip(held, vectors, strict=True):
      row[start:stop] = vector
    start = stop
  return _select(held, ranks)


def _select(held: Iterable[np.ndarray], ranks) -> np.ndarray:
  """Returns the largest but `rank - 1` of each array, which it sorts partly."""
  found = []
  for values, rank in zip(held, ranks, strict=True):
    values.partition(len(values) - rank)
    found.append(values[len(values) - rank])
  return np.array(found)


def _by_counting(passes, ranks, capacity: int) -> np.ndarray:
  """Returns the `ranks[v]`-th largest of float32 vectors."""
  nothing = np.zeros(len(ranks), np.uint32)
  counts = _count(passes, nothing, _NUM_BITS, _NUM_COUNTED)
  prefixes, ranks, sizes = _bins(counts, ranks)
  num_left = _NUM_BITS - _NUM_COUNTED
  if sizes.sum() <= capacity:
    bits = _pick(passes, prefixes, num_left, ranks, sizes)
  else:
    last, _, _ = _bins(_count(passes, prefixes, num_left, num_left), ranks)
    bits = prefixes << np.uint32(num_left) | last
  return bits.view(np.float32)


def _count(passes, prefixes, num_left: int, num_counted: int) -> np.ndarray:
  """Returns how many there are by the next bits, `[V, 2**num_counted]`."""
  counts = np.zeros((len(prefixes), 2**num_counted), np.int64)
  shift = np.uint32(num_left - num_counted)
  mask = np.uint32(2**num_counted - 1)
  for vectors in passes():
    for row, vector, prefix in zip(counts, vectors, prefixes, strict=True):
      shared = _sharing(vector.view(np.uint32), prefix, num_left)
      found = np.bincount((shared >> shift & mask).astype(np.intp))
      row[: len(found)] += found
  return counts


def _bins(counts: np.ndarray, ranks) -> tuple[np.ndarray, ...]:
  """Returns the bins with those sought, ranks in them, and their sizes."""
  bins = np.empty(len(ranks), np.uint32)
  inside, sizes = np.empty((2, len(ranks)), np.int64)
  for v, row in enumerate(counts):
    above = np.cumsum(row[::-1])[::-1]  # in each bin or a higher one
    bins[v] = np.flatnonzero(above >= ranks[v])[-1]
    sizes[v] = row[bins[v]]
    inside[v] = ranks[v] - (above[bins[v]] - sizes[v])
  return bins, inside, sizes


def _pick(passes, prefixes, num_left: int, ranks, sizes) -> np.ndarray:
  """Returns all bits of the `ranks[v]`-th largest with a prefix, `[V]`."""
  held = [np.empty(size, np.uint32) for size in sizes]
  ends = np.zeros(len(held), np.intp)
  for vectors in passes():
    for v, vector in enumerate(vectors):
      shared = _sharing(vector.view(np.uint32), prefixes[v], num_left)
      held[v][ends[v] : ends[v] + len(shared)] = shared
      ends[v] += len(shared)
  return _select(held, ranks)


def _sharing(bits: np.ndarray, prefix, num_left: int) -> np.ndarray:
  """Returns those of `bits [n]` that begin with a prefix."""
  if num_left == _NUM_BITS:
    return bits
  return bits[bits >> np.uint32(num_left) == prefix]


def _by_thinning(passes, ranks, size: int) -> np.ndarray:
  """Returns the `ranks[v]`-th largest of float64 vectors."""
  ranks = size + 1 - ranks  # from the smallest
  bounds = [
      _bounds(blocks, rest, rank)
      for (blocks, rest), rank in zip(
          _thin(passes, len(ranks)), ranks, strict=True
      )
  ]
  held = [[] for _ in bounds]
  num_repeated = np.zeros(len(bounds), np.int64)
  for vectors in passes():
    for v, (vector, (low, repeated, high)) in enumerate(
        zip(vectors, bounds, strict=True)
    ):
      near = vector[vector < high]
      ranks[v] -= np.count_nonzero(near <= low)
      near = near[near > low]
      held[v].append(near[near != repeated])
      num_repeated[v] += len(near) - len(held[v][-1])
  return np.array(
      [
          _kth_smallest(np.concatenate(held[v]), ranks[v], num_repeated[v], one)
          for v, one in enumerate(bounds)
      ]
  )


def _thin(
    passes, num_vectors: int
) -> list[tuple[list[np.ndarray | None], np.ndarray]]:
  """Returns blocks by level, and the fewer than a block that are left over."""
  found = [([], np.empty(0)) for _ in range(num_vectors)]
  for vectors in passes():
    for v, vector in enumerate(vectors):
      blocks, rest = found[v]
      values = np.concatenate([rest, vector])
      stop = len(values) - len(values) % _BLOCK
      for block in values[:stop].reshape(-1, _BLOCK):
        _add(blocks, np.sort(block))
      found[v] = blocks, values[stop:].copy()
  return found


def _add(blocks: list[np.ndarray | None], block: np.ndarray) -> None:
  """Adds a sorted block of level 0; two of a level become one of the next."""
  for level, other in enumerate(blocks):
    if other is None:
      blocks[level] = block
      return
    blocks[level] = None
    # A stable sort merges what is sorted.
    both = np.sort(np.concatenate([other, block]), kind='stable')
    block = both[1::2].copy()
  blocks.append(block)


def _bounds(
    blocks: list[np.ndarray | None], rest: np.ndarray, rank: int
) -> _Bounds:
  """Returns where the `rank`-th smallest lies."""
  parts, weights, error = [rest], [np.ones(len(rest), np.int64)], 0
  for level, block in enumerate(blocks):
    if block is not None:
      parts.append(block)
      weights.append(np.full(len(block), 2**level))
      error += level * 2**level // 2
  values = np.concatenate(parts)
  order = np.argsort(values)
  values = values[order]
  up_to = np.cumsum(np.concatenate(weights)[order])
  last = np.append(values[1:] != values[:-1], True)  # of equal ones
  values, up_to = values[last], up_to[last]
  first = int(np.searchsorted(up_to + error, rank))
  low = values[first - 1] if first else np.float64(-1)
  return _Bounds(low, values[first], values[np.searchsorted(up_to, rank)])


def _kth_smallest(
    held: np.ndarray, rank: int, num_repeated: int, bounds: _Bounds
) -> np.float64:
  """Returns the `rank`-th smallest above `low`, of what lies below `high`.

  Args:
    held: all between the bounds but the one that is repeated.
    rank: from 1; `high` if there are fewer.
    num_repeated: how often that one is there.
    bounds: of `_bounds`.
  """
  held = np.sort(held)
  before = int(np.searchsorted(held, bounds.repeated))
  if rank <= before:
    return held[rank - 1]
  if rank <= before + num_repeated:
    return bounds.repeated
  rank -= num_repeated
  return held[rank - 1] if rank <= len(held) else bounds.high
