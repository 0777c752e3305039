"""Writes safetensors files and the folders that hold them.

Files after a template take its header byte for byte: same shards, names, order,
metadata and dtypes, and the same bytes wherever the values are the same. Files
and folders are written beside their place under a hidden name and renamed when
they are whole.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import secrets
import shutil
from typing import Any

import numpy as np

from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import headers

_NAMES = {dtype: name for name, dtype in headers.DTYPES.items()}


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes tensors into one file, which replaces an older one when it is whole.

  Wider types come first, then names in order, so that all data is aligned and
  equal tensors make equal files.

  Raises:
    ValueError: a dtype that the format does not have.
  """
  path = pathlib.Path(path)
  arrays = {name: np.asarray(value) for name, value in tensors.items()}
  for name, array in arrays.items():
    if array.dtype not in _NAMES:
      raise ValueError(
          f'tensor {name!r} is of dtype {array.dtype}, which safetensors files'
          f' cannot hold; they hold {", ".join(map(str, _NAMES))}'
      )
  order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
  header: dict[str, Any] = {'__metadata__': dict(metadata)} if metadata else {}
  end = 0
  for name in order:
    array = arrays[name]
    start, end = end, end + array.nbytes
    header[name] = {
        'dtype': _NAMES[array.dtype],
        'shape': list(array.shape),
        'data_offsets': [start, end],
    }
  text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % 8)
  hidden = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    with open(hidden, 'wb') as stream:
      stream.write(len(text).to_bytes(8, 'little') + text)
      for name in order:
        array = np.ascontiguousarray(arrays[name])
        stream.write(array.reshape(-1).view(np.uint8).data)
    os.replace(hidden, path)
  finally:
    hidden.unlink(missing_ok=True)


def write_like(
    template: files_lib.TensorFiles,
    folder: str | os.PathLike[str],
    tensor_fn: Callable[[str, int, int], np.ndarray],
    *,
    slice_size: int = files_lib.SLICE_SIZE,
) -> None:
  """Writes a new folder with the files of a template and other values.

  Args:
    template: gives shards, names, order, metadata, dtypes and the index.
    folder: must not exist; it is there once all of it is written.
    tensor_fn: `(name, start, stop)` -> elements `start` to `stop` of that
      tensor laid out flat, in the tensor's dtype; called in the order of the
      files.
    slice_size: the most elements that one call is asked for.

  Raises:
    ValueError: `folder` exists, or `tensor_fn` returns another shape or dtype.
  """
  with new_folder(folder) as hidden:
    write_files(template, hidden, tensor_fn, slice_size=slice_size)


def write_files(
    template: files_lib.TensorFiles,
    folder: pathlib.Path,
    tensor_fn: Callable[[str, int, int], np.ndarray],
    *,
    slice_size: int = files_lib.SLICE_SIZE,
) -> None:
  """Writes the files of `write_like` into a folder that is there.

  Such as that of `new_folder`, where more files are to lie beside them.
  """
  for file in template.files:
    with open(folder / file.name, 'wb') as stream:
      stream.write(headers.read_bytes(file))
      for name, start, stop in files_lib.slices(
          template, file, slice_size=slice_size
      ):
        values = tensor_fn(name, start, stop)
        _check_slice(template, name, start, stop, values)
        stream.write(values.view(np.uint8).data)
  if template.index:
    shutil.copyfile(template.index, folder / template.index.name)


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives a hidden folder that becomes `folder` when the block has ended.

  After an error in the block nothing is left. A process that is killed in it
  leaves the hidden folder, `.NAME.` and random letters beside `folder`.

  Raises:
    ValueError: `folder` exists, or cannot be made.
  """
  folder = pathlib.Path(folder).absolute()
  check_absent(folder)
  hidden = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}')
  try:
    hidden.mkdir(parents=True)
  except OSError as error:
    raise ValueError(
        f'the folder {folder} cannot be made ({error.strerror}); name another'
    ) from error
  try:
    yield hidden
    check_absent(folder)
    os.rename(hidden, folder)
  except BaseException:
    shutil.rmtree(hidden, ignore_errors=True)
    raise


def check_absent(folder: pathlib.Path) -> None:
  """Raises a ValueError if `folder` exists: nothing is ever overwritten."""
  if os.path.lexists(folder):
    raise ValueError(
        f'{folder} exists and is not overwritten; name a new folder or move'
        ' that one away'
    )


def _check_slice(
    template: files_lib.TensorFiles,
    name: str,
    start: int,
    stop: int,
    values: np.ndarray,
) -> None:
  """Raises a ValueError if values are not that range of that tensor."""
  dtype = template.tensors[name].dtype
  if values.shape != (stop - start,) or values.dtype != dtype:
    raise ValueError(
        f'elements {start} to {stop} of tensor {name!r} must be {dtype} of'
        f' shape {(stop - start,)}; they are {values.dtype} of shape'
        f' {values.shape}'
    )
