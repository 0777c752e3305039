"""Tasks from TensorFlow Datasets (TFDS), read without TensorFlow.

TFDS reads array_record files through `as_data_source`, which needs no
TensorFlow; downloading and preparing a set mostly does, once, in a process of
its own. Here a set must have been prepared: nothing is downloaded.

  DATA_DIR/NAME[/CONFIG]/VERSION/dataset_info.json

is looked up, the highest version of several. Images are decoded by Pillow from
the stored bytes. A set whose images have one size no larger than `image_size`
keeps that size; all others are scaled and cropped as image folders are. Splits
are TFDS's own: 'validation' is the test set where there is no labelled 'test',
and where there is only 'train', as in eurosat or resisc45, a part of it, by
default a fifth, stratified and always the same, is the test set. It is drawn
after the order of TFDS's files, so that it is the same for the same version.

Cost: every image is decoded once, in a run of several processes by the one that
holds it.

Source: TensorFlow Datasets, https://www.tensorflow.org/datasets.
"""

import os
import pathlib
from typing import Any

import numpy as np
import tqdm

from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import task as task_lib


def load_tfds(
    name: str,
    *,
    data_dir: str | pathlib.Path | None,
    image_size: int,
    test_fraction: float = 0.2,
    share: task_lib.Share = task_lib.WHOLE,
) -> task_lib.Task:
  """Returns the task of a prepared TFDS set with features image and label.

  Args:
    name: 'NAME', 'NAME/CONFIG', either with ':VERSION' at its end.
    data_dir: where sets were prepared; None for $TFDS_DATA_DIR, else
      ~/tensorflow_datasets, as in TFDS itself.
    image_size: side in pixels that larger or unequal images are brought to.
    test_fraction: of the training images that become the test set where the
      set has only 'train'.
    share: what this process reads and holds of the images.

  Raises:
    ValueError: if the set is not prepared there (says how to prepare it), is
      not in array_record files, or is no image classification set.
  """
  folder = data_folder(data_dir)
  builder_dir = _builder_dir(name, folder)
  # Slow to import (0.5 s), and only tasks from TFDS need it.
  import tensorflow_datasets as tfds

  try:
    # Any: TFDS hides the true types behind decorators.
    builder: Any = tfds.builder_from_directory(str(builder_dir))
    info = builder.info
    is_dict = isinstance(info.features, tfds.features.FeaturesDict)
    features: dict[str, Any] = dict(info.features.items()) if is_dict else {}
  except Exception as error:  # Of TFDS, protobuf, JSON or the file system.
    raise _unreadable(name, builder_dir, error) from error
  if not (
      isinstance(features.get('image'), tfds.features.Image)
      and isinstance(features.get('label'), tfds.features.ClassLabel)
      and features['image'].np_dtype == np.uint8
  ):
    raise ValueError(
        f'TFDS set {name!r} has the features'
        f" {', '.join(sorted(features)) or 'none'}, but a task needs an 8-bit"
        " 'image' and a class 'label'."
    )

  def read(split: str) -> task_lib.Examples:
    return _read_split(
        builder.as_data_source(
            split, decoders={'image': tfds.decode.SkipDecoding()}
        ),
        shape=features['image'].shape,
        image_size=image_size,
        description=f'{name}/{split}',
        share=share,
    )

  if 'train' not in info.splits:
    raise ValueError(
        f"TFDS set {name!r} has the splits {', '.join(info.splits) or 'none'},"
        " but 'train' is needed."
    )
  wanted = ('train', 'validation', 'test')
  try:
    splits = {split: read(split) for split in wanted if split in info.splits}
  except NotImplementedError as error:
    raise ValueError(
        f'TFDS set {name!r} in {builder_dir} is not in array_record files,'
        f' which can be read without TensorFlow;'
        f' {how_to_prepare(name, folder)}'
    ) from error
  except (OSError, ValueError, RuntimeError) as error:
    raise _unreadable(name, builder_dir, error) from error
  train, validation = splits['train'], splits.get('validation')
  test = splits.get('test')
  # Some sets have a test split with every label hidden as -1.
  if test is not None and (test.labels < 0).all():
    test = None
  if test is None and validation is not None:
    test, validation = validation, None
  if test is None:
    num_test = max(1, int(test_fraction * len(train.labels)))
    train, test = task_lib.split_off(train, num_test, seed=0)
  class_names = tuple(features['label'].names)
  return task_lib.check_task(
      task_lib.Task(
          name=name.partition(':')[0].replace('/', '_'),
          train=train,
          test=test,
          num_classes=len(class_names),
          class_names=class_names,
          validation=validation,
      )
  )


