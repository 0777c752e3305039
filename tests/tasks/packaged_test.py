"""The six packaged tasks: what they hold, and that no split shares an image."""

import hashlib
import importlib.resources
import socket
import sys
import time

import numpy as np
import pytest
import skimage.data

from taskvec_jax.tasks import load
from taskvec_jax.tasks import packaged

# name: (train, validation, test, classes, side)
_SIZES = {
    'digits': (1295, 143, 359, 10, 8),
    'mnist5k': (3600, 400, 1000, 10, 28),
    'textures': (432, 96, 240, 3, 32),
    'faces': (108, 12, 80, 2, 25),
    'letters': (2457, 273, 780, 26, 28),
    'animals': (6996, 777, 1943, 10, 28),
}


@pytest.fixture(scope='module')
def tasks():
  return {name: load.load_task(name) for name in packaged.PACKAGED}


def _splits(task):
  return {
      'train': task.train,
      'validation': task.validation,
      'test': task.test,
  }


def _hashes(examples):
  return [hashlib.sha256(x.tobytes()).hexdigest() for x in examples.images]


def test_the_table_names_the_packaged_tasks():
  assert list(packaged.PACKAGED) == list(_SIZES)


@pytest.mark.parametrize('name', _SIZES)
def test_a_packaged_task_has_the_sizes_that_the_readme_states(tasks, name):
  task = tasks[name]
  side = task.train.images.shape[1]
  sizes = [len(split.labels) for split in _splits(task).values()]
  assert (*sizes, task.num_classes, side) == _SIZES[name]
  assert task.name == name
  assert task.train.images.shape[1:] == (side, side, 1)


@pytest.mark.parametrize('name', _SIZES)
def test_no_image_is_in_two_of_train_validation_and_test(tasks, name):
  hashes = {k: set(_hashes(v)) for k, v in _splits(tasks[name]).items()}
  assert not hashes['train'] & hashes['validation']
  assert not hashes['train'] & hashes['test']
  assert not hashes['validation'] & hashes['test']


@pytest.mark.parametrize('name', _SIZES)
def test_every_class_is_in_every_split(tasks, name):
  task = tasks[name]
  for split in _splits(task).values():
    assert set(split.labels.tolist()) == set(range(task.num_classes))


@pytest.mark.parametrize('name', _SIZES)
def test_loading_twice_gives_the_same_bytes(tasks, name):
  again = load.load_task(name)
  for first, second in zip(
      _splits(tasks[name]).values(), _splits(again).values(), strict=True
  ):
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize('name', _SIZES)
def test_images_use_the_whole_range_of_grey(tasks, name):
  images = tasks[name].train.images
  assert images.max() >= 200
  assert images.min() <= 20


@pytest.mark.parametrize('name', ['digits', 'mnist5k', 'letters', 'animals'])
def test_drawings_are_white_on_black(tasks, name):
  images = tasks[name].train.images
  border = np.concatenate([images[:, 0].ravel(), images[:, -1].ravel()])
  assert np.median(border) == 0
  assert images.mean() < 100


def test_loading_opens_no_connection(monkeypatch):
  def refuse(*_):
    raise AssertionError('a packaged task reached for the network')

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  for name in _SIZES:
    load.load_task(name)


def test_all_six_load_in_three_seconds_once_their_packages_are_imported(tasks):
  assert set(tasks) == set(_SIZES) and 'sklearn.datasets' in sys.modules
  start = time.perf_counter()
  for name in _SIZES:
    load.load_task(name)
  assert time.perf_counter() - start < 3


def test_textures_are_cut_from_bands_that_share_no_pixel(tasks):
  photographs = (
      skimage.data.brick(),
      skimage.data.grass(),
      skimage.data.gravel(),
  )
  bands = {'train': (0, 9), 'validation': (9, 11), 'test': (11, 16)}
  for split, (first, last) in bands.items():
    images, labels, _ = _splits(tasks['textures'])[split]
    for label, photograph in enumerate(photographs):
      band = photograph[32 * first : 32 * last]
      expected = [
          band[row : row + 32, column : column + 32].tobytes()
          for row in range(0, len(band), 32)
          for column in range(0, 512, 32)
      ]
      found = [x.tobytes() for x in images[labels == label]]
      assert found == expected


def test_training_and_test_letters_share_no_font():
  train, test = packaged.LETTERS_TRAIN_FONTS, packaged.LETTERS_TEST_FONTS
  assert not set(train) & set(test)
  assert packaged.LETTERS_FONTS == train + test
  assert all(name.startswith(('STIX', 'cm')) for name in train + test)


def test_the_same_letter_is_alike_in_two_fonts_and_unlike_other_letters(tasks):
  train, test = tasks['letters'].train, tasks['letters'].test

  def means(examples):
    return np.stack(
        [examples.images[examples.labels == c].mean(0) for c in range(26)]
    ).reshape((26, -1))

  a, b = means(train), means(test)
  a -= a.mean(0)
  b -= b.mean(0)
  nearest = np.argmax(
      (a @ b.T)
      / np.linalg.norm(a, axis=1)[:, None]
      / np.linalg.norm(b, axis=1),
      axis=0,
  )
  assert (nearest == np.arange(26)).sum() >= 24


def test_the_first_hundred_images_of_the_source_are_the_faces(tasks):
  source = np.rint(skimage.data.lfw_subset() * 255).astype(np.uint8)
  faces = {x.tobytes() for x in source[:100]}
  task = tasks['faces']
  for split in _splits(task).values():
    is_face = [x.tobytes() in faces for x in split.images]
    assert is_face == [task.class_names[c] == 'face' for c in split.labels]


def test_animals_hold_no_copy_and_lie_beside_their_licence(tasks):
  hashes = [h for s in _splits(tasks['animals']).values() for h in _hashes(s)]
  assert len(set(hashes)) == len(hashes) == 9716
  data = importlib.resources.files('taskvec_jax.tasks') / 'data'
  licence = (data / 'animals.LICENSE.txt').read_text()
  assert licence.startswith('MIT License')
  assert 'Copyright (c)' in licence
