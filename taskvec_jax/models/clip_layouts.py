"""How published CLIP checkpoints name their tensors, and lay them out.

Three layouts, here with a query's kernel, `W [n_in, n_out]` of models/vit.py:

  hugging_face  vision_model.encoder.layers.3.self_attn.q_proj.weight   W'
  flax          vision_model/encoder/layers/3/self_attn/q_proj/kernel   W
  open_clip     visual.transformer.resblocks.3.attn.in_proj_weight
                                          W' of query, key and value, stacked

A layout is a table, tensor -> the parameters that it holds. What there is of a
CLIP (a text tower, projections, how many blocks) is read from the names of the
tensors. Parameters are called by their paths:
'vision/block_3/attention/query/kernel', 'text/ln_final/scale', 'logit_scale'.

Convolutions are [d, C, p, p] in the two of PyTorch, [p, p, C, d] in Flax's and
here; embeddings, and open_clip's projections, are the same everywhere.

Source: the files that transformers 4 and 5 and open_clip write.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import NamedTuple

import numpy as np

_TRANSPOSED = (1, 0)
_CONVOLUTION = (2, 3, 1, 0)  # [d, C, p, p] -> [p, p, C, d]

# Buffers: they hold no parameter, and are kept as they are.
_EXTRAS = re.compile(
    r'((vision_model|text_model)\.)?embeddings\.position_ids'
    r'|input_resolution|context_length|vocab_size'
)
_ATTENTION = ('query', 'key', 'value')
# Our name, Hugging Face's, open_clip's.
_NORMS = (
    ('ln_1', 'layer_norm1', 'ln_1'),
    ('ln_2', 'layer_norm2', 'ln_2'),
)
_LINEAR_MAPS = (
    ('attention/out', 'self_attn.out_proj', 'attn.out_proj'),
    ('mlp/in', 'mlp.fc1', 'mlp.c_fc'),
    ('mlp/out', 'mlp.fc2', 'mlp.c_proj'),
)


class Entry(NamedTuple):
  """What a tensor holds."""

  # Paths of parameters of one shape; several are stacked along the first axis.
  leaves: tuple[str, ...]
  # A parameter's axes, as axes of its part of the tensor; None: the same ones.
  axes: tuple[int, ...] | None = None


class Layout(NamedTuple):
  """The table of one checkpoint."""

  name: str  # 'hugging_face', 'flax' or 'open_clip'
  entries: dict[str, Entry]  # tensor -> its parameters
  extras: tuple[str, ...]  # tensors without a parameter


def layout(path: object, names: Iterable[str]) -> Layout:
  """Returns the layout of the tensors that a checkpoint has.

  Args:
    path: the checkpoint, for what is said of it.
    names: of its tensors; Flax's are paths.

  Raises:
    ValueError: the names are of no layout, one is missing or one too many.
  """
  known = set(names)
  dotted = {_dotted(name) for name in known}
  prefixed = any(name.startswith('vision_model.') for name in dotted)
  prefix = 'vision_model.' if prefixed else ''
  text_depth = _depth(dotted, 'text_model.encoder.layers.')
  if depth := _depth(known, 'visual.transformer.resblocks.'):
    name, text_depth = 'open_clip', _depth(known, 'transformer.resblocks.')
  elif depth := _depth(known, f'{prefix}encoder.layers.'):
    name = 'hugging_face'
  elif depth := _depth(dotted, f'{prefix}encoder.layers.'):
    name = 'flax'
  else:
    raise ValueError(
        f"{path} has no block of a CLIP's vision tower, of which names begin"
        " with 'vision_model.encoder.layers.', 'encoder.layers.',"
        " 'vision_model/encoder/layers/' or 'visual.transformer.resblocks.',"
        f" but {len(known)} tensors such as '{min(known, default='')}'."
    )
  table = entries(
      name,
      depth=depth,
      text_depth=text_depth,
      prefix=prefix,
      has_projection='visual_projection.weight' in dotted,
  )
  extras = {name for name in known if _EXTRAS.fullmatch(name)}
  missing = sorted(table.keys() - known)
  unknown = sorted(known - table.keys() - extras)
  if missing or unknown:
    problems = [
        f'{problem} {len(found)}, the first of them {found[0]!r}'
        for problem, found in (('lacks', missing), ('has besides', unknown))
        if found
    ]
    raise ValueError(
        f'A {name} checkpoint with {depth} blocks in its vision tower has'
        f' {len(table)} tensors, but {path} {" and ".join(problems)}.'
    )
  return Layout(name, table, tuple(sorted(extras)))


def entries(
    name: str,
    *,
    depth: int,
    text_depth: int = 0,
    prefix: str = 'vision_model.',
    has_projection: bool = True,
) -> dict[str, Entry]:
  """Returns the table of a layout.

  Args:
    name: 'hugging_face', 'flax' or 'open_clip'.
    depth: blocks of the vision tower.
    text_depth: blocks of the text tower; 0: there is none.
    prefix: of Hugging Face's vision tower; '' where it was saved alone.
    has_projection: whether such a tower has one; beside a text tower it does.
  """
  if name == 'open_clip':
    return _open_clip(depth, text_depth)
  table = _hugging_face(depth, text_depth, prefix, has_projection)
  return _flax(table) if name == 'flax' else table


def tensor_shape(entry: Entry, shape: Sequence[int]) -> tuple[int, ...]:
  """Returns the shape of the tensor whose parameters have `shape`."""
  if entry.axes is not None:
    shape = [shape[axis] for axis in np.argsort(entry.axes)]
  if len(entry.leaves) > 1:
    shape = [len(entry.leaves) * shape[0], *shape[1:]]
  return tuple(shape)


def split(entry: Entry, tensor: np.ndarray) -> list[np.ndarray]:
  """Returns the parameters in a tensor, views of it."""
  parts = [tensor]
  if len(entry.leaves) > 1:
    parts = np.split(tensor, len(entry.leaves))
  if entry.axes is None:
    return parts
  return [part.transpose(entry.axes) for part in parts]


def join(entry: Entry, leaves: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the tensor that holds the parameters, a view if it holds one."""
  if entry.axes is not None:
    inverse = np.argsort(entry.axes)
    leaves = [leaf.transpose(inverse) for leaf in leaves]
  return leaves[0] if len(leaves) == 1 else np.concatenate(leaves)


