"""A user's own images as a task."""

import io
import shutil

import numpy as np
from PIL import Image
import pytest

from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import load

_COLOURS = {'amber': (250, 200, 10), 'blue': (10, 20, 240)}


def _write(root, splits=('train', 'test'), num=4, suffix='png'):
  rng = np.random.default_rng(0)
  for split in splits:
    for name, colour in _COLOURS.items():
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(num):
        noise = rng.integers(-8, 6, (24, 30 + i, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.{suffix}')
  return root


def test_folders_become_splits_and_classes_in_sorted_order(tmp_path):
  root = _write(tmp_path / 'paints')
  task = image_folder.load_image_folder(root, image_size=8)
  assert (task.name, task.class_names) == ('paints', ('amber', 'blue'))
  assert task.validation is None
  for split in (task.train, task.test):
    assert split.images.shape == (8, 8, 8, 3)
    assert split.labels.tolist() == [0] * 4 + [1] * 4
    means = split.images.mean((1, 2))
    for label, colour in enumerate(_COLOURS.values()):
      np.testing.assert_allclose(
          means[split.labels == label], np.tile(colour, (4, 1)), atol=5
      )


@pytest.mark.parametrize('suffix', image_folder.SUFFIXES)
def test_every_kind_of_file_is_read_in_either_case(tmp_path, suffix):
  root = _write(tmp_path / 'a', num=2, suffix=suffix[1:])
  path = root / 'train' / 'blue' / f'1{suffix}'
  path.rename(path.with_suffix(suffix.upper()))
  task = image_folder.load_image_folder(root, image_size=8)
  assert task.train.labels.tolist() == [0, 0, 1, 1]
  np.testing.assert_allclose(
      task.train.images[3].mean((0, 1)), _COLOURS['blue'], atol=8
  )


def test_a_folder_task_gets_validation_from_val_or_from_train(tmp_path):
  without = load.load_task(
      f'folder:{_write(tmp_path / "a", num=10)}', image_size=8
  )
  assert len(without.validation.labels) == 2
  assert len(without.train.labels) == 18
  root = _write(tmp_path / 'b', splits=('train', 'test', 'val'))
  given = load.load_task(f'folder:{root}', image_size=8)
  assert len(given.validation.labels) == len(given.train.labels) == 8


def test_a_file_copied_from_train_to_test_is_dropped_from_train(tmp_path):
  root = _write(tmp_path / 'a')
  shutil.copy(root / 'train/blue/0.png', root / 'test/blue/copy.png')
  task = load.load_task(f'folder:{root}', image_size=8)
  train = len(task.train.labels) + len(task.validation.labels)
  assert (train, len(task.test.labels)) == (7, 9)


def test_hidden_and_other_files_are_left_out(tmp_path):
  root = _write(tmp_path / 'a')
  (root / 'train' / '.cache').mkdir()
  (root / 'train' / 'blue' / '.0.png').write_bytes(b'not an image')
  (root / 'train' / 'blue' / 'notes.txt').write_text('not an image')
  task = image_folder.load_image_folder(root, image_size=8)
  assert len(task.train.labels) == 8


def test_an_unreadable_image_is_named(tmp_path):
  root = _write(tmp_path / 'a')
  path = root / 'test' / 'blue' / '2.png'
  whole = path.read_bytes()
  for data in (b'', b'not an image', whole[: len(whole) // 2]):
    path.write_bytes(data)
    with pytest.raises(ValueError, match='cannot be read') as error:
      image_folder.load_image_folder(root, image_size=8)
    assert str(path) in str(error.value)


def test_a_folder_without_classes_is_refused_with_one_sentence(tmp_path):
  with pytest.raises(ValueError, match='there is no folder .*train'):
    image_folder.load_image_folder(tmp_path, image_size=8)
  (tmp_path / 'train').mkdir()
  (tmp_path / 'train' / 'loose.png').touch()
  with pytest.raises(ValueError, match='train has no classes'):
    image_folder.load_image_folder(tmp_path, image_size=8)


def test_splits_with_different_classes_are_refused_naming_the_difference(
    tmp_path,
):
  root = _write(tmp_path / 'a')
  (root / 'test' / 'blue').rename(root / 'test' / 'bleu')
  with pytest.raises(ValueError, match="'bleu', 'blue'") as error:
    image_folder.load_image_folder(root, image_size=8)
  assert '2 classes' in str(error.value)


def test_a_class_without_images_is_refused(tmp_path):
  root = _write(tmp_path / 'a')
  shutil.rmtree(root / 'test' / 'amber')
  (root / 'test' / 'amber').mkdir()
  with pytest.raises(ValueError, match='test/amber has no image'):
    image_folder.load_image_folder(root, image_size=8)


def _encoded(image, kind='png', **kwargs):
  data = io.BytesIO()
  image.save(data, kind, **kwargs)
  return data.getvalue()


def test_grey_palette_and_transparent_images_become_rgb():
  grey = Image.new('L', (5, 5), 77)
  palette = Image.new('RGB', (5, 5), (9, 90, 200)).quantize()
  clear = palette.copy()
  for image, kwargs, colour in (
      (grey, {}, (77, 77, 77)),
      (palette, {}, (9, 90, 200)),
      (clear, {'transparency': b'\xff\x80'}, (9, 90, 200)),
      (Image.new('RGBA', (5, 5), (1, 2, 3, 255)), {}, (1, 2, 3)),
  ):
    pixels = image_folder.decode_image(
        _encoded(image, **kwargs), image_size=None, num_channels=3
    )
    assert pixels.shape == (5, 5, 3)
    assert (pixels == colour).all()


def test_sixteen_bit_grey_is_scaled_not_clipped():
  image = Image.fromarray(np.full((4, 4), 100 * 256 + 3, np.uint16))
  pixels = image_folder.decode_image(
      _encoded(image), image_size=None, num_channels=1
  )
  assert (pixels == 100).all()


def test_a_photograph_is_turned_as_its_camera_says():
  image = Image.new('L', (20, 10))
  image.paste(255, (0, 0, 20, 5))  # The upper half is white.
  exif = Image.Exif()
  exif[0x0112] = 3  # It was taken upside down.
  pixels = image_folder.decode_image(
      _encoded(image, exif=exif.tobytes()), image_size=None, num_channels=1
  )
  assert pixels[0].max() == 0
  assert pixels[-1].min() == 255
