"""Files of the MNIST family, whole and damaged."""

import gzip
import struct

import numpy as np
import pytest

from taskvec_jax.tasks import idx
from taskvec_jax.tasks import load


def _encode(array, magic=(0, 0, 8)):
  header = bytes(magic) + bytes([array.ndim])
  return header + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


def _write(folder, *, gz=False, num_train=30, num_test=10, seed=0):
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  arrays = {}
  for prefix, num in (('train', num_train), ('t10k', num_test)):
    images = rng.integers(0, 256, (num, 5, 4), dtype=np.uint8)
    labels = (np.arange(num) % 3).astype(np.uint8)
    arrays[prefix] = images, labels
    for kind, array in (('images-idx3', images), ('labels-idx1', labels)):
      data = _encode(array)
      path = folder / f'{prefix}-{kind}-ubyte{".gz" if gz else ""}'
      path.write_bytes(gzip.compress(data) if gz else data)
  return arrays


@pytest.mark.parametrize('gz', [False, True])
def test_what_is_written_is_read(tmp_path, gz):
  arrays = _write(tmp_path / 'marks', gz=gz)
  task = idx.load_idx(tmp_path / 'marks')
  assert (task.name, task.num_classes) == ('marks', 3)
  assert task.class_names == ('0', '1', '2')
  for split, prefix in ((task.train, 'train'), (task.test, 't10k')):
    np.testing.assert_array_equal(split.images[..., 0], arrays[prefix][0])
    np.testing.assert_array_equal(split.labels, arrays[prefix][1])


def test_an_idx_folder_is_a_task_with_validation(tmp_path):
  _write(tmp_path / 'marks')
  task = load.load_task(f'idx:{tmp_path / "marks"}')
  assert [len(s.labels) for s in (task.train, task.validation, task.test)] == [
      27,
      3,
      10,
  ]


def test_a_missing_file_is_named(tmp_path):
  _write(tmp_path)
  (tmp_path / 't10k-labels-idx1-ubyte').unlink()
  with pytest.raises(ValueError, match='t10k-labels-idx1-ubyte') as error:
    idx.load_idx(tmp_path)
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    'data, message',
    [
        (b'', 'begins with nothing'),
        (b'\x89PNG....', 'begins with 89 50 4e 47'),
        (
            _encode(np.zeros((2, 2), np.uint8), magic=(0, 0, 13)),
            'begins with 00 00 0d 02',
        ),
        (b'\x00\x00\x08\x03\x00\x00', '6 bytes, but 16'),
        (
            _encode(np.zeros((4, 5), np.uint8))[:-3],
            r'holds 17 values.*\[4, 5\], which is 20',
        ),
        (
            _encode(np.zeros((4, 5), np.uint8)) + b'!',
            r'holds 21 values.*which is 20',
        ),
        (
            b'\x00\x00\x08\x03' + b'\xff' * 12,
            r'holds 0 values.*which is 79228162458924105385300197375',
        ),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_both_values(
    tmp_path, data, message
):
  path = tmp_path / 'train-images-idx3-ubyte'
  path.write_bytes(data)
  with pytest.raises(ValueError, match=message) as error:
    idx.read_idx(path)
  assert str(path) in str(error.value)


def test_a_truncated_or_false_gzip_is_refused_with_its_name(tmp_path):
  whole = gzip.compress(_encode(np.arange(200, dtype=np.uint8)))
  path = tmp_path / 'train-labels-idx1-ubyte.gz'
  middle = len(whole) // 2
  damaged = whole[:middle] + bytes(40) + whole[middle + 40 :]
  for data in (whole[:-12], damaged, b'not gzip'):
    path.write_bytes(data)
    with pytest.raises(ValueError, match='labels-idx1-ubyte.gz cannot be read'):
      idx.read_idx(path)


def test_images_and_labels_of_different_number_are_refused(tmp_path):
  _write(tmp_path)
  path = tmp_path / 'train-labels-idx1-ubyte'
  path.write_bytes(_encode(np.zeros(29, np.uint8)))
  with pytest.raises(ValueError, match='30 images.*29 labels'):
    idx.load_idx(tmp_path)


def test_labels_in_the_place_of_images_are_refused(tmp_path):
  _write(tmp_path)
  path = tmp_path / 'train-images-idx3-ubyte'
  path.write_bytes(_encode(np.zeros(30, np.uint8)))
  with pytest.raises(ValueError, match=r'\[30\], but 3 dimensions'):
    idx.load_idx(tmp_path)


def test_a_test_label_that_train_does_not_have_is_refused(tmp_path):
  _write(tmp_path)
  path = tmp_path / 't10k-labels-idx1-ubyte'
  path.write_bytes(_encode(np.full(10, 7, np.uint8)))
  with pytest.raises(ValueError, match="'test'.*7 to 7.*0 .. 2"):
    idx.load_idx(tmp_path)


def test_fashion_mnist_is_found_in_data_dir(tmp_path):
  arrays = _write(tmp_path / 'fashion_mnist', gz=True)
  task = load.load_task('fashion_mnist', data_dir=tmp_path)
  assert (task.name, task.num_classes) == ('fashion_mnist', 10)
  assert task.class_names[9] == 'ankle boot'
  np.testing.assert_array_equal(task.test.images[..., 0], arrays['t10k'][0])


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path, monkeypatch):
  _write(tmp_path / 'fashion-mnist')
  monkeypatch.setattr(idx, '_DEBIAN_FASHION_MNIST', tmp_path / 'fashion-mnist')
  assert load.load_task('fashion_mnist').name == 'fashion_mnist'


def test_absent_fashion_mnist_says_where_it_looked_and_how_to_get_it(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(idx, '_DEBIAN_FASHION_MNIST', tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='dataset-fashion-mnist') as error:
    load.load_task('fashion_mnist', data_dir=tmp_path / 'data')
  assert str(tmp_path / 'data' / 'fashion_mnist') in str(error.value)
  assert str(tmp_path / 'nowhere') in str(error.value)
  assert '\n' not in str(error.value)
