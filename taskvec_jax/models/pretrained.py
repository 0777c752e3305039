"""Published CLIP weights as parameters of our modules, and back.

`read` takes a checkpoint of any layout of models/clip_layouts.py, safetensors
(one file, or shards with an index) or Flax's msgpack, to the nested dicts of
models/vit.py and models/clip_text.py, in float32. `write` puts any parameters,
base, finetuned or merged, back into the files they came from: the same names,
order, shards, metadata and dtypes, and the same bytes wherever a parameter has
the value that was read. float16 and bfloat16 go to float32 and back unchanged.
A config and a tokenizer beside the weights are copied, so that what is written
opens wherever the original does. Flax's msgpack is written twice, as it was and
as Hugging Face's safetensors: transformers 5 opens no msgpack any more.

Nothing runs code that it reads: pickles are refused. All is checked before a
byte is written, and a folder appears whole or not at all.

Cost: reading needs the parameters and, of safetensors, one tensor at a time;
of msgpack, the file once more. Writing needs one tensor at a time beside the
parameters; of msgpack, if a tower is copied, the file once more, and if it is
of half precision, the parameters in it.
"""

import os
from typing import NamedTuple

from flax import traverse_util
import ml_dtypes
import numpy as np

from taskvec_jax.models import clip_configs
from taskvec_jax.models import clip_layouts
from taskvec_jax.models import clip_source
from taskvec_jax.models import clip_text
from taskvec_jax.models import clip_writing
from taskvec_jax.models import vit
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.typing import Params

_DTYPES = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))


class Pretrained(NamedTuple):
  """Parameters of a CLIP, and where they came from.

  A tower that is None is not there, or was not asked for; in writing it is
  copied from the source.
  """

  vision: Params  # of `vit.ViT`, NumPy arrays in float32
  text: Params | None  # of `clip_text.TextTransformer`
  logit_scale: float | None  # its exponential multiplies the cosines
  source: clip_source.Source


def open_weights(path: str | os.PathLike[str]) -> clip_source.Source:
  """Returns what there is in a checkpoint; only msgpack is read for it.

  Args:
    path: a folder or file, as `task_vectors.files.open_tensors` takes it, or
      Flax's `.msgpack` or a folder with flax_model.msgpack.

  Raises:
    ValueError: it is damaged, or no CLIP in a known layout.
  """
  return clip_source.open_source(path)[0]


def vision_module(
    source: clip_source.Source, *, activation: str | None = None
) -> vit.ViT:
  """Returns the vision tower whose parameters a checkpoint has.

  Args:
    source: the checkpoint.
    activation: 'quick_gelu' or 'gelu', for a checkpoint without a config.

  Raises:
    ValueError: its config contradicts its tensors, or there is none and no
      activation.
  """
  return clip_configs.vision_module(
      source.path,
      source.vision,
      clip_source.facts(source, source.vision),
      activation,
  )


def text_module(
    source: clip_source.Source, *, activation: str | None = None
) -> clip_text.TextTransformer:
  """Returns the text tower, as `vision_module` the other.

  Raises:
    ValueError: as there, or the checkpoint has no text tower.
  """
  if source.text is None:
    raise ValueError(
        f'{source.path} holds a vision tower alone, {len(source.shapes)}'
        ' tensors; a text tower needs a checkpoint of the whole CLIP.'
    )
  return clip_configs.text_module(
      source.path,
      source.text,
      clip_source.facts(source, source.text),
      activation,
  )


def read(
    path: str | os.PathLike[str],
    *,
    module: vit.ViT | None = None,
    has_text: bool = True,
) -> Pretrained:
  """Returns the parameters of a checkpoint.

  Args:
    path: as `open_weights` takes it.
    module: the vision tower that they are for; None takes any.
    has_text: False leaves a text tower on disk.

  Raises:
    ValueError: as `open_weights`; the checkpoint is not of `module`; a tensor
      has a NaN or a dtype other than float32, float16 and bfloat16.
  """
  source, read_fn = clip_source.open_source(path)
  if module is not None:
    clip_configs.check_module(
        source.path,
        module,
        source.vision,
        clip_source.facts(source, source.vision),
    )
  leaves = {}
  for name, entry in source.layout.entries.items():
    if not has_text and not entry.leaves[0].startswith('vision/'):
      continue
    if source.dtypes[name] not in _DTYPES:
      raise ValueError(
          f'{source.path}: tensor {name!r} is of dtype {source.dtypes[name]},'
          f' but parameters are one of {", ".join(map(str, _DTYPES))}.'
      )
    tensor = read_fn(name).astype(np.float32, copy=False)
    files_lib.check_finite(tensor, name, source.path)
    for leaf, values in zip(
        entry.leaves, clip_layouts.split(entry, tensor), strict=True
    ):
      leaves[leaf] = np.require(values, requirements=('C', 'A', 'W'))
  tree = traverse_util.unflatten_dict(leaves, sep='/')
  scale = tree.get('logit_scale')
  return Pretrained(
      vision=tree['vision'],
      text=tree.get('text'),
      logit_scale=None if scale is None else float(scale),
      source=source,
  )


def read_finetuned(
    path: str | os.PathLike[str],
    base: Pretrained,
    *,
    module: vit.ViT | None = None,
) -> Params:
  """Returns the vision parameters of a finetuned checkpoint, a tree as base's.

  A checkpoint of the vision tower alone has no projection: it was frozen, and
  is the base's.

  Args:
    path: of the checkpoint, in any layout.
    base: what it was finetuned from.
    module: the vision tower that they are for; None takes any.

  Raises:
    ValueError: as `read` and `check_finetuned`.
  """
  finetuned = open_weights(path)
  check_finetuned(finetuned, base, module)
  params = read(path, has_text=False).vision
  if finetuned.vision.projection != base.source.vision.projection:
    params['projection'] = base.vision['projection']
  return params


def check_finetuned(
    finetuned: clip_source.Source, base: Pretrained, module: vit.ViT | None
) -> None:
  """Raises a ValueError unless a checkpoint may be one finetuned from `base`.

  Args:
    finetuned: the checkpoint; what a config beside it says of heads and
      activation counts too.
    base: what it was finetuned from.
    module: the vision tower that both are for; None takes any.
  """
  sizes = finetuned.vision
  if sizes.projection is None:
    sizes = sizes._replace(projection=base.source.vision.projection)
  if sizes != base.source.vision:
    raise ValueError(
        f'{finetuned.path} was not finetuned from {base.source.path}: its'
        f' vision tower has {finetuned.vision}, not {base.source.vision}.'
    )
  if module is not None:
    facts = clip_source.facts(finetuned, finetuned.vision)
    clip_configs.check_module(finetuned.path, module, sizes, facts)


def write(folder: str | os.PathLike[str], weights: Pretrained) -> None:
  """Writes parameters into a new folder, in the layout of their source.

  To write a merged model: `write(folder, base._replace(vision=merged_params))`.

  Args:
    folder: must not exist.
    weights: parameters of any float dtype, NumPy's or JAX's; their source must
      still be on disk.

  Raises:
    ValueError: `folder` exists; a parameter is missing, is not the source's, or
      has another shape; a value is NaN or too large for its dtype.
  """
  tree = {
      'vision': weights.vision,
      'text': weights.text,
      'logit_scale': weights.logit_scale,
  }
  tree = {name: value for name, value in tree.items() if value is not None}
  leaves = traverse_util.flatten_dict(tree, sep='/')
  clip_writing.write(folder, weights.source, leaves)
