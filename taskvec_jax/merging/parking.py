"""Arrays that wait, in memory or on disk, while others are worked on.

They are written row after row and read by rows, so that no more than some of
them need to be in memory at once.
"""

from collections.abc import Callable
import os
import tempfile
from typing import Protocol
import weakref

import numpy as np

_ALL = slice(None)
NUM_ROWS = 64  # that are moved or worked on at once
NUM_FACTOR_ROWS = 512  # of a factor that each part of a product needs whole


class Parked(Protocol):
  """An array that waits."""

  dtype: np.dtype
  shape: tuple[int, ...]

  def add(self, part: np.ndarray) -> None:
    """Writes a part, in C order, behind those before it."""

  def __call__(self, rows: slice = _ALL) -> np.ndarray:
    """Reads rows that follow each other, each time as a new array."""
    ...


# Returns an array of a dtype and shape to be written.
Park = Callable[[np.dtype, tuple[int, ...]], Parked]


class Memory:
  """An array in memory."""

  def __init__(self, array: np.ndarray):
    """Wraps an array, whose values count as written unless `add` is called."""
    self.dtype = array.dtype
    self.shape = array.shape
    self._array = array
    self._num_written = 0

  def add(self, part: np.ndarray) -> None:
    """Writes a part, in C order, behind those before it."""
    stop = self._num_written + part.size
    self._array.reshape(-1)[self._num_written : stop] = part.reshape(-1)
    self._num_written = stop

  def __call__(self, rows: slice = _ALL) -> np.ndarray:
    """Reads rows that follow each other, each time as a new array."""
    return np.array(self._array[rows], order='C')


class File:
  """An array in a file without a name, which is gone with this object."""

  def __init__(
      self,
      dtype: np.dtype,
      shape: tuple[int, ...],
      *,
      folder: str | os.PathLike[str],
  ):
    """Makes the file in a folder, empty."""
    self.dtype = dtype
    self.shape = shape
    self._file = tempfile.TemporaryFile(dir=folder)
    weakref.finalize(self, self._file.close)

  def add(self, part: np.ndarray) -> None:
    """Writes a part, in C order, behind those before it.

    Raises:
      OSError: the folder is full.
    """
    self._file.seek(0, os.SEEK_END)
    self._file.write(_bytes(np.ascontiguousarray(part)))

  def __call__(self, rows: slice = _ALL) -> np.ndarray:
    """Reads rows that follow each other, each time as a new array."""
    start, stop, _ = rows.indices(self.shape[0])
    array = np.empty((stop - start, *self.shape[1:]), self.dtype)
    self._file.seek(array[:1].nbytes * start)
    self._file.readinto(_bytes(array))
    return array


def in_memory(dtype: np.dtype, shape: tuple[int, ...]) -> Memory:
  """Returns an array in memory to be written."""
  return Memory(np.empty(shape, dtype))


def parked(array: np.ndarray, park: Park) -> Parked:
  """Returns an array, parked."""
  return by_rows(lambda rows: array[rows], array.dtype, array.shape, park)


def by_rows(
    fn: Callable[[slice], np.ndarray],
    dtype: np.dtype,
    shape: tuple[int, ...],
    park: Park,
    *,
    num_rows: int = NUM_ROWS,
) -> Parked:
  """Returns the array of which `fn` gives any rows, parked.

  Args:
    fn: rows -> that part of the array, whose dtype may be another.
    dtype: of the array.
    shape: of the array.
    park: where it waits.
    num_rows: that are asked for at once.
  """
  found = park(dtype, shape)
  for rows in slices(shape[0], num_rows):
    found.add(fn(rows).astype(dtype, copy=False))
  return found


def transposed(array: Parked, park: Park) -> Parked:
  """Returns the transpose of an array of two axes, parked."""
  num_rows, num_columns = array.shape

  def made(columns: slice) -> np.ndarray:
    found = np.empty((columns.stop - columns.start, num_rows), array.dtype)
    for rows in slices(num_rows, NUM_ROWS):
      found[:, rows] = array(rows)[:, columns].T
    return found

  return by_rows(
      made,
      array.dtype,
      (num_columns, num_rows),
      park,
      num_rows=in_few_parts(num_columns),
  )


def in_few_parts(num_rows: int) -> int:
  """Returns how many rows to make at once if each time much must be read."""
  return max(num_rows // 16, NUM_ROWS)


def slices(size: int, step: int) -> list[slice]:
  """Returns what cuts an axis of a size into parts of `step` and a rest."""
  return [slice(i, min(i + step, size)) for i in range(0, size, step)]


def _bytes(array: np.ndarray) -> memoryview:
  return array.reshape(-1).view(np.uint8).data
