"""Rendered glyphs: an unlimited, deterministic set to pretrain encoders on.

Some five hundred characters of the DejaVu fonts that matplotlib ships (Latin,
Greek, Cyrillic, Hebrew, Armenian and Georgian letters, digits, arrows,
mathematical and geometric symbols), each image with its own font, affine map,
bend, stroke width, blur, contrast, background and noise. Features that tell
them apart carry over to digits, letters, silhouettes, textures and faces.

How: every character is drawn once a font and kept as a signed distance to its
outline, in pixels, positive inside. An image samples that field at warped
positions, and

  ink = clip(1/2 + (distance + thickness) / (2 blur), 0, 1),

so stroke width and blur are a shift and a scale of one field, and the edges are
smooth at any size. Drawing the fields costs about a second once a process, an
image about 0.1 ms.

The packaged task `letters` draws from other font files: pretraining sees none
of the files in which that task's letters are drawn.
"""

import functools
import pathlib
from typing import NamedTuple

import matplotlib
from matplotlib import ft2font
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from scipy import ndimage

from taskvec_jax.tasks import task as task_lib

_FONT_DIR = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'

# Names of the font files, in matplotlib's own folder.
PRETRAINING_FONTS = tuple(
    sorted(path.name for path in _FONT_DIR.glob('DejaVu*.ttf'))
)

# First and last code point, both included.
_CODE_POINTS = (
    (0x30, 0x39),  # digits
    (0x41, 0x5A),  # Latin
    (0x61, 0x7A),
    (0x391, 0x3C9),  # Greek
    (0x410, 0x44F),  # Cyrillic
    (0x5D0, 0x5EA),  # Hebrew
    (0x531, 0x586),  # Armenian
    (0x10D0, 0x10F0),  # Georgian
    (0x2190, 0x21AF),  # arrows
    (0x2200, 0x223D),  # mathematics
    (0x2295, 0x22A5),
    (0x25A0, 0x25CF),  # shapes
    (0x2648, 0x2667),  # signs
)

_EM = 28  # font size, in pixels of a field
_FIELD = 48  # side of a field
_FAR = 6.0  # distances are cut here, in pixels
_SMALLEST = 9  # characters drawn smaller than this are left out
_BEND = 4  # control points a side of the smooth random fields


class Fields(NamedTuple):
  """What is drawn once: K fields of M characters."""

  distances: np.ndarray  # float32 [K, _FIELD, _FIELD], in pixels
  sizes: np.ndarray  # float32 [K]: longer side of the character, in pixels
  first: np.ndarray  # [M]: a character's first field
  count: np.ndarray  # [M]: how many fonts hold it


@functools.lru_cache(maxsize=1)
def num_classes() -> int:
  """Returns the number of characters told apart."""
  return len(_fields().count)


def glyphs(
    seed: int, *, num_images: int, image_size: int = 28
) -> task_lib.Examples:
  """Returns rendered glyphs, the same ones for the same arguments.

  Args:
    seed: of everything that is random.
    num_images: N; classes are balanced to within one image.
    image_size: s, the side in pixels.

  Returns:
    Images `uint8 [N, s, s, 1]` and labels `int32 [N]` below `num_classes()`.

  Raises:
    ValueError: if there is nothing to draw, or too few pixels to draw it on.
  """
  if num_images < 1:
    raise ValueError(f'At least one image has to be drawn, not {num_images}.')
  if image_size < 8:
    raise ValueError(
        f'A glyph needs at least 8 pixels a side, but image_size is'
        f' {image_size}.'
    )
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(num_images) % num_classes())
  # In blocks, so that the memory does not grow with the number of images.
  blocks = [
      _draw(rng, labels[start : start + 1000], image_size)
      for start in range(0, num_images, 1000)
  ]
  return task_lib.Examples(np.concatenate(blocks), labels.astype(np.int32))


def _draw(
    rng: np.random.Generator, labels: np.ndarray, image_size: int
) -> np.ndarray:
  """Returns images `uint8 [N, s, s, 1]` of the characters `labels [N]`."""
  fields = _fields()
  num = len(labels)
  uniform = functools.partial(_uniform, rng, num)

  which = rng.integers(fields.count[labels]) + fields.first[labels]
  rows, columns = _warp(rng, fields.sizes[which], image_size)
  distance = _sample(fields.distances, which, rows, columns)
  # Every sixth is an outline.
  outline = uniform(0, 1) < 1 / 6
  distance = np.where(outline, 1.2 - np.abs(distance), distance)
  ink = (distance + uniform(-0.6, 1.2)) / (2 * uniform(0.5, 1.8)) + 0.5
  ink = np.clip(ink, 0, 1)

  # Most on a black ground, as digits are; the rest on a grey, uneven one.
  plain = uniform(0, 1) < 0.5
  ground = uniform(0, 0.4) + uniform(0, 0.2) * _smooth(rng, num, image_size)
  ground = np.where(plain, 0, ground)
  paint = uniform(0.7, 1)
  image = ground + (paint - ground) * ink
  image = np.where(uniform(0, 1) < 0.3, 1 - image, image)
  noise = rng.standard_normal(image.shape, dtype=np.float32)
  image = image + noise * np.where(plain, 0.02, uniform(0, 0.1))
  return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None]


