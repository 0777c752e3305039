"""A user's own images as a task: ROOT/{train,test}/CLASS/*.png and the like.

Classes are the folders of `train`, sorted by name; `test` must have the same
ones, and so must the optional `val`. Files are read in sorted order, made RGB,
and brought to one size as `preprocessing` does (shorter side, then the centre),
so that folders of photographs of any size become one uint8 array. Hidden files
and folders (a name that begins with a dot) are left out.

Cost: every image is decoded once, in a run of several processes by the one that
holds it; the arrays hold 3 image_size^2 bytes each.
"""

import io
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageOps
import tqdm

from taskvec_jax.tasks import preprocessing
from taskvec_jax.tasks import task as task_lib

SUFFIXES = ('.png', '.jpg', '.jpeg', '.ppm', '.bmp', '.webp')


def load_image_folder(
    root: str | pathlib.Path,
    *,
    image_size: int,
    share: task_lib.Share = task_lib.WHOLE,
) -> task_lib.Task:
  """Returns the task in an image folder, images [N, size, size, 3].

  Args:
    root: with `train`, `test` and perhaps `val`, each with a folder a class.
    image_size: side of the images in pixels.
    share: what this process decodes and holds of them.

  Raises:
    ValueError: if there are no classes, the splits have different ones, a
      class has no image, or an image cannot be read (the file is named).
  """
  root = pathlib.Path(root).expanduser().resolve()
  class_names = _class_names(root / 'train')
  names = ['train', 'test']
  if (root / 'val').is_dir():
    names.append('val')
  for name in names[1:]:
    found = _class_names(root / name)
    difference = sorted(set(class_names) ^ set(found))
    if difference:
      raise ValueError(
          f'{root / "train"} has {len(class_names)} classes and {root / name}'
          f' has {len(found)}, but they must be the same; only one of the two'
          f' has {", ".join(map(repr, difference))}.'
      )
  # All folders are listed before the first, slow, image is decoded.
  files = {name: _list_files(root / name, class_names) for name in names}
  splits = {
      name: _read_split(files[name], image_size, f'{root.name}/{name}', share)
      for name in names
  }
  return task_lib.check_task(
      task_lib.Task(
          name=root.name,
          train=splits['train'],
          test=splits['test'],
          num_classes=len(class_names),
          class_names=class_names,
          validation=splits.get('val'),
      )
  )


def decode_image(
    data: bytes, *, image_size: int | None, num_channels: int
) -> np.ndarray:
  """Returns the uint8 [H, W, num_channels] of an encoded image.

  Args:
    data: the bytes of a file of any kind that Pillow reads.
    image_size: side of the result; None keeps the image's own size.
    num_channels: 1 (grey) or 3 (RGB).

  Raises:
    ValueError: if the bytes are not a whole image.
  """
  try:
    with Image.open(io.BytesIO(data)) as opened:
      opened.load()
      image = ImageOps.exif_transpose(opened)
  except Exception as error:  # Pillow's readers raise a dozen kinds.
    raise ValueError(f'not a readable image: {error}') from error
  if image.mode.startswith('I;16'):
    # Pillow would clip 16-bit grey at 255, where it should be scaled.
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if 'transparency' in image.info:
    image = image.convert('RGBA')  # A palette cannot go to RGB in one step.
  image = image.convert('L' if num_channels == 1 else 'RGB')
  if image_size is not None:
    image = preprocessing.resize_and_crop(image, image_size)
  return np.asarray(image).reshape((image.height, image.width, num_channels))


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
  if not folder.is_dir():
    raise ValueError(
        f'there is no folder {folder}; an image folder is laid out as'
        ' ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png.'
    )
  names = sorted(
      path.name
      for path in folder.iterdir()
      if path.is_dir() and not path.name.startswith('.')
  )
  if not names:
    raise ValueError(
        f'{folder} has no classes: put the images of each class into a folder'
        ' of its own there.'
    )
  return tuple(names)


def _list_files(
    folder: pathlib.Path, class_names: tuple[str, ...]
) -> list[tuple[pathlib.Path, int]]:
  """Returns (path, label) of all images of a split, by class and name."""
  files = []
  for label, name in enumerate(class_names):
    paths = sorted(
        path
        for path in (folder / name).iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith('.')
    )
    if not paths:
      raise ValueError(
          f'{folder / name} has no image: none of its files ends in'
          f' {", ".join(SUFFIXES)}.'
      )
    files += [(path, label) for path in paths]
  return files


def _read_split(
    files: list[tuple[pathlib.Path, int]],
    image_size: int,
    description: str,
    share: task_lib.Share,
) -> task_lib.Examples:
  labels = np.array([label for _, label in files], np.int32)
  holders = task_lib.holders_of(len(files), share)
  mine = files[share.index :: share.count]
  images = np.empty((len(mine), image_size, image_size, 3), np.uint8)
  progress = tqdm.tqdm(mine, desc=description, unit='image', disable=None)
  for i, (path, _) in enumerate(progress):
    try:
      images[i] = decode_image(
          path.read_bytes(), image_size=image_size, num_channels=3
      )
    except (OSError, ValueError) as error:
      raise ValueError(f'{path} cannot be read: {error}') from error
  return task_lib.Examples(images, labels, holders)