def data_folder(data_dir: str | pathlib.Path | None) -> pathlib.Path:
  """Returns the folder of prepared sets: `data_dir`, else TFDS's default."""
  return pathlib.Path(
      data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  ).expanduser()


def is_prepared(name: str, data_dir: str | pathlib.Path | None) -> bool:
  """Returns whether a version of the set `name` lies in `data_dir`."""
  return bool(_versions(name, data_folder(data_dir)))


def how_to_prepare(name: str, data_dir: str | pathlib.Path | None) -> str:
  """Returns the end of a sentence, the commands that prepare a set."""
  return (
      'prepare it once with `pip install tensorflow-cpu` and `python -c'
      ' "import tensorflow_datasets as tfds;'
      f" tfds.builder('{name}', data_dir='{data_folder(data_dir)}',"
      " file_format='array_record').download_and_prepare()\"`."
  )


def _builder_dir(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Returns the folder of a prepared set, of its highest version."""
  found = _versions(name, data_dir)
  if not found:
    raise ValueError(
        f'TFDS set {name!r} is not prepared in'
        f' {data_dir / name.partition(":")[0]};'
        f' {how_to_prepare(name, data_dir)}'
    )
  return max(found, key=lambda path: _version_key(path.name))


def _versions(name: str, data_dir: pathlib.Path) -> list[pathlib.Path]:
  base, _, version = name.partition(':')
  found = (data_dir / base).glob('*/dataset_info.json')
  return [path.parent for path in found if version in ('', path.parent.name)]


def _version_key(version: str) -> tuple[int, ...]:
  parts = version.split('.')
  return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _unreadable(
    name: str, builder_dir: pathlib.Path, error: Exception
) -> ValueError:
  reason = (str(error).splitlines() or [type(error).__name__])[0]
  return ValueError(
      f'TFDS set {name!r} in {builder_dir} cannot be read: {reason}; delete'
      ' that folder and prepare the set again.'
  )


def _read_split(
    source: Any,
    *,
    shape: tuple[int | None, ...],
    image_size: int,
    description: str,
    share: task_lib.Share,
) -> task_lib.Examples:
  """Returns the examples of a TFDS data source that yields encoded images."""
  height, width, channels = shape
  num_channels = 1 if channels == 1 else 3
  size, scaled_to = (image_size, image_size), image_size
  if height is not None and width is not None:
    if max(height, width) <= image_size:
      size, scaled_to = (height, width), None  # kept as it is
  mine = range(share.index, len(source), share.count)
  images = np.empty((len(mine), *size, num_channels), np.uint8)
  labels = np.zeros(len(source), np.int32)
  progress = tqdm.tqdm(mine, desc=description, unit='image', disable=None)
  for row, i in enumerate(progress):
    example = source[i]
    try:
      images[row] = image_folder.decode_image(
          example['image'],
          image_size=scaled_to,
          num_channels=num_channels,
      )
    except ValueError as error:
      raise ValueError(
          f'image {i} of TFDS split {description} cannot be read: {error}'
      ) from error
    labels[i] = example['label']
  holders = task_lib.holders_of(len(source), share)
  return task_lib.Examples(images, share.joined(labels), holders)
