"""What a safetensors file says of its tensors: the header, read and checked.

A file is eight bytes with the length of its header (little-endian), the header
(JSON: name -> dtype, shape, first and last byte of the data), and the data, one
tensor after the other. bfloat16 and float8 are the types of `ml_dtypes`.

Source: https://huggingface.co/docs/safetensors (the format).
"""

import json
import math
import pathlib
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
_MAX_HEADER_BYTES = 100 * 10**6  # the limit of the reference implementation


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


def read(file: pathlib.Path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """Returns the tensors of one file, in the order of data, and metadata.

  Raises:
    ValueError: the file is no safetensors file, or damaged.
  """
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


def read_bytes(file: pathlib.Path) -> bytes:
  """Returns all bytes of a file that stand before its data."""
  with open(file, 'rb') as stream:
    length = stream.read(8)
    return length + stream.read(int.from_bytes(length, 'little'))
