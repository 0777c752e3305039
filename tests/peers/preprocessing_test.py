"""Preprocessed images beside transformers' CLIP image processor with Pillow."""

import io

import numpy as np
from PIL import Image
import pytest
import transformers

from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import preprocessing

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def _processor(image_size):
  return transformers.CLIPImageProcessorPil(
      size={'shortest_edge': image_size},
      crop_size={'height': image_size, 'width': image_size},
  )


def _image(height, width, mode='RGB', seed=0):
  """Hard edges, fine stripes and noise: where two resizes differ most."""
  rng = np.random.default_rng((seed, height, width))
  rows, columns = np.ogrid[:height, :width]
  pixels = np.where((rows // 5 + columns // 7) % 2, 255, 0)
  pixels = np.where(columns > width // 2, 255 * (columns % 2), pixels)
  pixels = np.stack([pixels, pixels.max() - pixels, pixels[::-1]], axis=2)
  noise = rng.integers(0, 256, pixels.shape)
  pixels = np.where(rows[..., None] > 2 * height // 3, noise, pixels)
  image = Image.fromarray(pixels.astype(np.uint8))
  return image if mode == 'RGB' else image.convert(mode)


@pytest.mark.parametrize(
    ('height', 'width'),
    [
        (375, 500),  # landscape
        (500, 333),  # portrait
        (227, 224),  # 3 too many: halves may be rounded in two ways
        (224, 231),
        (301, 299),
        (224, 224),
        (32, 32),  # tiny, square and not
        (15, 25),
        (3, 2),
        (1, 9),
        (64, 640),
    ],
)
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_every_pixel_is_that_of_clips_own_preprocessing(height, width, mode):
  image = _image(height, width, mode)
  theirs = _processor(224)(image, return_tensors='np')['pixel_values'][0]
  pixels = np.asarray(image).reshape((1, height, width, -1))
  mine = preprocessing.preprocess(
      pixels, image_size=224, num_channels=3, mean=_MEAN, std=_STD
  )[0]
  levels = (mine - theirs.transpose((1, 2, 0))) * np.array(_STD)
  assert np.abs(levels).max() <= 1 / 255 + 1e-6
  # In fact they are the same, but for rounding in float32.
  assert np.abs(levels).max() < 1e-5


@pytest.mark.parametrize('image_size', [32, 99, 336])
def test_other_sizes_too(image_size):
  for height, width in ((120, 211), (211, 120), (20, 31)):
    image = _image(height, width, seed=1)
    theirs = _processor(image_size)(image, return_tensors='np')
    theirs = theirs['pixel_values'][0].transpose((1, 2, 0))
    mine = preprocessing.preprocess(
        np.asarray(image)[None],
        image_size=image_size,
        num_channels=3,
        mean=_MEAN,
        std=_STD,
    )[0]
    assert np.abs((mine - theirs) * np.array(_STD)).max() < 1e-5


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', '1'])
def test_files_read_at_load_time_are_resized_the_same_way(mode):
  # Sets of images of many sizes are brought to one when they are read.
  image = _image(150, 241, mode)
  data = io.BytesIO()
  image.save(data, 'png')
  pixels = image_folder.decode_image(
      data.getvalue(), image_size=96, num_channels=3
  )
  theirs = _processor(96)(image, return_tensors='np')['pixel_values'][0]
  theirs = theirs.transpose((1, 2, 0)) * np.array(_STD) + np.array(_MEAN)
  assert np.abs(pixels / 255 - theirs).max() < 1e-5