def to_hugging_face(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns Flax's arrays as Hugging Face's tensors, views of them."""
  tensors = {}
  for name, array in arrays.items():
    axes = None
    if name.endswith('/kernel'):
      axes = _CONVOLUTION if array.ndim == 4 else _TRANSPOSED
    tensors[_dotted(name)] = join(Entry((name,), axes), [array])
  return tensors


def _hugging_face(
    depth: int, text_depth: int, prefix: str, has_projection: bool
) -> dict[str, Entry]:
  table = {
      f'{prefix}embeddings.class_embedding': _as_is('vision/class_token'),
      f'{prefix}embeddings.patch_embedding.weight': Entry(
          ('vision/patch_embedding/kernel',), _CONVOLUTION
      ),
      f'{prefix}embeddings.position_embedding.weight': _as_is(
          'vision/position_embedding'
      ),
  }
  # Misspelled like this wherever it was published.
  table |= _norm(f'{prefix}pre_layrnorm', 'vision/ln_pre')
  table |= _norm(f'{prefix}post_layernorm', 'vision/ln_post')
  for index in range(depth):
    block = f'{prefix}encoder.layers.{index}.'
    table |= _hugging_face_block(block, f'vision/block_{index}/')
  if text_depth or has_projection:
    table |= _kernel('visual_projection', 'vision/projection')
  if text_depth:
    embeddings = 'text_model.embeddings.'
    for name in ('token_embedding', 'position_embedding'):
      table[f'{embeddings}{name}.weight'] = _as_is(f'text/{name}')
    for index in range(text_depth):
      block = f'text_model.encoder.layers.{index}.'
      table |= _hugging_face_block(block, f'text/block_{index}/')
    table |= _norm('text_model.final_layer_norm', 'text/ln_final')
    table |= _kernel('text_projection', 'text/projection')
    table['logit_scale'] = _as_is('logit_scale')
  return table


def _hugging_face_block(block: str, ours: str) -> dict[str, Entry]:
  table = {}
  for leaf, name, _ in _NORMS:
    table |= _norm(block + name, ours + leaf)
  linear_maps = [(leaf, name) for leaf, name, _ in _LINEAR_MAPS]
  for leaf in _ATTENTION:
    linear_maps.append((f'attention/{leaf}', f'self_attn.{leaf[0]}_proj'))
  for leaf, name in linear_maps:
    table |= _kernel(block + name, ours + leaf)
    table[f'{block}{name}.bias'] = _as_is(f'{ours}{leaf}/bias')
  return table


def _flax(table: Mapping[str, Entry]) -> dict[str, Entry]:
  """Returns the same table for Flax, whose arrays are laid out as ours."""
  renamed = {}
  for name, entry in table.items():
    if name.endswith('.weight'):
      leaf = entry.leaves[0].rpartition('/')[2]
      last = leaf if leaf in ('kernel', 'scale') else 'embedding'
      name = f'{name.removesuffix("weight")}{last}'
    renamed[name.replace('.', '/')] = Entry(entry.leaves)
  return renamed


def _dotted(name: str) -> str:
  """Returns PyTorch's name of what has Flax's."""
  name = name.replace('/', '.')
  return re.sub(r'\.(kernel|scale|embedding)$', '.weight', name)


def _open_clip(depth: int, text_depth: int) -> dict[str, Entry]:
  table = {
      'visual.class_embedding': _as_is('vision/class_token'),
      'visual.conv1.weight': Entry(
          ('vision/patch_embedding/kernel',), _CONVOLUTION
      ),
      'visual.positional_embedding': _as_is('vision/position_embedding'),
      'visual.proj': _as_is('vision/projection/kernel'),
  }
  table |= _norm('visual.ln_pre', 'vision/ln_pre')
  table |= _norm('visual.ln_post', 'vision/ln_post')
  for index in range(depth):
    block = f'visual.transformer.resblocks.{index}.'
    table |= _open_clip_block(block, f'vision/block_{index}/')
  if text_depth:
    table['token_embedding.weight'] = _as_is('text/token_embedding')
    table['positional_embedding'] = _as_is('text/position_embedding')
    for index in range(text_depth):
      block = f'transformer.resblocks.{index}.'
      table |= _open_clip_block(block, f'text/block_{index}/')
    table |= _norm('ln_final', 'text/ln_final')
    table['text_projection'] = _as_is('text/projection/kernel')
    table['logit_scale'] = _as_is('logit_scale')
  return table


def _open_clip_block(block: str, ours: str) -> dict[str, Entry]:
  stacked = [f'{ours}attention/{leaf}' for leaf in _ATTENTION]
  table = {
      f'{block}attn.in_proj_weight': Entry(
          tuple(f'{leaf}/kernel' for leaf in stacked), _TRANSPOSED
      ),
      f'{block}attn.in_proj_bias': Entry(
          tuple(f'{leaf}/bias' for leaf in stacked)
      ),
  }
  for leaf, _, name in _NORMS:
    table |= _norm(block + name, ours + leaf)
  for leaf, _, name in _LINEAR_MAPS:
    table |= _kernel(block + name, ours + leaf)
    table[f'{block}{name}.bias'] = _as_is(f'{ours}{leaf}/bias')
  return table


def _as_is(leaf: str) -> Entry:
  return Entry((leaf,))


def _norm(name: str, leaf: str) -> dict[str, Entry]:
  return {
      f'{name}.weight': _as_is(f'{leaf}/scale'),
      f'{name}.bias': _as_is(f'{leaf}/bias'),
  }


def _kernel(name: str, leaf: str) -> dict[str, Entry]:
  return {f'{name}.weight': Entry((f'{leaf}/kernel',), _TRANSPOSED)}


def _depth(names: Iterable[str], prefix: str) -> int:
  """Returns how many different numbers follow `prefix` in the names."""
  rests = (name[len(prefix) :] for name in names if name.startswith(prefix))
  return len({rest.partition('.')[0] for rest in rests})
