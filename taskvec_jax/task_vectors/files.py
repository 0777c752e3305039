"""Tensors in safetensors files: one file, or shards with an index.

A file is eight bytes with the length of its header (little-endian), the header
(JSON: name -> dtype, shape, first and last byte of the data), and the data, one
tensor after the other. Files are opened by their headers only; a tensor, or a
range of its elements, is read by `pread` into memory of its own, so that what
is held is what was asked for. bfloat16 and float8 are the types of `ml_dtypes`.

Written files take the header of a template byte for byte: same shards, names,
order, metadata and dtypes, and the same bytes wherever the values are the same.
A folder is written beside its place under a hidden name and renamed when it is
whole. Nothing here runs code that it reads: pickle files are refused.

Source: https://huggingface.co/docs/safetensors (the format).
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import math
import os
import pathlib
import secrets
import shutil
from typing import Any
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    'F64': np.dtype(np.float64),
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
    'I64': np.dtype(np.int64),
    'I32': np.dtype(np.int32),
    'I16': np.dtype(np.int16),
    'I8': np.dtype(np.int8),
    'U64': np.dtype(np.uint64),
    'U32': np.dtype(np.uint32),
    'U16': np.dtype(np.uint16),
    'U8': np.dtype(np.uint8),
    'BOOL': np.dtype(np.bool_),
}
SLICE_SIZE = 2**20  # elements that are held at once by default
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100 * 10**6  # the limit of the reference implementation
_INDEX_SUFFIX = '.safetensors.index.json'
# What a folder of one model calls its file, the first that is there.
_FILE_NAMES = ('model.safetensors', 'open_clip_model.safetensors')
_PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle')


class Tensor(NamedTuple):
  """Where one tensor lies."""

  dtype: np.dtype
  shape: tuple[int, ...]
  file: pathlib.Path
  offset: int  # of its first byte in the file
  num_bytes: int

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


class TensorFiles(NamedTuple):
  """The headers of one checkpoint's files."""

  path: pathlib.Path  # as it was asked for
  files: tuple[pathlib.Path, ...]  # one, or the shards by name
  tensors: dict[str, Tensor]  # file by file, in the order of their data
  metadata: dict[pathlib.Path, dict[str, str]]
  index: pathlib.Path | None  # of shards


def open_tensors(path: str | os.PathLike[str]) -> TensorFiles:
  """Returns what lies in a checkpoint, by reading the headers of its files.

  Args:
    path: a `.safetensors` file, an index `.json`, or a folder with
      `model.safetensors`, an index, `open_clip_model.safetensors`, or one
      `.safetensors` file of any other name.

  Raises:
    ValueError: there is no such file, or it is damaged; the sentence names it.
  """
  path = pathlib.Path(path)
  file = _find(path)
  if file.suffix == '.json':
    return _open_shards(path, file)
  tensors, metadata = _read_header(file)
  return TensorFiles(path, (file,), tensors, {file: metadata}, None)


def read(files: TensorFiles, name: str) -> np.ndarray:
  """Returns one tensor, writeable and in memory of its own."""
  tensor = files.tensors[name]
  return read_range(files, name, 0, tensor.size).reshape(tensor.shape)


def read_range(
    files: TensorFiles, name: str, start: int, stop: int
) -> np.ndarray:
  """Returns elements `start` to `stop` of a tensor laid out flat (C order).

  Raises:
    ValueError: the range is not inside the tensor.
    OSError: the file was cut short since its header was read.
  """
  tensor = files.tensors[name]
  if not 0 <= start <= stop <= tensor.size:
    raise ValueError(
        f'elements {start} to {stop} of tensor {name!r} were asked for; it has'
        f' {tensor.size}'
    )
  values = np.empty(stop - start, tensor.dtype)
  read_into(tensor, start, values)
  return values


