"""Which architecture a published CLIP checkpoint is of: the modules it fits.

Sizes are those of the tensors (models/clip_sizes.py). What is in no tensor, the
number of heads, the activation, the end token and the mean and deviation of
pixels, comes from the `config.json` and `preprocessor_config.json` (Hugging
Face) or the `open_clip_config.json` beside them. What they leave out is the
default of the library that wrote them. Without a config a head is 64 wide, as
in all of CLIP's published towers, pixels are OpenAI's, and the activation has
to be said: that of OpenAI's weights is quick-GELU, of most others GELU, and the
wrong one gives no error, only worse features.
"""

import json
import pathlib
from typing import Any
from typing import NamedTuple

from taskvec_jax.models import clip_layouts
from taskvec_jax.models import clip_sizes
from taskvec_jax.models import clip_text
from taskvec_jax.models import vit

_HEAD_WIDTH = 64
# Of the images that OpenAI's CLIP was trained on; most others took them over.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_CONFIG_NAMES = {
    'hugging_face': 'config.json',
    'flax': 'config.json',
    'open_clip': 'open_clip_config.json',
}
# What both libraries leave out.
_NUM_HEADS = {'vision': 12, 'text': 8}
_END_TOKEN = 49407
# By it transformers means the largest id, since old configs have it wrongly.
_LARGEST_ID = 2
# Keys of open_clip that change nothing here beyond sizes and heads.
_OPEN_CLIP_KEYS = {
    'vision': {
        'head_width',
        'image_size',
        'layers',
        'mlp_ratio',
        'patch_dropout',
        'patch_size',
        'width',
    },
    'text': {
        'context_length',
        'heads',
        'hf_tokenizer_name',
        'layers',
        'mlp_ratio',
        'vocab_size',
        'width',
    },
}


class Facts(NamedTuple):
  """What a config says of a tower; None: nothing."""

  num_heads: int | None = None
  activation: str | None = None
  end_token: int | None = None  # of texts; None also means the largest id
  pixel_mean: tuple[float, ...] | None = None  # of images in 0 .. 1
  pixel_std: tuple[float, ...] | None = None


