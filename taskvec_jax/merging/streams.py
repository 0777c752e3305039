"""A base and its finetuned checkpoints on disk, read slice by slice.

A slice is a range of one tensor, in the base and in all T finetuned models: an
array of task vectors `[T, n]`. One pass goes over all floating-point tensors,
in the order in which the base's files hold them. Two threads read, and hash
what they read; while one slice is worked on, the next one is read.

(T + 1) n is at most 2^20, a few MB, except where a method cannot cut a tensor
so finely (`grain`). Task vectors are differences in float32, or in float64
where a model is.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import concurrent.futures
import itertools
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import file_hashes
from taskvec_jax.task_vectors import files as files_lib

NUM_ELEMENTS = 2**19  # that one slice has in all models
_NUM_NAMED = 3  # tensors in a sentence
_NUM_READERS = 2


class Inputs(NamedTuple):
  """Checkpoints of one architecture."""

  base: files_lib.TensorFiles
  finetuned: tuple[files_lib.TensorFiles, ...]

  @property
  def models(self) -> tuple[files_lib.TensorFiles, ...]:
    """Base and finetuned."""
    return (self.base, *self.finetuned)


class Slice(NamedTuple):
  """Elements `start` to `stop` of a tensor laid out flat."""

  name: str
  start: int
  stop: int

  @property
  def size(self) -> int:
    """Number of elements."""
    return self.stop - self.start


class _Buffers(NamedTuple):
  """Where one slice is read into."""

  base: np.ndarray  # [n]
  finetuned: np.ndarray | list[np.ndarray]  # [T, n], or T of own dtypes


class Values(NamedTuple):
  """What one slice holds."""

  base: np.ndarray  # [n], of the base's dtype
  vectors: np.ndarray  # [T, n], tau_t, of the dtype to compute in


def open_inputs(base: str, finetuned: tuple[str, ...]) -> Inputs:
  """Returns the checkpoints at these paths.

  Raises:
    ValueError: none is finetuned, a file is missing or damaged, or tensors
      differ; the sentence names the first three.
  """
  if not finetuned:
    raise ValueError('there is no finetuned model to merge; name at least one')
  inputs = Inputs(
      files_lib.open_tensors(base),
      tuple(map(files_lib.open_tensors, finetuned)),
  )
  for files in inputs.finetuned:
    _check_same(inputs.base, files)
  return inputs


def plan(
    inputs: Inputs, grain: Callable[[str, tuple[int, ...]], int]
) -> list[Slice]:
  """Returns the slices of a pass.

  Args:
    inputs: the checkpoints.
    grain: (name, shape) -> how many elements, from the first on, are not to be
      cut apart: 1 for any cut, the last axis for rows, the size for none.
  """
  slices = []
  most = max(1, NUM_ELEMENTS // len(inputs.models))
  for name, tensor in inputs.base.tensors.items():
    if not files_lib.is_float(tensor.dtype) or not tensor.size:
      continue
    unit = grain(name, tensor.shape)
    length = max(1, most // unit) * unit
    for start in range(0, tensor.size, length):
      slices.append(Slice(name, start, min(start + length, tensor.size)))
  return slices


def vectors_dtype(inputs: Inputs, name: str) -> np.dtype:
  """Returns float64 if the tensor is of it in any model, else float32."""
  wide = any(files.tensors[name].dtype.itemsize > 4 for files in inputs.models)
  return np.dtype(np.float64 if wide else np.float32)


def num_bytes(inputs: Inputs, item: Slice) -> int:
  """Returns the bytes of a slice in all models."""
  return item.size * sum(
      files.tensors[item.name].dtype.itemsize for files in inputs.models
  )


def read(
    inputs: Inputs,
    slices: Sequence[Slice],
    hashes: file_hashes.Hashes | None = None,
) -> Iterator[tuple[Slice, Values]]:
  """Yields the values of slices, in their order.

  Args:
    inputs: the checkpoints.
    slices: of `plan`.
    hashes: takes in what is read, if given.
  """

  def start_reading(item):
    buffers = _buffers(inputs, item)
    jobs = [
        pool.submit(_read_models, inputs, item, buffers, hashes, part)
        for part in range(_NUM_READERS)
    ]
    return buffers, jobs

  with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
    started = None
    for item, following in itertools.zip_longest(slices, slices[1:]):
      buffers, jobs = started or start_reading(item)
      for job in jobs:
        job.result()
      started = None
      if following is not None and _both_small(inputs, item, following):
        started = start_reading(following)
      values = _subtracted(inputs, item, buffers)
      del buffers, jobs
      yield item, values
      del values


def _buffers(inputs: Inputs, item: Slice) -> _Buffers:
  """Returns arrays to read a slice into."""
  dtypes = [files.tensors[item.name].dtype for files in inputs.finetuned]
  base = np.empty(item.size, inputs.base.tensors[item.name].dtype)
  if len(set(dtypes)) == 1:
    finetuned = np.empty((len(dtypes), item.size), dtypes[0])
  else:
    finetuned = [np.empty(item.size, dtype) for dtype in dtypes]
  return _Buffers(base, finetuned)


def _read_models(inputs, item, buffers, hashes, part) -> None:
  """Reads every other model's values of a slice, and hashes them."""
  rows = [buffers.base, *buffers.finetuned]
  for index in range(part, len(inputs.models), _NUM_READERS):
    tensor = inputs.models[index].tensors[item.name]
    files_lib.read_into(tensor, item.start, rows[index])
    if hashes is not None:
      offset = tensor.offset + item.start * tensor.dtype.itemsize
      hashes[index][tensor.file].add(offset, rows[index])


def _subtracted(inputs: Inputs, item: Slice, buffers: _Buffers) -> Values:
  """Returns base and task vectors, computed in place where dtypes allow."""
  dtype = vectors_dtype(inputs, item.name)
  if isinstance(buffers.finetuned, np.ndarray):
    vectors = buffers.finetuned.astype(dtype, copy=False)
  else:
    vectors = np.stack([row.astype(dtype) for row in buffers.finetuned])
  with np.errstate(over='ignore', invalid='ignore'):  # it is looked for later
    vectors -= buffers.base.astype(dtype, copy=False)
  return Values(buffers.base, vectors)


def _both_small(inputs: Inputs, first: Slice, second: Slice) -> bool:
  return max(first.size, second.size) * len(inputs.models) <= NUM_ELEMENTS


def _check_same(
    base: files_lib.TensorFiles, files: files_lib.TensorFiles
) -> None:
  """Raises a ValueError that names the first three tensors that differ."""
  found = []
  for name in {**base.tensors, **files.tensors}:
    theirs, mine = base.tensors.get(name), files.tensors.get(name)
    if mine is None:
      found.append(f'{name!r} is missing')
    elif theirs is None:
      found.append(f'{name!r} is not in the base')
    elif mine.shape != theirs.shape:
      found.append(
          f'{name!r} has shape {list(mine.shape)}, not {list(theirs.shape)}'
      )
    elif files_lib.is_float(mine.dtype) != files_lib.is_float(theirs.dtype):
      found.append(f'{name!r} is of dtype {mine.dtype}, not {theirs.dtype}')
  if found:
    more = len(found) - _NUM_NAMED
    raise ValueError(
        f'{files.path} and the base {base.path} are not of one architecture:'
        f' {"; ".join(found[:_NUM_NAMED])}'
        + (f'; and {more} more' if more > 0 else '')
    )
