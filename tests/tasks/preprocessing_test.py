"""From uint8 images of any size to float32 inputs."""

import time

import numpy as np
from PIL import Image
import pytest

from taskvec_jax.tasks import preprocessing


def _images(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_images_of_the_right_size_are_only_scaled_and_shifted():
  images = _images(3, 6, 6, 3)
  mean, std = (0.1, 0.4, 0.5), (0.2, 0.3, 0.5)
  inputs = preprocessing.preprocess(
      images, image_size=6, num_channels=3, mean=mean, std=std
  )
  assert inputs.dtype == np.float32
  expected = (images / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(inputs, expected, rtol=1e-6, atol=1e-6)


def test_black_and_white_become_minus_one_and_one_by_default():
  images = np.array([0, 255], np.uint8).reshape((2, 1, 1, 1))
  inputs = preprocessing.preprocess(images, image_size=1, num_channels=1)
  assert inputs.ravel().tolist() == [-1.0, 1.0]


def test_preprocessing_leaves_its_input_alone_and_repeats_itself():
  images = _images(4, 9, 7, 3)
  before = images.copy()
  first = preprocessing.preprocess(images, image_size=5, num_channels=1)
  again = preprocessing.preprocess(images, image_size=5, num_channels=1)
  np.testing.assert_array_equal(images, before)
  np.testing.assert_array_equal(first, again)


def test_preprocessing_an_image_does_not_depend_on_its_neighbours():
  images = _images(5, 8, 8, 1)
  together = preprocessing.preprocess(images, image_size=12, num_channels=3)
  alone = preprocessing.preprocess(images[2:3], image_size=12, num_channels=3)
  np.testing.assert_array_equal(together[2:3], alone)


def test_grey_becomes_three_equal_channels():
  inputs = preprocessing.preprocess(
      _images(2, 8, 8, 1), image_size=10, num_channels=3
  )
  assert inputs.shape == (2, 10, 10, 3)
  np.testing.assert_array_equal(inputs[..., 0], inputs[..., 1])
  np.testing.assert_array_equal(inputs[..., 0], inputs[..., 2])


def test_grey_of_rgb_is_the_luma_of_pillow():
  image = _images(40, 50, 3)
  expected = np.asarray(Image.fromarray(image).convert('L'))
  np.testing.assert_array_equal(preprocessing.luma(image)[..., 0], expected)
  inputs = preprocessing.preprocess(
      image[None, :40, :40], image_size=40, num_channels=1, mean=0, std=1
  )
  np.testing.assert_allclose(
      inputs[0, :, :, 0], expected[:40, :40] / 255, rtol=1e-6
  )


def test_the_shorter_side_is_scaled_and_the_centre_kept():
  # Three 20 x 20 squares side by side: only the middle one is to be seen.
  image = np.zeros((1, 20, 60, 1), np.uint8)
  image[:, :, 20:40] = 200
  image[:, :, 40:] = 255
  for turned in (image, image.swapaxes(1, 2)):
    inputs = preprocessing.preprocess(
        turned, image_size=10, num_channels=1, mean=0, std=1
    )
    assert inputs.shape == (1, 10, 10, 1)
    centre = inputs[0, 2:-2, 2:-2, 0]
    np.testing.assert_allclose(centre, 200 / 255, atol=1 / 255)


@pytest.mark.parametrize('extra', [0, 1, 2, 3, 4, 5])
def test_of_an_odd_number_of_pixels_the_larger_half_goes_right(extra):
  # transformers' rule; with 3, rounding halves to even would begin at 2.
  columns = 10 * np.arange(4 + extra, dtype=np.uint8)
  image = np.tile(columns, (4, 1))[None, :, :, None]
  for turned in (image, image.swapaxes(1, 2)):
    kept = preprocessing.to_size(turned, image_size=4, num_channels=1)
    kept = kept[0, 0] if turned is image else kept[0, :, 0]
    first = extra // 2
    np.testing.assert_array_equal(kept[:, 0], columns[first : first + 4])


def test_a_finer_pattern_than_the_result_is_averaged_not_aliased():
  image = np.zeros((1, 64, 64, 1), np.uint8)
  image[:, ::2] = 255
  inputs = preprocessing.preprocess(
      image, image_size=8, num_channels=1, mean=0, std=1
  )
  np.testing.assert_allclose(inputs, 0.5, atol=0.02)


def test_no_images_become_no_inputs():
  inputs = preprocessing.preprocess(
      _images(0, 8, 8, 1), image_size=4, num_channels=3
  )
  assert inputs.shape == (0, 4, 4, 3)


def test_five_thousand_images_take_less_than_two_seconds():
  images = _images(5000, 28, 28, 1)
  start = time.perf_counter()
  preprocessing.preprocess(images, image_size=32, num_channels=1)
  assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    'images, kwargs, message',
    [
        (np.zeros((2, 4, 4, 1)), {}, r'float64\[2, 4, 4, 1\]'),
        (_images(2, 4, 4), {}, r'uint8\[2, 4, 4\]'),
        (_images(2, 4, 4, 4), {}, 'images have 4'),
        (_images(2, 4, 4, 1), dict(num_channels=2), 'num_channels is 2'),
        (_images(2, 4, 4, 1), dict(image_size=0), 'image_size is 0'),
        (_images(2, 4, 4, 1), dict(mean=(0.5, 0.5)), r'mean has shape \[2\]'),
        (_images(2, 4, 4, 1), dict(std=0.0), 'std is 0.0'),
    ],
)
def test_bad_arguments_are_refused_with_the_value(images, kwargs, message):
  arguments = dict(image_size=4, num_channels=1) | kwargs
  with pytest.raises(ValueError, match=message):
    preprocessing.preprocess(images, **arguments)
