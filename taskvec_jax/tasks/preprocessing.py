"""From uint8 images of any size to the float32 inputs of a model.

  x -> (resize(x) / 255 - mean) / std

with `resize` the rule of CLIP: the shorter side is scaled to `image_size`
(bicubic with antialiasing, by Pillow), then the centre is cropped.
Grey becomes RGB by repetition, RGB becomes grey by the luma of ITU-R 601.
Everything here is a pure function of its arguments.

Cost: 5,000 MNIST images to 32 x 32 take about 0.1 s; images that have the
right size never meet Pillow.

Source: Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", arXiv:2103.00020, for the resize rule.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def preprocess(
    images: np.ndarray,
    *,
    image_size: int,
    num_channels: int,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> np.ndarray:
  """Returns a model's inputs, float32 [N, image_size, image_size, C].

  Args:
    images: uint8 [N, H, W, 1 or 3].
    image_size: side of the result in pixels.
    num_channels: C of the result, 1 or 3.
    mean: subtracted after the division by 255; one number or one a channel.
    std: divided by; one number or one a channel.

  Raises:
    ValueError: if the images are not such, or a number makes no sense.
  """
  mean32, std32 = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  for what, value in (('mean', mean32), ('std', std32)):
    if value.shape not in ((), (num_channels,)):
      raise ValueError(
          f'{what} has shape {list(value.shape)}, but must be one number or'
          f' {num_channels}, one a channel.'
      )
  if not (std32 > 0).all():
    raise ValueError(f'std is {std}, but must be positive.')
  images = to_size(images, image_size=image_size, num_channels=num_channels)
  return (images.astype(np.float32) / np.float32(255) - mean32) / std32


def to_size(
    images: np.ndarray, *, image_size: int, num_channels: int
) -> np.ndarray:
  """Returns uint8 [N, image_size, image_size, num_channels], not normalised.

  What a run keeps of its images: an encoder normalises them itself, on the
  device, at a quarter of the memory (`models.encoders.normalize`).

  Args:
    images: uint8 [N, H, W, 1 or 3].
    image_size: side of the result in pixels.
    num_channels: of the result, 1 or 3.

  Raises:
    ValueError: if the images are not such, or a number makes no sense.
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
        f'images are {images.dtype}{list(images.shape)}, but uint8'
        ' [N, H, W, C] is needed.'
    )
  for what, channels in (
      ('images have', images.shape[3]),
      ('num_channels is', num_channels),
  ):
    if channels not in (1, 3):
      raise ValueError(f'{what} {channels}, but 1 or 3 channels are needed.')
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but must be at least 1.')
  if images.shape[3] == 3 and num_channels == 1:
    images = luma(images)
  if images.shape[1:3] != (image_size, image_size):
    # Written in place: a list of images beside their array is twice as much.
    shape = (image_size, image_size, images.shape[3])
    resized = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
      square = resize_and_crop(to_pillow(image), image_size)
      resized[i] = np.asarray(square).reshape(shape)
    images = resized
  if images.shape[3] != num_channels:
    images = np.repeat(images, num_channels, axis=3)
  return images


def luma(images: np.ndarray) -> np.ndarray:
  """Returns the grey uint8 [..., 1] of RGB uint8 [..., 3], as Pillow's 'L'."""
  weights = np.array([19595, 38470, 7471], np.uint32)  # .299 .587 .114 * 2^16
  return ((images @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]


def to_pillow(image: np.ndarray) -> Image.Image:
  """Returns uint8 [H, W, 1 or 3] as a Pillow image of mode L or RGB."""
  return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def resize_and_crop(image: Image.Image, image_size: int) -> Image.Image:
  """Returns the central square of an image, `image_size` pixels wide.

  The shorter side is scaled to `image_size`, bicubic with antialiasing; the
  longer one follows, rounded down, and is cropped on both sides. Where an odd
  number of pixels is to go, the larger half goes right or below, as in
  transformers' CLIPImageProcessor; torchvision rounds halves to even and so
  crops one pixel further if the number leaves 3 on division by 4.
  """
  width, height = image.size
  short = min(width, height)
  size = (image_size * width // short, image_size * height // short)
  if image.size != size:
    image = image.resize(size, Image.Resampling.BICUBIC)
  left, top = (size[0] - image_size) // 2, (size[1] - image_size) // 2
  return image.crop((left, top, left + image_size, top + image_size))
