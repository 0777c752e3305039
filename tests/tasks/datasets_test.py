"""TFDS sets, really prepared by TFDS, read without TensorFlow."""

import io
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from taskvec_jax.tasks import load
from tests.tasks import shares

_LABELS = ('disc', 'ring', 'star')


def _png(pixels):
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'png')
  data.seek(0)
  return data


def _pixels(seed, index, shape):
  rng = np.random.default_rng((seed, index))
  return rng.integers(0, 256, shape, dtype=np.uint8)


class _Builder(tfds.core.GeneratorBasedBuilder):
  """A set whose splits and shape the subclasses say."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First.'}
  SHAPE = (None, None, 3)
  SPLITS = {'train': 20, 'test': 10}

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=self.SHAPE),
                'label': tfds.features.ClassLabel(names=_LABELS),
            }
        ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
        name: self._generate_examples(seed, num)
        for seed, (name, num) in enumerate(self.SPLITS.items())
    }

  def _generate_examples(self, seed, num):
    for i in range(num):
      height, width, channels = self.SHAPE
      pixels = _pixels(seed, i, (height or 12 + i, width or 16, channels))
      # As bytes, which TFDS stores as they are: arrays it would encode with
      # TensorFlow.
      yield i, {
          'image': _png(pixels if channels == 3 else pixels[..., 0]),
          'label': i % 3,
      }


class Shapes(_Builder):
  """Colour images of different sizes."""


class Marks(_Builder):
  """Grey images of one size, with a validation split."""

  SHAPE = (6, 5, 1)
  SPLITS = {'train': 20, 'test': 10, 'validation': 4}


class Fields(_Builder):
  """A set that has only a training split."""

  SPLITS = {'train': 30}


class Hidden(_Builder):
  """A set without test labels, tested on validation."""

  SPLITS = {'train': 20, 'validation': 8}


class Boxes(_Builder):
  """A set that is not for classification."""

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {'image': tfds.features.Image(shape=self.SHAPE), 'label': np.int64}
        ),
    )


def _prepare(builder, data_dir):
  builder(
      data_dir=str(data_dir), file_format='array_record'
  ).download_and_prepare()


def _sorted(images):
  return sorted(image.tobytes() for image in images)


def test_a_prepared_set_is_read_without_tensorflow(tmp_path):
  _prepare(Marks, tmp_path)
  task = load.load_task('tfds:marks', data_dir=tmp_path)
  assert (task.name, task.num_classes) == ('marks', 3)
  assert task.class_names == _LABELS
  for seed, split in enumerate((task.train, task.test, task.validation)):
    num = len(split.labels)
    assert num == (20, 10, 4)[seed]
    # TFDS shuffles; the images keep their own size and their labels.
    expected = {
        _pixels(seed, i, (6, 5, 1)).tobytes(): i % 3 for i in range(num)
    }
    found = zip(split.images, split.labels, strict=True)
    assert {image.tobytes(): label for image, label in found} == expected
  assert 'tensorflow' not in sys.modules


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
  _prepare(Shapes, tmp_path)
  task = load.load_task('tfds:shapes', data_dir=tmp_path, image_size=9)
  assert task.train.images.shape == (18, 9, 9, 3)
  assert len(task.validation.labels) == 2
  assert task.test.images.shape == (10, 9, 9, 3)
  # One size, but larger than image_size: brought to it too.
  _prepare(Marks, tmp_path)
  small = load.load_task('tfds:marks', data_dir=tmp_path, image_size=4)
  assert small.test.images.shape == (10, 4, 4, 1)


def test_a_set_with_only_train_gives_a_fifth_of_it_to_test(tmp_path):
  _prepare(Fields, tmp_path)
  task = load.load_task('tfds:fields', data_dir=tmp_path, image_size=9)
  assert np.bincount(task.test.labels).tolist() == [2, 2, 2]
  assert len(task.train.labels) + len(task.validation.labels) == 24
  again = load.load_task('tfds:fields', data_dir=tmp_path, image_size=9)
  assert _sorted(task.test.images) == _sorted(again.test.images)


@pytest.mark.parametrize('builder', [Fields, Hidden])
def test_processes_that_read_a_share_each_have_the_task_of_one(
    tmp_path, builder
):
  _prepare(builder, tmp_path)
  spec, where = f'tfds:{builder.name}', {'data_dir': tmp_path, 'image_size': 9}
  parts = shares.in_processes(
      2, lambda share: load.load_task(spec, **where, share=share)
  )
  shares.assert_the_same(parts, load.load_task(spec, **where))


def test_a_set_without_test_is_tested_on_its_validation_split(tmp_path):
  _prepare(Hidden, tmp_path)
  task = load.load_task('tfds:hidden', data_dir=tmp_path, image_size=9)
  assert len(task.test.labels) == 8
  assert len(task.train.labels) + len(task.validation.labels) == 20


def test_the_highest_version_is_read_unless_one_is_named(tmp_path, monkeypatch):
  for version, num_train in (('9.0.0', 7), ('10.0.0', 8)):
    monkeypatch.setattr(Marks, 'VERSION', tfds.core.Version(version))
    monkeypatch.setattr(Marks, 'RELEASE_NOTES', {version: 'Another.'})
    monkeypatch.setattr(Marks, 'SPLITS', {'train': num_train, 'validation': 4})
    _prepare(Marks, tmp_path)
  latest = load.load_task('tfds:marks', data_dir=tmp_path)
  named = load.load_task('tfds:marks:9.0.0', data_dir=tmp_path)
  sizes = [
      len(task.train.labels) + len(task.validation.labels)
      for task in (latest, named)
  ]
  assert sizes == [8, 7]
  assert latest.name == named.name == 'marks'


def test_a_set_of_which_files_are_damaged_or_missing_is_refused(tmp_path):
  _prepare(Marks, tmp_path)
  folder = tmp_path / 'marks' / '1.0.0'
  (test_file,) = folder.glob('marks-test*')
  whole = test_file.read_bytes()
  test_file.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='cannot be read') as error:
    load.load_task('tfds:marks', data_dir=tmp_path)
  assert str(folder) in str(error.value)
  test_file.unlink()
  with pytest.raises(ValueError, match='cannot be read') as error:
    load.load_task('tfds:marks', data_dir=tmp_path)
  assert str(folder) in str(error.value)
  (folder / 'dataset_info.json').write_text('{')
  with pytest.raises(ValueError, match='cannot be read') as error:
    load.load_task('tfds:marks', data_dir=tmp_path)
  assert '\n' not in str(error.value)


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
  with pytest.raises(ValueError, match='not prepared') as error:
    load.load_task('tfds:cifar10', data_dir=tmp_path)
  message = str(error.value)
  assert str(tmp_path / 'cifar10') in message
  assert 'pip install tensorflow-cpu' in message
  assert (
      f"tfds.builder('cifar10', data_dir='{tmp_path}',"
      " file_format='array_record').download_and_prepare()"
  ) in message
  assert '\n' not in message


def test_the_default_place_is_that_of_tfds(tmp_path, monkeypatch):
  _prepare(Marks, tmp_path)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert load.load_task('tfds:marks').name == 'marks'


def test_a_set_in_other_files_is_refused(tmp_path):
  _prepare(Marks, tmp_path)
  info = tmp_path / 'marks' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(ValueError, match='not in array_record files') as error:
    load.load_task('tfds:marks', data_dir=tmp_path)
  assert 'tensorflow-cpu' in str(error.value)


def test_a_set_that_is_not_for_classification_is_refused(tmp_path):
  _prepare(Boxes, tmp_path)
  with pytest.raises(ValueError, match='features image, label, but'):
    load.load_task('tfds:boxes', data_dir=tmp_path)
