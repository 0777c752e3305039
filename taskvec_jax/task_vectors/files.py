"""Tensors in safetensors files: one file, or shards with an index.

Files are opened by their headers only; a tensor, or a range of its elements, is
read into memory of its own, so that what is held is what was asked for. Nothing
here runs code that it reads: pickle files are refused.

Source: https://huggingface.co/docs/safetensors (the format).
"""

from collections.abc import Iterator
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from taskvec_jax.task_vectors import headers

SLICE_SIZE = 2**20  # elements that are held at once by default
_INDEX_SUFFIX = '.safetensors.index.json'
# What a folder of one model calls its file, the first that is there.
_FILE_NAMES = ('model.safetensors', 'open_clip_model.safetensors')
# Beside weights: what else a library needs to load them.
_BESIDE = (
    '*config.json',
    'tokenizer*',
    'vocab.*',
    'merges.txt',
    'special_tokens_map.json',
    'added_tokens.json',
    'spiece.model',
    'chat_template*',
)
_PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle')


class TensorFiles(NamedTuple):
  """The headers of one checkpoint's files."""

  path: pathlib.Path  # as it was asked for
  files: tuple[pathlib.Path, ...]  # one, or the shards by name
  tensors: dict[str, headers.Tensor]  # file by file, in the order of their data
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
  tensors, metadata = headers.read(file)
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


def read_into(tensor: headers.Tensor, start: int, values: np.ndarray) -> None:
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


def beside(file: pathlib.Path) -> list[pathlib.Path]:
  """Returns the configs and the tokenizer that lie beside a file of weights."""
  found = {one for pattern in _BESIDE for one in file.parent.glob(pattern)}
  return sorted(
      one
      for one in found
      # Weights are not meant, though they be called tokenizer.safetensors.
      if one.is_file()
      and '.safetensors' not in one.suffixes
      and one.suffix not in _PICKLE_SUFFIXES
  )


def slices(
    files: TensorFiles, file: pathlib.Path, *, slice_size: int = SLICE_SIZE
) -> Iterator[tuple[str, int, int]]:
  """Yields (name, start, stop) of all of a file's data, in the file's order."""
  for name, tensor in files.tensors.items():
    if tensor.file == file:
      for start in range(0, tensor.size, slice_size):
        yield name, start, min(start + slice_size, tensor.size)


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
    found, metadata[file] = headers.read(file)
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
