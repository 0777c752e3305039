"""Capital letters rendered from font files, each a little distorted.

A letter is drawn once, at `_OVERSAMPLING` times its size, then mapped by

  x -> turn(a) [[s_x, h], [0, s_y]] (x - c - t) + c

about the centre c, with the angle a in +-10 degrees, scales s in 0.85 .. 1.15,
the shear h in +-0.15 and the shift t in +-2 pixels, all uniform and drawn from
(seed, font, letter): an image does not depend on how many others are drawn
after it.

Cost: 0.1 ms an image.
"""

import pathlib
import string

import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from taskvec_jax.tasks import task as task_lib

_SIZE = 28  # pixels
_EM = 22  # pixels; leaves a margin for the distortion
_OVERSAMPLING = 2  # letters are drawn this much larger, then averaged down


def render(
    fonts: tuple[str, ...], num_images: int, *, seed: int
) -> task_lib.Examples:
  """Returns `num_images` of each capital letter in each font.

  Images are uint8 [26 * len(fonts) * num_images, 28, 28, 1], white on black;
  label 0 is A, label 25 is Z.

  Args:
    fonts: names of files in matplotlib's mpl-data/fonts/ttf.
    num_images: of a letter in a font.
    seed: of the distortions.
  """
  folder = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
  images, labels = [], []
  for font_index, name in enumerate(fonts):
    font = ImageFont.truetype(str(folder / name), _EM * _OVERSAMPLING)
    for label, letter in enumerate(string.ascii_uppercase):
      rng = np.random.default_rng((seed, font_index, label))
      for image in _distorted(letter, font, num_images, rng):
        images.append(image)
        labels.append(label)
  return task_lib.Examples(
      np.stack(images)[..., None], np.array(labels, np.int32)
  )


def _distorted(
    letter: str,
    font: ImageFont.FreeTypeFont,
    num_images: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
  """Returns a letter, uint8 [size, size], under random affine maps."""
  side = _SIZE * _OVERSAMPLING
  centre = np.array([side / 2, side / 2])
  canvas = Image.new('L', (side, side))
  ImageDraw.Draw(canvas).text(
      tuple(centre), letter, fill=255, font=font, anchor='mm'
  )
  images = []
  for _ in range(num_images):
    angle = np.deg2rad(rng.uniform(-10, 10))
    scale = rng.uniform(0.85, 1.15, 2)
    shear = rng.uniform(-0.15, 0.15)
    shift = rng.uniform(-2, 2, 2) * _OVERSAMPLING
    turn = np.array(
        [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
    )
    # Pillow asks for the map from the result back to the canvas.
    matrix = turn @ np.array([[scale[0], shear], [0, scale[1]]])
    offset = centre - matrix @ (centre + shift)
    image = canvas.transform(
        (side, side),
        Image.Transform.AFFINE,
        (*matrix[0], offset[0], *matrix[1], offset[1]),
        Image.Resampling.BILINEAR,
    )
    images.append(np.asarray(image.reduce(_OVERSAMPLING)))
  return images
