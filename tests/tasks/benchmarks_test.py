"""The literature's image sets: names in the order of labels, splits, files."""

import collections
import io

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from taskvec_jax.tasks import benchmarks
from taskvec_jax.tasks import load
from taskvec_jax.tasks import task as task_lib

_SIZES = {
    'cars': (196, 8),
    'dtd': (47, 8),
    'eurosat': (10, 3),
    'gtsrb': (43, 3),
    'mnist': (10, 1),
    'resisc45': (45, 18),
    'svhn': (10, 1),
    'sun397': (397, 2),
    'cifar100': (100, 18),
}
_EUROSAT = {  # what the data calls a class, and what prompts call it
    'AnnualCrop': 'annual crop land',
    'Forest': 'forest',
    'HerbaceousVegetation': 'brushland or shrubland',
    'Highway': 'highway or road',
    'Industrial': 'industrial buildings or commercial buildings',
    'Pasture': 'pasture land',
    'PermanentCrop': 'permanent crop land',
    'Residential': 'residential buildings or homes or apartments',
    'River': 'river',
    'SeaLake': 'lake or sea',
}


def _key(name):
  """Letters and digits alone: what two spellings of a name share."""
  return ''.join(char for char in name.lower() if char.isalnum())


@pytest.mark.parametrize('name', benchmarks.NAMES)
def test_every_benchmark_has_its_classes_and_templates(name):
  prompts = benchmarks.prompts(name)
  names, templates = prompts
  assert (len(names), len(templates)) == _SIZES[name]
  assert len(set(map(_key, names))) == len(names)
  assert all(text == text.strip() and text for text in names + templates)
  assert all(template.count('{}') == 1 for template in templates)
  assert len(set(templates)) == len(templates)


@pytest.mark.parametrize(
    ('name', 'builder'),
    [
        ('cars', 'cars196'),
        ('dtd', 'dtd'),
        ('mnist', 'mnist'),
        ('resisc45', 'resisc45'),
        ('svhn', 'svhn_cropped'),
    ],
)
def test_class_names_are_in_the_order_of_tfds_labels(name, builder, tmp_path):
  # The names lie in the package; nothing is downloaded.
  labels = _tfds_labels(builder, tmp_path)
  names = benchmarks.prompts(name).class_names
  assert list(map(_key, names)) == list(map(_key, labels))


def test_eurosat_and_sun397_are_in_the_order_of_tfds_labels(tmp_path):
  # Both have other names in prompts than in the data.
  labels = _tfds_labels('eurosat/rgb', tmp_path)
  names = benchmarks.prompts('eurosat').class_names
  assert dict(zip(labels, names, strict=True)) == _EUROSAT
  labels = _tfds_labels('sun397/standard-part1-120k', tmp_path)
  names = benchmarks.prompts('sun397').class_names
  for label, name in zip(labels, names, strict=True):
    letter, rest = label[1], label[3:]  # '/a/apse/indoor'
    assert (letter, _key(rest)) == (name[0], _key(name))
    assert '_' not in name and '/' not in name


def test_cifar100_is_in_alphabetical_order_as_its_labels_are():
  # TFDS learns these names from the download.
  names = benchmarks.prompts('cifar100').class_names
  assert list(names) == sorted(names)
  assert names[:3] == ('apple', 'aquarium_fish', 'baby')
  assert names[26:28] == ('crab', 'crocodile')


def test_gtsrb_has_the_signs_of_the_official_class_ids():
  names = benchmarks.prompts('gtsrb').class_names
  for number, part in (
      (0, '20 kph'),
      (8, '120 kph'),
      (13, 'yield'),
      (14, 'stop'),
      (17, 'no entry'),
      (25, 'road work'),
      (33, 'right turn'),
      (40, 'traffic circle'),
      (42, 'trucks has ended'),
  ):
    assert part in names[number]


def _tfds_labels(name, tmp_path):
  return tfds.builder(name, data_dir=str(tmp_path)).info.features['label'].names