def _warp(
    rng: np.random.Generator, sizes: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns where in a field each pixel looks: rows, columns `[N, s, s]`."""
  num = len(sizes)
  uniform = functools.partial(_uniform, rng, num)
  # In units in which the image reaches from -1 to 1.
  line = (np.arange(image_size, dtype=np.float32) + 0.5) * 2 / image_size - 1
  y, x = line[:, None], line[None, :]
  bend = uniform(0, 0.12)
  y = y - uniform(-0.2, 0.2) + bend * _smooth(rng, num, image_size)
  x = x - uniform(-0.2, 0.2) + bend * _smooth(rng, num, image_size)
  # The character's longer side covers 1 / zoom of the image.
  zoom = np.exp(uniform(np.log(1.0), np.log(1.9)))
  aspect = np.exp(uniform(-0.25, 0.25))
  angle = 0.2 * rng.standard_normal((num, 1, 1), dtype=np.float32)
  y, x = y * zoom * aspect, x * zoom / aspect
  x = x + uniform(-0.35, 0.35) * y
  rows = np.cos(angle) * y - np.sin(angle) * x
  columns = np.sin(angle) * y + np.cos(angle) * x
  half = sizes[:, None, None] / 2
  middle = (_FIELD - 1) / 2
  return rows * half + middle, columns * half + middle


def _uniform(
    rng: np.random.Generator, num: int, low: float, high: float
) -> np.ndarray:
  """Returns a number an image, float32 `[num, 1, 1]`."""
  return rng.uniform(low, high, (num, 1, 1)).astype(np.float32)


def _smooth(rng: np.random.Generator, num: int, image_size: int) -> np.ndarray:
  """Returns smooth random fields `[num, s, s]` of standard deviation near 1."""
  line = np.linspace(0, _BEND - 1, image_size, dtype=np.float32)
  weights = np.exp(-((line[:, None] - np.arange(_BEND)) ** 2))
  weights /= np.linalg.norm(weights, axis=1, keepdims=True)
  controls = rng.standard_normal((num, _BEND, _BEND), dtype=np.float32)
  return (weights @ controls @ weights.T).astype(np.float32)


def _sample(
    fields: np.ndarray, which: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Returns `fields[which]` at `rows`, `columns`, bilinearly, far outside."""
  rows = np.clip(rows, 0, _FIELD - 1.001)
  columns = np.clip(columns, 0, _FIELD - 1.001)
  top, left = rows.astype(np.int32), columns.astype(np.int32)
  down, right = rows - top, columns - left
  flat = fields.reshape(-1)
  corner = (which[:, None, None] * _FIELD + top) * _FIELD + left
  upper = flat[corner] * (1 - right) + flat[corner + 1] * right
  corner += _FIELD
  lower = flat[corner] * (1 - right) + flat[corner + 1] * right
  return upper * (1 - down) + lower * down


@functools.lru_cache(maxsize=1)
def _fields() -> Fields:
  """Draws every character in every font that holds it, once a process."""
  fonts = []
  for name in PRETRAINING_FONTS:
    path = str(_FONT_DIR / name)
    held = frozenset(ft2font.FT2Font(path).get_charmap())
    fonts.append((ImageFont.truetype(path, _EM), held))
  distances, sizes, first, count = [], [], [], []
  seen = set()
  for low, high in _CODE_POINTS:
    for code in range(low, high + 1):
      drawn = [_render(font, chr(code)) for font, held in fonts if code in held]
      drawn = [ink for ink in drawn if _longer_side(ink) >= _SMALLEST]
      # Latin A, Greek Alpha and Cyrillic A look the same: one class.
      if not drawn or drawn[0].tobytes() in seen:
        continue
      seen.update(ink.tobytes() for ink in drawn)
      first.append(len(distances))
      count.append(len(drawn))
      distances.extend(_signed_distance(ink) for ink in drawn)
      sizes.extend(_longer_side(ink) for ink in drawn)
  return Fields(
      np.stack(distances),
      np.asarray(sizes, np.float32),
      np.asarray(first),
      np.asarray(count),
  )


def _render(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
  """Returns the character's ink, bool `[_FIELD, _FIELD]`, in the middle."""
  left, top, right, bottom = font.getbbox(character)
  image = Image.new('L', (_FIELD, _FIELD))
  middle = ((_FIELD - left - right) / 2, (_FIELD - top - bottom) / 2)
  ImageDraw.Draw(image).text(middle, character, fill=255, font=font)
  return np.asarray(image) > 127


def _longer_side(ink: np.ndarray) -> int:
  """Returns the longer side of the box around the ink, in pixels."""
  rows, columns = np.nonzero(ink)
  return int(max(np.ptp(rows), np.ptp(columns))) + 1 if rows.size else 0


def _signed_distance(ink: np.ndarray) -> np.ndarray:
  """Returns the distance to the outline in pixels, positive inside the ink."""
  inside = np.asarray(ndimage.distance_transform_edt(ink))
  outside = np.asarray(ndimage.distance_transform_edt(~ink))
  signed = np.where(ink, inside - 0.5, 0.5 - outside)
  return np.clip(signed, -_FAR, _FAR).astype(np.float32)
