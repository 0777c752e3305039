"""Tasks read by several processes, here threads: each image by one of them."""

import collections

import numpy as np
from PIL import Image
import pytest

from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import load
from taskvec_jax.tasks import packaged
from taskvec_jax.tasks import task as task_lib
from tests.tasks import shares


@pytest.fixture
def folder(tmp_path):
  """23 + 13 images, of which some stand in both splits or twice in train."""
  rng = np.random.default_rng(0)
  for split, num in (('train', 23), ('test', 13)):
    for i in range(num):
      pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
      if i in (3, 4, 7):  # the same in both splits; 3 and 4 of one process each
        pixels = np.full((6, 6, 3), i, np.uint8)
      if split == 'train' and i in (11, 12):
        pixels = np.full((6, 6, 3), 99, np.uint8)
      place = tmp_path / 'photos' / split / 'ab'[i % 2]
      place.mkdir(parents=True, exist_ok=True)
      Image.fromarray(pixels).save(place / f'{i:02d}.png')
  return tmp_path / 'photos'


def test_a_folder_is_decoded_once_and_is_the_task_of_one_process(
    folder, monkeypatch
):
  spec = f'folder:{folder}'
  whole = load.load_task(spec, image_size=6)
  assert len(whole.train.labels) + len(whole.validation.labels) < 23
  times = collections.Counter()
  decode_image = image_folder.decode_image

  def counted(data, **kwargs):
    times[data] += 1
    return decode_image(data, **kwargs)

  monkeypatch.setattr(image_folder, 'decode_image', counted)
  for count in (2, 3):
    times.clear()
    parts = shares.in_processes(
        count, lambda share: load.load_task(spec, image_size=6, share=share)
    )
    assert sum(times.values()) == 23 + 13
    shares.assert_the_same(parts, whole)


def test_more_processes_than_images_leave_some_without(folder):
  spec = f'folder:{folder}'
  parts = shares.in_processes(
      24, lambda share: load.load_task(spec, image_size=6, share=share)
  )
  assert min(len(task.train.images) for task in parts) == 0
  shares.assert_the_same(parts, load.load_task(spec, image_size=6))


def test_a_packaged_task_is_cut_after_it_was_read(monkeypatch):
  faces = packaged.load_faces()
  monkeypatch.setitem(packaged.PACKAGED, 'faces', lambda: faces)
  parts = shares.in_processes(
      2, lambda share: load.load_task('faces', share=share)
  )
  shares.assert_the_same(parts, load.load_task('faces'))


def test_what_is_drawn_from_a_share_is_drawn_from_all(folder):
  spec = f'folder:{folder}'
  whole = load.load_task(spec, image_size=6)
  few = task_lib.subsample(whole.train, 9, seed=3)

  def draw(share):
    task = load.load_task(spec, image_size=6, share=share)
    return task_lib.whole(task_lib.subsample(task.train, 9, seed=3), share)

  for found in shares.in_processes(2, draw):
    np.testing.assert_array_equal(found.images, few.images)
    np.testing.assert_array_equal(found.labels, few.labels)
    assert found.holders is None
