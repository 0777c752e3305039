"""Cuts the examples of a task into batches of one shape, padded and masked.

An exact gradient is a sum over all N examples, however they are cut. Devices
want equal shapes, so the last batches are filled up with zeros whose `mask` is
False; the loss multiplies by the mask, and the sum is exact for every batch
size, number of devices and N. `make_batches` cuts all at once, `stream` piece
by piece, for examples that do not fit on the devices.

Cost: one copy of the inputs, or of a piece. Padded examples are computed and
thrown away: fewer than num_shards * batch_size of them, or than a piece holds.
"""

from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
  """Examples with a mask; the leading axes say how they are cut."""

  inputs: np.ndarray  # [..., B, *input_shape]
  labels: np.ndarray  # int32 [..., B]
  mask: np.ndarray  # bool [..., B], False where there is no example.


def make_batches(
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    num_shards: int = 1,
    capacity: int | None = None,
) -> Batch:
  """Returns all examples in order, as [num_shards, num_batches, batch_size].

  `num_batches` is the smallest that holds them; read shard by shard, the
  examples whose mask is True are the inputs in their order.

  Args:
    inputs: [N, *input_shape], any dtype.
    labels: int32 [N].
    batch_size: examples a batch and device, B.
    num_shards: devices of this process.
    capacity: number of examples to make room for, at least N; None for N. In
      a run of several processes it is the size of the largest slice, so that
      all have the same number of batches (a slice may then be empty).

  Raises:
    ValueError: if the numbers do not fit the arrays.
  """
  num_batches = _num_batches(inputs, labels, batch_size, num_shards, capacity)
  return _cut(inputs, labels, (num_shards, num_batches, batch_size))


def stream(
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    num_shards: int = 1,
    capacity: int | None = None,
    max_bytes: int,
) -> Callable[[], Iterator[Batch]]:
  """Returns a function that yields `make_batches` in pieces, each time anew.

  A piece is `[num_shards, num, batch_size]` with the next batches of every
  shard, all pieces of one shape: batches of padding complete the last.

  Args:
    inputs: as in `make_batches`, like the other arguments and errors.
    labels: int32 [N].
    batch_size: examples a batch and device.
    num_shards: devices of this process.
    capacity: number of examples to make room for.
    max_bytes: of a piece's inputs, as far as one batch a shard allows.
  """
  num_batches = _num_batches(inputs, labels, batch_size, num_shards, capacity)
  # Of the shape, not of the arrays: a process may have no examples at all.
  example_bytes = inputs.itemsize * int(np.prod(inputs.shape[1:]))
  num = max_bytes // max(batch_size * num_shards * example_bytes, 1)
  num = min(max(num, 1), num_batches)

  def pieces() -> Iterator[Batch]:
    for first in range(0, num_batches, num):
      # Of each shard: its examples of the next `num` batches.
      shards = []
      for shard in range(num_shards):
        begin = (shard * num_batches + first) * batch_size
        end = (shard * num_batches + min(first + num, num_batches)) * batch_size
        shards.append(
            _cut(inputs[begin:end], labels[begin:end], (num, batch_size))
        )
      yield Batch(*(np.stack(parts) for parts in zip(*shards, strict=True)))

  return pieces


def _num_batches(inputs, labels, batch_size, num_shards, capacity) -> int:
  """Returns how many batches each shard has; refuses what does not fit."""
  num_examples = len(inputs)
  if labels.shape != (num_examples,) or labels.dtype != np.int32:
    raise ValueError(
        f'labels are {labels.dtype}{list(labels.shape)}, but int32'
        f' [{num_examples}] is needed, one label an input.'
    )
  for what, number in (('batch_size', batch_size), ('num_shards', num_shards)):
    if number < 1:
      raise ValueError(f'{what} is {number}, but must be at least 1.')
  if capacity is None:
    capacity = num_examples
  if capacity < max(num_examples, 1):
    raise ValueError(
        f'there is room for {capacity} examples, but {num_examples} were given'
        ' and at least 1 is needed.'
    )
  return -(-capacity // (num_shards * batch_size))


def _cut(
    inputs: np.ndarray, labels: np.ndarray, leading: tuple[int, ...]
) -> Batch:
  """Returns the examples in order, padded to the shape `leading`."""
  num_examples = len(inputs)

  def cut(array: np.ndarray) -> np.ndarray:
    padded = np.zeros((np.prod(leading), *array.shape[1:]), array.dtype)
    padded[:num_examples] = array
    return padded.reshape(leading + array.shape[1:])

  mask = np.ones(num_examples, bool)
  return Batch(inputs=cut(inputs), labels=cut(labels), mask=cut(mask))


def pad_batches(batch: Batch, num_batches: int) -> Batch:
  """Returns the batches of `make_batches` with masked ones added at the end.

  Raises:
    ValueError: if there are already more than `num_batches`.
  """
  missing = num_batches - batch.mask.shape[1]
  if missing < 0:
    raise ValueError(
        f'there are {batch.mask.shape[1]} batches, more than the {num_batches}'
        ' to pad to.'
    )

  def pad(array: np.ndarray) -> np.ndarray:
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths)

  return Batch(*(pad(array) for array in batch))