class Greys(tfds.core.GeneratorBasedBuilder):
  """Ten classes of one grey each, in another order than the benchmark's."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First.'}
  LABELS = tuple(reversed(_EUROSAT))
  SPLITS = {'train': 100}

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=(6, 6, 3)),
                'label': tfds.features.ClassLabel(names=self.LABELS),
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
      label = self.LABELS[i % 10]
      data = io.BytesIO()
      Image.fromarray(_pixels(label, (seed, i))).save(data, 'png')
      data.seek(0)
      yield i, {'image': data, 'label': label}


def _pixels(label, key):
  """A noisy patch whose grey says which class it is of."""
  known = label if label in _EUROSAT else 'River'
  grey = 20 * list(_EUROSAT).index(known) + 20
  noise = np.random.default_rng(key).integers(0, 8, (6, 6, 3))
  return (grey + noise).astype(np.uint8)


def _prepare(data_dir, target):
  """Prepares the set by TFDS and moves it to where `target` is looked for."""
  Greys(
      data_dir=str(data_dir / 'made'), file_format='array_record'
  ).download_and_prepare()
  (data_dir / target).mkdir(parents=True)
  (data_dir / 'made' / 'greys' / '1.0.0').rename(data_dir / target / '1.0.0')


def _assert_labels_fit(task):
  """The grey of every image is that of the class that its label names."""
  assert task.class_names == tuple(_EUROSAT.values())
  for split in (task.train, task.validation, task.test):
    greys = split.images.mean((1, 2, 3)) // 20 - 1
    np.testing.assert_array_equal(greys, split.labels)


def test_a_tfds_set_is_brought_into_the_order_of_the_class_names(tmp_path):
  _prepare(tmp_path, 'eurosat/rgb')
  task = load.load_task('eurosat', data_dir=tmp_path, image_size=8)
  assert task.name == 'eurosat'
  assert task.train.images.shape[1:] == (6, 6, 3)  # kept until it is needed
  _assert_labels_fit(task)
  # A tenth for test, a tenth of the rest for validation, both stratified.
  sizes = [len(s.labels) for s in (task.train, task.validation, task.test)]
  assert sizes == [81, 9, 10]
  assert np.bincount(task.test.labels).tolist() == 10 * [1]
  again = load.load_task('eurosat', data_dir=tmp_path, image_size=8)
  np.testing.assert_array_equal(again.test.images, task.test.images)


def test_the_validation_split_of_tfds_is_training_data(tmp_path, monkeypatch):
  splits = {'train': 30, 'validation': 20, 'test': 10}
  monkeypatch.setattr(Greys, 'SPLITS', splits)
  _prepare(tmp_path, 'eurosat/rgb')
  task = load.load_task('eurosat', data_dir=tmp_path, image_size=8)
  sizes = [len(s.labels) for s in (task.train, task.validation, task.test)]
  assert sizes == [45, 5, 10]
  _assert_labels_fit(task)


def test_classes_other_than_the_benchmarks_are_refused_naming_both(
    tmp_path, monkeypatch
):
  labels = ('Tundra', *Greys.LABELS[1:])
  monkeypatch.setattr(Greys, 'LABELS', labels)
  _prepare(tmp_path, 'eurosat/rgb')
  with pytest.raises(ValueError, match="'eurosat' has the 10 classes") as error:
    load.load_task('eurosat', data_dir=tmp_path, image_size=8)
  message = str(error.value)
  assert "'SeaLake'" in message
  assert "'Tundra'" in message
  assert '\n' not in message


def _write_folder(root, folder_names, splits=('train', 'test'), num=2):
  """Writes class c's images in grey 5 (c + 1), c the place in the list."""
  for seed, split in enumerate(splits):
    for label, name in enumerate(folder_names):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(num):
        rng = np.random.default_rng((seed, label, i))
        pixels = 5 * (label + 1) + rng.integers(0, 3, (4, 4, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.ppm')


def test_gtsrb_is_a_folder_with_the_official_class_numbers(tmp_path):
  _write_folder(tmp_path / 'gtsrb', [f'{i:05d}' for i in range(43)])
  task = load.load_task('gtsrb', data_dir=tmp_path, image_size=4)
  assert (task.name, task.num_classes) == ('gtsrb', 43)
  assert task.class_names == benchmarks.prompts('gtsrb').class_names
  greys = task.test.images.mean((1, 2, 3)) // 5 - 1
  np.testing.assert_array_equal(greys, task.test.labels)
  assert len(task.validation.labels) == 8  # a tenth of 86


def test_any_benchmark_may_be_a_folder_by_either_name_of_a_class(tmp_path):
  # Sorted, these folders are in another order than the labels.
  names = list(_EUROSAT)
  names[0], names[1] = 'annual_crop-land', 'FOREST'
  _write_folder(tmp_path / 'eurosat', names, splits=('train', 'val', 'test'))
  task = load.load_task('eurosat', data_dir=tmp_path, image_size=4)
  greys = task.train.images.mean((1, 2, 3)) // 5 - 1
  np.testing.assert_array_equal(greys, task.train.labels)
  assert collections.Counter(task.train.labels) == {i: 2 for i in range(10)}
  assert len(task.validation.labels) == 20  # the folder's own


def test_a_folder_of_other_classes_is_refused_naming_both(tmp_path):
  _write_folder(tmp_path / 'gtsrb', [f'{i:05d}' for i in range(42)])
  with pytest.raises(ValueError, match="43 classes '00042'") as error:
    load.load_task('gtsrb', data_dir=tmp_path, image_size=4)
  assert 'the data has 42' in str(error.value)


@pytest.mark.parametrize('name', benchmarks.NAMES)
def test_a_set_that_is_absent_says_how_to_prepare_it(name, tmp_path):
  with pytest.raises(ValueError, match=f'{name!r} is not in') as error:
    load.load_task(name, data_dir=tmp_path)
  message = str(error.value)
  assert str(tmp_path / name) in message
  assert 'train/CLASS/* and test/CLASS/*' in message
  assert '\n' not in message
  assert message.endswith('.')
  if name == 'gtsrb':
    assert "43 folders '00000' to '00042'" in message
    assert 'tfds' not in message
  else:
    assert f"data_dir='{tmp_path}'" in message
    assert 'download_and_prepare()' in message
  if name == 'sun397':
    assert "tfds.builder('sun397/standard-part1-120k'" in message
    assert "'a_abbey' to 'y_youth_hostel'" in message


def test_an_unknown_benchmark_lists_those_known():
  with pytest.raises(ValueError, match="unknown benchmark 'imagenet'") as error:
    benchmarks.prompts('imagenet')
  assert 'sun397' in str(error.value)


def test_a_task_of_ones_own_has_its_class_names_and_a_plain_template():
  examples = task_lib.Examples(
      np.zeros((2, 4, 4, 1), np.uint8), np.arange(2, dtype=np.int32)
  )
  task = task_lib.Task('paints', examples, examples, 2, ('sky_blue', 'red'))
  assert benchmarks.task_prompts(task) == (
      ('sky blue', 'red'),
      ('a photo of a {}.',),
  )
  # A folder that happens to be called as a benchmark keeps its own classes.
  assert benchmarks.task_prompts(task._replace(name='cars')) == (
      benchmarks.task_prompts(task)
  )
  digits = tuple('0123456789')
  mnist = task._replace(name='mnist', class_names=digits, num_classes=10)
  assert benchmarks.task_prompts(mnist) == benchmarks.prompts('mnist')
