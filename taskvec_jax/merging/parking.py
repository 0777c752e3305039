"""Arrays that wait, in memory or on disk, while others are worked on."""

from collections.abc import Callable
import os
import tempfile
import weakref

import numpy as np

_NUM_ROWS = 64  # that are written at once

# Returns an array, which may be overwritten.
Parked = Callable[[], np.ndarray]
# Takes an array, and returns what gives it back.
Park = Callable[[np.ndarray], Parked]


class File:
  """An array in a file without a name, which is gone with this object."""

  def __init__(
      self,
      folder: str | os.PathLike[str],
      dtype: np.dtype,
      shape: tuple[int, ...],
  ):
    """Makes the file in a folder, empty."""
    self._dtype = dtype
    self._shape = shape
    self._file = tempfile.TemporaryFile(dir=folder)
    weakref.finalize(self, self._file.close)

  def add(self, part: np.ndarray) -> None:
    """Writes a part, in C order, behind those before it.

    Raises:
      OSError: the folder is full.
    """
    self._file.write(_bytes(np.ascontiguousarray(part)))

  def __call__(self) -> np.ndarray:
    """Reads the array, each time as a new one."""
    array = np.empty(self._shape, self._dtype)
    self._file.seek(0)
    self._file.readinto(_bytes(array))
    return array


def on_disk(array: np.ndarray, *, folder: str | os.PathLike[str]) -> File:
  """Parks an array in a file in a folder.

  Raises:
    OSError: the folder cannot be written or is full.
  """
  file = File(folder, array.dtype, array.shape)
  for rows in slices(len(array), _NUM_ROWS):
    file.add(array[rows])
  return file


def held(array: np.ndarray) -> Parked:
  """Parks an array in memory; a part of a larger one as a copy."""
  kept = array if array.base is None else array.copy()
  return lambda: kept


def slices(size: int, step: int) -> list[slice]:
  """Returns what cuts an axis of a size into parts of `step` and a rest."""
  return [slice(i, min(i + step, size)) for i in range(0, size, step)]


def _bytes(array: np.ndarray) -> memoryview:
  return array.reshape(-1).view(np.uint8).data
