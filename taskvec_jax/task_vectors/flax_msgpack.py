"""Arrays in the msgpack files of Flax, one file a checkpoint.

A file is one nested map from names to arrays, without a header: reading any of
it reads all of it. `flax.serialization` restores it, plain arrays only, and
code that it might hold is never run.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import pathlib
from typing import Any

from flax import serialization
from flax import traverse_util
import msgpack
import numpy as np


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by their paths, 'a/b/kernel', in its order.

  Raises:
    ValueError: it is not such a file, was cut short, or holds something else.
  """
  try:
    tree = serialization.msgpack_restore(file.read_bytes())
    arrays = traverse_util.flatten_dict(tree, sep='/')
  # Damaged bytes fail in as many ways as there are types.
  except Exception as error:  # pylint: disable=broad-exception-caught
    raise ValueError(
        f'{file} is no msgpack of Flax or was cut short, at'
        f' {file.stat().st_size} bytes ({error}).'
    ) from error
  for name, array in arrays.items():
    if not isinstance(array, np.ndarray | np.generic):
      raise ValueError(
          f'{file}: {name!r} is of type {type(array).__name__}, not an array.'
      )
  return {name: np.asarray(array) for name, array in arrays.items()}


def write(
    file: pathlib.Path,
    names: Iterable[str],
    array_fn: Callable[[str], np.ndarray],
) -> None:
  """Writes what `flax.serialization.to_bytes` would, array by array.

  Args:
    file: to be made.
    names: paths of the arrays, in order.
    array_fn: path -> array; called once for each, in order.
  """
  tree = traverse_util.unflatten_dict(dict.fromkeys(names), sep='/')

  def pieces(tree: Mapping[str, Any], path: str) -> Iterator[bytes]:
    yield msgpack.Packer().pack_map_header(len(tree))
    for key, child in tree.items():
      yield serialization.msgpack_serialize(key)
      if child is None:
        yield serialization.msgpack_serialize(array_fn(path + key))
      else:
        yield from pieces(child, f'{path}{key}/')

  with open(file, 'wb') as stream:
    stream.writelines(pieces(tree, ''))