def vision_module(
    path: object,
    sizes: clip_sizes.VisionSizes,
    facts: Facts,
    activation: str | None = None,
) -> vit.ViT:
  """Returns the vision tower of a checkpoint.

  Args:
    path: the checkpoint, for what is said of it.
    sizes: of its tensors.
    facts: what its config says.
    activation: 'quick_gelu' or 'gelu', for a checkpoint without a config.

  Raises:
    ValueError: the activation is not known, or is not the config's.
  """
  return vit.ViT(
      patch_size=sizes.patch_size,
      width=sizes.width,
      depth=sizes.depth,
      num_heads=facts.num_heads or max(1, sizes.width // _HEAD_WIDTH),
      mlp_width=sizes.mlp_width,
      projection=sizes.projection,
      activation=_activation(path, facts, activation),
      pixel_mean=facts.pixel_mean or PIXEL_MEAN,
      pixel_std=facts.pixel_std or PIXEL_STD,
  )


def text_module(
    path: object,
    sizes: clip_sizes.TextSizes,
    facts: Facts,
    activation: str | None = None,
) -> clip_text.TextTransformer:
  """Returns the text tower of a checkpoint, as `vision_module` the other."""
  return clip_text.TextTransformer(
      **sizes._asdict(),
      num_heads=facts.num_heads or max(1, sizes.width // _HEAD_WIDTH),
      activation=_activation(path, facts, activation),
      end_token=facts.end_token,
  )


def check_module(
    path: object,
    module: vit.ViT | clip_text.TextTransformer,
    sizes: clip_sizes.VisionSizes | clip_sizes.TextSizes,
    facts: Facts,
) -> None:
  """Raises a ValueError with all values if a checkpoint is not of `module`."""
  said = {key: value for key, value in facts._asdict().items() if value}
  problems = [
      f'its {name} is {value}, not {getattr(module, name)}'
      for name, value in (sizes._asdict() | said).items()
      if hasattr(module, name) and value != getattr(module, name)
  ]
  if problems:
    raise ValueError(
        f'{path} is of another architecture than the'
        f' {type(module).__name__} it is read for: {", ".join(problems)}.'
    )


def _activation(path: object, facts: Facts, activation: str | None) -> str:
  if facts.activation is None and activation is None:
    raise ValueError(
        f'The activation of {path} is in none of its tensors and no config is'
        " beside it; say 'quick_gelu' (OpenAI's weights) or 'gelu'."
    )
  if facts.activation and activation not in (None, facts.activation):
    raise ValueError(
        f'The activation of {path} is {facts.activation!r} by the config beside'
        f' it, not {activation!r}.'
    )
  return facts.activation or str(activation)


def read_facts(
    folder: pathlib.Path,
    layout: clip_layouts.Layout,
    tower: clip_sizes.VisionSizes | clip_sizes.TextSizes,
) -> Facts:
  """Returns heads and activation of a tower from the config in a folder.

  Raises:
    ValueError: the config is not JSON, or says what the tensors or the modules
      of this package contradict.
  """
  file = folder / _CONFIG_NAMES[layout.name]
  if not file.is_file():
    return Facts()
  name = 'vision' if isinstance(tower, clip_sizes.VisionSizes) else 'text'
  try:
    config = json.loads(file.read_bytes())
    if layout.name == 'open_clip':
      found, facts = _open_clip_config(file, config, name)
    else:
      found, facts = _hugging_face_config(file, config, name)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    if isinstance(error, ValueError) and str(file) in str(error):
      raise
    raise ValueError(
        f"{file} is no config of a CLIP's {name} tower ({error!r})."
    ) from error
  for key, value in found.items():
    if value is not None and value != getattr(tower, key):
      raise ValueError(
          f'{file} says that the {name} tower has {key} {value}, but its'
          f' tensors have {getattr(tower, key)}.'
      )
  return facts


def _hugging_face_config(
    file: pathlib.Path, config: dict[str, Any], name: str
) -> tuple[dict[str, Any], Facts]:
  if f'{name}_config' in config:
    # The second is of old files, and goes before the first.
    config = (config[f'{name}_config'] or {}) | (
        config.get(f'{name}_config_dict') or {}
    )
  epsilon = config.get('layer_norm_eps', vit.EPSILON)
  if epsilon != vit.EPSILON:
    raise ValueError(
        f'{file} says that layer norms add {epsilon} to the variance; here it'
        f' is {vit.EPSILON}.'
    )
  found = {
      'width': config.get('hidden_size'),
      'depth': config.get('num_hidden_layers'),
      'mlp_width': config.get('intermediate_size'),
  }
  if name == 'vision':
    found['patch_size'] = config.get('patch_size')
  facts = Facts(
      num_heads=config.get('num_attention_heads', _NUM_HEADS[name]),
      activation=config.get('hidden_act', 'quick_gelu'),
  )
  if name == 'text':
    end_token = config.get('eos_token_id', _END_TOKEN)
    if not isinstance(end_token, int):
      raise TypeError(f'eos_token_id is {end_token!r}, not one id')
    if end_token != _LARGEST_ID:
      facts = facts._replace(end_token=end_token)
  elif (beside := file.with_name('preprocessor_config.json')).is_file():
    facts = _with_pixels(facts, json.loads(beside.read_bytes()), 'image_')
  return found, facts


def _open_clip_config(
    file: pathlib.Path, config: dict[str, Any], name: str
) -> tuple[dict[str, Any], Facts]:
  model_config = config['model_cfg']
  activation = 'quick_gelu' if model_config.get('quick_gelu') else 'gelu'
  tower = model_config[f'{name}_cfg']
  unknown = sorted(tower.keys() - _OPEN_CLIP_KEYS[name])
  if unknown:
    raise ValueError(
        f'{file} sets {unknown[0]} of the {name} tower to'
        f' {tower[unknown[0]]!r}, which the towers here do not have.'
    )
  found = {'width': tower.get('width'), 'depth': tower.get('layers')}
  if name == 'text':
    return found, Facts(tower.get('heads', _NUM_HEADS[name]), activation)
  found['patch_size'] = tower.get('patch_size')
  head_width = tower.get('head_width', _HEAD_WIDTH)
  facts = Facts(tower['width'] // head_width, activation)
  return found, _with_pixels(facts, config.get('preprocess_cfg', {}), '')


def _with_pixels(facts: Facts, config: dict[str, Any], prefix: str) -> Facts:
  """Returns the facts with the mean and deviation that a config may have."""
  mean, std = (config.get(f'{prefix}{name}') for name in ('mean', 'std'))
  if mean is None or std is None:
    return facts
  return facts._replace(pixel_mean=tuple(mean), pixel_std=tuple(std))