def read_into(tensor: Tensor, start: int, values: np.ndarray) -> None:
  """Fills `values [n]`, of the tensor's dtype, with its elements from `start`.

  Raises:
    OSError: the file was cut short since its header was read.
  """
  # Cast to bytes, since a memoryview of bfloat16 is refused.
  view = values.view(np.uint8).data
  with open(tensor.file, 'rb', buffering=0) as stream:
    stream.seek(tensor.offset + start * tensor.dtype.itemsize)
    while view:
      count = stream.readinto(view)
      if not count:
        raise OSError(
            f'{tensor.file} was cut short while it was read: {len(view)} bytes'
            ' that its header describes are missing'
        )
      view = view[count:]


def is_float(dtype: np.dtype) -> bool:
  """Returns whether tensors of a dtype are floating point, of any width."""
  return dtype.kind not in 'iub'


def check_finite(values: np.ndarray, name: str, file: pathlib.Path) -> None:
  """Raises a ValueError with both names if a value is NaN or infinite."""
  if not is_float(values.dtype) or np.isfinite(values).all():
    return
  raise ValueError(
      f'{file}: tensor {name!r} has {int((~np.isfinite(values)).sum())} values'
      ' that are NaN or infinite'
  )


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
    template: TensorFiles,
    folder: str | os.PathLike[str],
    tensor_fn: Callable[[str, int, int], np.ndarray],
    *,
    slice_size: int = SLICE_SIZE,
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
    template: TensorFiles,
    folder: pathlib.Path,
    tensor_fn: Callable[[str, int, int], np.ndarray],
    *,
    slice_size: int = SLICE_SIZE,
) -> None:
  """Writes the files of `write_like` into a folder that is there.

  Such as that of `new_folder`, where more files are to lie beside them.
  """
  for file in template.files:
    with open(folder / file.name, 'wb') as stream:
      stream.write(header_bytes(file))
      for name, start, stop in slices(template, file, slice_size=slice_size):
        values = tensor_fn(name, start, stop)
        check_slice(template, name, start, stop, values)
        stream.write(values.view(np.uint8).data)
  if template.index:
    shutil.copyfile(template.index, folder / template.index.name)


def slices(
    files: TensorFiles, file: pathlib.Path, *, slice_size: int = SLICE_SIZE
) -> Iterator[tuple[str, int, int]]:
  """Yields (name, start, stop) of all of a file's data, in the file's order."""
  for name, tensor in files.tensors.items():
    if tensor.file == file:
      for start in range(0, tensor.size, slice_size):
        yield name, start, min(start + slice_size, tensor.size)


def header_bytes(file: pathlib.Path) -> bytes:
  """Returns all bytes of a file that stand before its data."""
  with open(file, 'rb') as stream:
    length = stream.read(8)
    return length + stream.read(int.from_bytes(length, 'little'))


def check_slice(
    template: TensorFiles, name: str, start: int, stop: int, values: np.ndarray
) -> None:
  """Raises a ValueError if values are not that range of that tensor."""
  dtype = template.tensors[name].dtype
  if values.shape != (stop - start,) or values.dtype != dtype:
    raise ValueError(
        f'elements {start} to {stop} of tensor {name!r} must be {dtype} of'
        f' shape {(stop - start,)}; they are {values.dtype} of shape'
        f' {values.shape}'
    )


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


def _find(path: pathlib.Path) -> pathlib.Path:
  """Returns the file or index that `path` means."""
  if path.is_file():
    if path.suffix in _PICKLE_SUFFIXES:
      raise ValueError(
          f'{path} is a pickle file, which can run any code when it is read;'
          ' convert it to safetensors'
      )
    return path
  if not path.is_dir():
    raise ValueError(
        f'there is no {path}; name a .safetensors file, an index'
        f' (*{_INDEX_SUFFIX}), or a folder that holds one'
    )
  indices = sorted(path.glob(f'*{_INDEX_SUFFIX}'))
  named = [path / name for name in _FILE_NAMES if (path / name).is_file()]
  others = sorted(path.glob('*.safetensors'))
  if named[:1] == [path / _FILE_NAMES[0]] or (named and not indices):
    return named[0]
  for candidates in (indices, others):
    if len(candidates) == 1:
      return candidates[0]
    if candidates:
      names = ', '.join(file.name for file in candidates[:3])
      raise ValueError(
          f'{path} holds {len(candidates)} files that could be meant ({names});'
          ' name one'
      )
  pickles = [
      file.name
      for file in sorted(path.iterdir())
      if file.suffix in _PICKLE_SUFFIXES
  ]
  if pickles:
    raise ValueError(
        f'{path} holds no safetensors but {pickles[0]}, a pickle file, which'
        ' can run any code when it is read; convert it to safetensors'
    )
  raise ValueError(
      f'{path} holds no safetensors; put {_FILE_NAMES[0]}, or shards with'
      f' model{_INDEX_SUFFIX}, there'
  )


