"""Parameters of a CLIP into files like those that they were read from.

The files of the source give names, order, shards, metadata and dtypes; tensors
that hold no parameter, or none that is given, are copied from them. Every value
is checked before a byte is written. Beside Flax's msgpack the same tensors are
written as Hugging Face's safetensors.

Cost: one tensor at a time beside the parameters; for Flax's msgpack, if there
is something to copy, the source's file as well, and of half precision the
parameters in it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import os
import shutil
from typing import Any

import numpy as np

from taskvec_jax.models import clip_layouts
from taskvec_jax.models import clip_sizes
from taskvec_jax.models import clip_source
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import flax_msgpack


def write(
    folder: str | os.PathLike[str],
    source: clip_source.Source,
    leaves: Mapping[str, Any],
) -> None:
  """Writes a folder like the source's, with other values.

  Args:
    folder: must not exist; it is there once all of it is written.
    source: the checkpoint to be like, still on disk.
    leaves: parameters by their paths, of any float dtype, NumPy's or JAX's; all
      of a tower or none.

  Raises:
    ValueError: `folder` exists; a parameter is missing, is not the source's, or
      has another shape; a value is NaN or too large for its dtype.
  """
  _check(source, leaves)
  with file_writing.new_folder(folder) as hidden:
    if source.files is None:
      file = source.file
      old = flax_msgpack.read(file) if _copied(source, leaves) else {}
      arrays = {
          name: _tensor(source, name, leaves, old.get(name))
          for name in source.shapes
      }
      flax_msgpack.write(hidden / file.name, arrays, arrays.__getitem__)
      # transformers opened Flax's files up to version 4, and opens these.
      file_writing.save(
          hidden / 'model.safetensors',
          clip_layouts.to_hugging_face(arrays),
          {'format': 'pt'},
      )
    else:
      file_writing.write_files(
          source.files, hidden, _range_fn(source, source.files, leaves)
      )
    for file in files_lib.beside(source.file):
      shutil.copyfile(file, hidden / file.name)


def _check(source: clip_source.Source, leaves: Mapping[str, Any]) -> None:
  """Raises a ValueError unless the source's files can hold the parameters."""
  shapes = clip_sizes.leaf_shapes(source.vision, source.text)
  towers = {leaf.partition('/')[0] for leaf in leaves}
  wanted = {leaf for leaf in shapes if leaf.partition('/')[0] in towers}
  for leaf in sorted(wanted | leaves.keys()):
    found = np.shape(leaves[leaf]) if leaf in leaves else 'absent'
    expected = shapes.get(leaf, 'absent')
    if found != expected:
      raise ValueError(
          f'Parameter {leaf} is {found} but {expected} in {source.path}, whose'
          ' layout it is to be written in.'
      )
  for name, entry in source.layout.entries.items():
    for leaf in entry.leaves:
      if leaf not in leaves:
        continue
      with np.errstate(over='ignore'):
        values = np.asarray(leaves[leaf]).astype(
            source.dtypes[name], copy=False
        )
      if not np.isfinite(values).all():
        raise ValueError(
            f'Parameter {leaf} has values that are NaN, infinite or too large'
            f' for {source.dtypes[name]}, the dtype of {name!r} in'
            f' {source.path}.'
        )


def _tensor(
    source: clip_source.Source, name: str, leaves: Mapping[str, Any], old: Any
) -> Any:
  """Returns a tensor in its dtype, or `old` if it is made of no parameters."""
  entry = source.layout.entries.get(name)
  if entry is None or entry.leaves[0] not in leaves:
    return old
  arrays = [np.asarray(leaves[leaf]) for leaf in entry.leaves]
  tensor = clip_layouts.join(entry, arrays)
  return np.require(tensor, source.dtypes[name], 'C')


def _range_fn(
    source: clip_source.Source,
    files: files_lib.TensorFiles,
    leaves: Mapping[str, Any],
) -> Callable[[str, int, int], np.ndarray]:
  """Returns what `write_like` asks for ranges; it keeps the last tensor."""
  last: dict[str, np.ndarray | None] = {}

  def values(name: str, start: int, stop: int) -> np.ndarray:
    if name not in last:
      last.clear()
      last[name] = _tensor(source, name, leaves, None)
    tensor = last[name]
    if tensor is None:
      return files_lib.read_range(files, name, start, stop)
    return tensor.reshape(-1)[start:stop]

  return values


def _copied(source: clip_source.Source, leaves: Mapping[str, Any]) -> bool:
  """Returns whether some tensor is the source's own."""
  return any(
      entry.leaves[0] not in leaves for entry in source.layout.entries.values()
  )
