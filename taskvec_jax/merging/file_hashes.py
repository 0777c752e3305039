"""SHA-256 of files while they are read, and of files as they lie."""

from collections.abc import Iterable
import concurrent.futures
import hashlib
import pathlib

import numpy as np

from taskvec_jax.task_vectors import files as files_lib

_BLOCK = 2**20  # bytes
_NUM_THREADS = 2


class RunningHash:
  """SHA-256 of a file whose pieces arrive in about their order.

  A piece behind the end of those before it is preceded by reading the gap; one
  before that end has been hashed.
  """

  def __init__(self, file: pathlib.Path):
    self._file = file
    self._sha256 = hashlib.sha256()
    self._end = 0

  def add(self, offset: int, piece: np.ndarray) -> None:
    """Takes in what the file holds at a byte offset."""
    if offset >= self._end:
      self._read_on(offset)
      self._sha256.update(piece.view(np.uint8).data)
      self._end += piece.nbytes

  def hexdigest(self) -> str:
    """Returns the hash of the whole file, reading what is left."""
    self._read_on(None)
    return self._sha256.hexdigest()

  def _read_on(self, stop: int | None) -> None:
    if self._end == stop:
      return
    with open(self._file, 'rb', buffering=0) as stream:
      stream.seek(self._end)
      while stop is None or self._end < stop:
        block = stream.read(
            _BLOCK if stop is None else min(_BLOCK, stop - self._end)
        )
        if not block:
          break
        self._sha256.update(block)
        self._end += len(block)


# For each model, its files'.
Hashes = list[dict[pathlib.Path, RunningHash]]


def start(models: Iterable[files_lib.TensorFiles]) -> Hashes:
  """Returns the hashes, of nothing yet, of all models' files."""
  return [{file: RunningHash(file) for file in files.files} for files in models]


def finish(hashes: Hashes) -> dict[pathlib.Path, str]:
  """Returns file -> SHA-256, reading what was not read."""
  running = {file: one for by_file in hashes for file, one in by_file.items()}
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return dict(
        zip(
            running,
            pool.map(RunningHash.hexdigest, running.values()),
            strict=True,
        )
    )


def sha256(file: pathlib.Path) -> str:
  """Returns the SHA-256 of a file."""
  return RunningHash(file).hexdigest()