def _open_shards(path: pathlib.Path, index: pathlib.Path) -> TensorFiles:
  """Returns the tensors of all shards that an index names."""
  try:
    weight_map = json.loads(index.read_bytes())['weight_map']
    for name, shard in weight_map.items():
      if pathlib.PurePath(shard).name != shard:
        raise ValueError(
            f'{index}: the shard {shard!r} of tensor {name!r} is not the name'
            ' of a file beside the index'
        )
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f'{index} is not JSON ({error})') from error
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(
        f"{index} is no index of shards: it has no 'weight_map' from tensor to"
        ' file name'
    ) from error
  tensors, metadata = {}, {}
  files = tuple(
      index.parent / shard for shard in sorted({*weight_map.values()})
  )
  for file in files:
    if not file.is_file():
      raise ValueError(f'{index} names the shard {file.name}, which is missing')
    found, metadata[file] = _read_header(file)
    for name, tensor in found.items():
      if weight_map.get(name) != file.name:
        said = weight_map.get(name, 'no file')
        raise ValueError(
            f'{file} holds tensor {name!r}, but {index.name} says that {said}'
            ' does'
        )
      tensors[name] = tensor
  missing = [name for name in weight_map if name not in tensors]
  if missing:
    raise ValueError(
        f'{index} says that tensor {missing[0]!r} is in'
        f' {weight_map[missing[0]]}, which does not hold it'
    )
  return TensorFiles(path, files, tensors, metadata, index)


def _read_header(
    file: pathlib.Path,
) -> tuple[dict[str, Tensor], dict[str, str]]:
  """Returns the tensors of one file, in the order of data, and metadata."""
  num_bytes = file.stat().st_size
  with open(file, 'rb') as stream:
    length = int.from_bytes(stream.read(8), 'little')
    if num_bytes < 8 or length > min(num_bytes - 8, _MAX_HEADER_BYTES):
      raise ValueError(
          f'{file} is no safetensors file or was cut short: it has'
          f' {num_bytes} bytes, and its header should have {length}'
      )
    text = stream.read(length)
  try:
    header = json.loads(text)
    metadata = header.pop('__metadata__', {})
    entries = {
        name: (
            entry['dtype'],
            tuple(int(length) for length in entry['shape']),
            *(int(offset) for offset in entry['data_offsets']),
        )
        for name, entry in header.items()
    }
    entries = {
        name: (dtype, shape, start, stop)
        for name, (dtype, shape, start, stop) in sorted(
            entries.items(), key=lambda item: item[1][2:]
        )
    }
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
        f'{file} is no safetensors file: its header cannot be read ({error!r})'
    ) from error
  tensors, end = {}, 0
  for name, (dtype, shape, start, stop) in entries.items():
    if dtype not in DTYPES:
      raise ValueError(
          f'{file}: tensor {name!r} is of dtype {dtype!r}; known are'
          f' {", ".join(DTYPES)}'
      )
    if start != end or min(shape, default=0) < 0:
      raise ValueError(
          f'{file}: the data of tensor {name!r}, shape {list(shape)}, starts at'
          f' byte {start}, but the data before it ends at byte {end}'
      )
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != needed:
      raise ValueError(
          f'{file}: tensor {name!r}, {dtype} of shape {list(shape)}, needs'
          f' {needed} bytes but has {stop - start}'
      )
    end = stop
    offset = 8 + length + start
    tensors[name] = Tensor(DTYPES[dtype], shape, file, offset, needed)
  if 8 + length + end != num_bytes:
    raise ValueError(
        f'{file} was cut short or has bytes too many: its header describes'
        f' {8 + length + end} bytes, it has {num_bytes}'
    )
  return tensors, metadata
