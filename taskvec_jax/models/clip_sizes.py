"""Sizes of the towers of a CLIP, read from the shapes of its tensors.

Widths, depths, patches, positions, vocabulary and projections are each in the
shape of some tensor; from them follow the shapes of all the others. A tensor
that disagrees is named with both shapes.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import math
from typing import Any
from typing import NamedTuple

from taskvec_jax.models import clip_layouts


class VisionSizes(NamedTuple):
  """Sizes of a vision tower, as its tensors have them."""

  patch_size: int
  num_channels: int
  width: int
  depth: int
  mlp_width: int
  projection: int | None  # None: there is none
  num_positions: int

  @property
  def image_size(self) -> int:
    """Side of the square images in pixels."""
    return self.patch_size * math.isqrt(self.num_positions - 1)


class TextSizes(NamedTuple):
  """Sizes of a text tower, as its tensors have them."""

  vocab_size: int
  max_length: int
  width: int
  depth: int
  mlp_width: int
  projection: int


def sizes(
    path: object,
    layout: clip_layouts.Layout,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[VisionSizes, TextSizes | None]:
  """Returns the sizes of both towers.

  Args:
    path: the checkpoint, for what is said of it.
    layout: its table.
    shapes: of its tensors.

  Raises:
    ValueError: a tensor's shape does not fit the others'.
  """
  names = {entry.leaves[0]: name for name, entry in layout.entries.items()}

  def shape(leaf: str, num_axes: int) -> tuple[int, ...]:
    name = names[leaf]
    found, axes = shapes[name], layout.entries[name].axes
    if len(found) != num_axes:
      raise ValueError(
          f'{path}: tensor {name!r} has shape {found}, but it should have'
          f' {num_axes} axes.'
      )
    return tuple(found[axis] for axis in axes) if axes else found

  def depth(tower: str) -> int:
    return sum(leaf.endswith('/ln_1/bias') for leaf in names if tower in leaf)

  patch_size, _, num_channels, width = shape('vision/patch_embedding/kernel', 4)
  projection = 'vision/projection/kernel'
  vision = VisionSizes(
      patch_size=patch_size,
      num_channels=num_channels,
      width=width,
      depth=depth('vision/'),
      mlp_width=shape('vision/block_0/mlp/in/kernel', 2)[1],
      projection=shape(projection, 2)[1] if projection in names else None,
      num_positions=shape('vision/position_embedding', 2)[0],
  )
  side = math.isqrt(max(0, vision.num_positions - 1))
  if vision.num_positions != 1 + side**2:
    raise ValueError(
        f'{path}: tensor {names["vision/position_embedding"]!r} has'
        f' {vision.num_positions} positions, but the patches of a square image'
        f' and one more are {1 + side**2} or {1 + (side + 1) ** 2}.'
    )
  text = None
  if 'text/token_embedding' in names:
    vocab_size, width = shape('text/token_embedding', 2)
    text = TextSizes(
        vocab_size=vocab_size,
        max_length=shape('text/position_embedding', 2)[0],
        width=width,
        depth=depth('text/'),
        mlp_width=shape('text/block_0/mlp/in/kernel', 2)[1],
        projection=shape('text/projection/kernel', 2)[1],
    )
    if vision.projection not in (None, text.projection):
      raise ValueError(
          f'{path}: tensor {names["text/projection/kernel"]!r} gives'
          f' embeddings of {text.projection} numbers, but'
          f' {names[projection]!r} gives {vision.projection}; one image and its'
          ' text need as many.'
      )
  expected = leaf_shapes(vision, text)
  for name, entry in layout.entries.items():
    wanted = clip_layouts.tensor_shape(entry, expected[entry.leaves[0]])
    if shapes[name] != wanted:
      tower = text if entry.leaves[0].startswith('text/') else vision
      raise ValueError(
          f'{path}: tensor {name!r} has shape {shapes[name]}, but in a tower'
          f' with {_say(tower)}, as other tensors have it, its shape is'
          f' {wanted}.'
      )
  return vision, text


def leaf_shapes(
    vision: VisionSizes, text: TextSizes | None
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every parameter, by its path."""
  width = vision.width
  shapes: dict[str, tuple[int, ...]] = {
      'vision/patch_embedding/kernel': (
          vision.patch_size,
          vision.patch_size,
          vision.num_channels,
          width,
      ),
      'vision/class_token': (width,),
      'vision/position_embedding': (vision.num_positions, width),
      **_norm_shapes(('vision/ln_pre', 'vision/ln_post'), width),
      **_block_shapes('vision', vision.depth, width, vision.mlp_width),
  }
  if vision.projection is not None:
    shapes['vision/projection/kernel'] = (width, vision.projection)
  if text is None:
    return shapes
  return shapes | {
      'text/token_embedding': (text.vocab_size, text.width),
      'text/position_embedding': (text.max_length, text.width),
      **_norm_shapes(('text/ln_final',), text.width),
      **_block_shapes('text', text.depth, text.width, text.mlp_width),
      'text/projection/kernel': (text.width, text.projection),
      'logit_scale': (),
  }


def _norm_shapes(
    leaves: Iterable[str], width: int
) -> dict[str, tuple[int, ...]]:
  return {
      f'{leaf}/{part}': (width,)
      for leaf in leaves
      for part in ('scale', 'bias')
  }


def _block_shapes(
    tower: str, depth: int, width: int, mlp_width: int
) -> dict[str, tuple[int, ...]]:
  shapes: dict[str, tuple[int, ...]] = {}
  linear_maps = [
      (f'attention/{name}', width, width)
      for name in ('query', 'key', 'value', 'out')
  ]
  linear_maps += [('mlp/in', width, mlp_width), ('mlp/out', mlp_width, width)]
  for index in range(depth):
    block = f'{tower}/block_{index}'
    shapes |= _norm_shapes((f'{block}/ln_1', f'{block}/ln_2'), width)
    for name, num_inputs, num_outputs in linear_maps:
      shapes[f'{block}/{name}/kernel'] = (num_inputs, num_outputs)
      shapes[f'{block}/{name}/bias'] = (num_outputs,)
  return shapes


def _say(sizes: Any) -> str:
  return ', '.join(f'{key} {value}' for key, value in sizes._asdict().items())
