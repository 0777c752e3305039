"""Arrays that are expensive to make, kept between runs.

A file's name says what it holds and a digest of all that it depends on, so it
is right if it is there, and deleting it costs time, nothing else. Files appear
whole or not at all. What cannot be read is made again, what cannot be written
is not kept; both only warn, as the run has what it needs.

The folder is $TASKVEC_JAX_CACHE, else ~/.cache/taskvec_jax.
"""

import logging
import os
import pathlib
import tempfile
import zipfile

import numpy as np


def cache_folder(
    cache_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Returns `cache_dir`, or the default folder if it is None."""
  default = pathlib.Path.home() / '.cache' / 'taskvec_jax'
  return pathlib.Path(
      cache_dir or os.environ.get('TASKVEC_JAX_CACHE') or default
  )


def load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  """Returns the arrays in `path`; None if there are none to be read."""
  if not path.exists():
    return None
  try:
    # Opened here: np.load leaves a file that is no archive open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
    logging.warning(
        'What is kept in %s cannot be read (%s); it is made again.', path, error
    )
    return None


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes the arrays beside `path`, then moves them there in one step."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, suffix='.tmp', delete=False
    ) as file:
      np.savez(file, allow_pickle=False, **arrays)
    os.replace(file.name, path)
  except OSError as error:
    logging.warning('%s is not kept: %s.', path.name, error)
