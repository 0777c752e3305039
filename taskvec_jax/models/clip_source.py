"""A CLIP checkpoint on disk: its files, its tensors and what they add up to.

Everything that can be known without the values is checked here: whether files
are whole, whether tensors are those of a layout (models/clip_layouts.py) and
whether their shapes fit together (models/clip_sizes.py).

Cost: of safetensors, the headers; of msgpack, which has none, the whole file.
"""

from collections.abc import Callable
from collections.abc import Mapping
import os
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.models import clip_configs
from taskvec_jax.models import clip_layouts
from taskvec_jax.models import clip_sizes
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import flax_msgpack

_FLAX_NAME = 'flax_model.msgpack'


class Source(NamedTuple):
  """A checkpoint on disk: what there is in it, without its values."""

  path: pathlib.Path  # as it was asked for
  file: pathlib.Path  # of its weights, or the first shard
  layout: clip_layouts.Layout
  shapes: dict[str, tuple[int, ...]]  # of its tensors
  dtypes: dict[str, np.dtype]
  # Of safetensors; None for msgpack, which is one file without a header.
  files: files_lib.TensorFiles | None
  vision: clip_sizes.VisionSizes
  text: clip_sizes.TextSizes | None


def open_source(
    path: str | os.PathLike[str],
) -> tuple[Source, Callable[[str], np.ndarray]]:
  """Returns a checkpoint, and what reads a tensor of it by name, once.

  Args:
    path: a folder or file, as `task_vectors.files.open_tensors` takes it, or
      Flax's `.msgpack` or a folder with flax_model.msgpack.

  Raises:
    ValueError: it is damaged, or no CLIP in a known layout.
  """
  path = pathlib.Path(path)
  file = _file(path)
  if file.suffix == '.msgpack':
    files, arrays = None, flax_msgpack.read(file)
    tensors: Mapping[str, Any] = arrays
    read_fn = arrays.pop
  else:
    files = files_lib.open_tensors(path)
    tensors = files.tensors
    file = files.files[0]
    read_fn = _reader(files)
  shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
  dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
  layout = clip_layouts.layout(path, shapes)
  vision, text = clip_sizes.sizes(path, layout, shapes)
  source = Source(
      path=path,
      file=file,
      layout=layout,
      shapes=shapes,
      dtypes=dtypes,
      files=files,
      vision=vision,
      text=text,
  )
  return source, read_fn


def facts(
    source: Source, sizes: clip_sizes.VisionSizes | clip_sizes.TextSizes
) -> clip_configs.Facts:
  """Returns what the config beside a checkpoint says of one of its towers."""
  return clip_configs.read_facts(source.file.parent, source.layout, sizes)


def _reader(files: files_lib.TensorFiles) -> Callable[[str], np.ndarray]:
  return lambda name: files_lib.read(files, name)


def _file(path: pathlib.Path) -> pathlib.Path:
  """Returns the msgpack file that `path` means, or `path`."""
  beside = path / _FLAX_NAME
  if beside.is_file() and not any(path.glob('*.safetensors')):
    return beside
  return path
