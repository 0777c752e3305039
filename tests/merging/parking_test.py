"""Arrays that wait."""

import numpy as np
import pytest

from taskvec_jax.merging import parking


@pytest.mark.parametrize('shape', [(0, 3), (1,), (5, 0), (63, 2), (200, 7)])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_file_gives_back_what_was_parked(tmp_path, shape, dtype):
  array = np.random.default_rng(0).normal(size=shape).astype(dtype)
  for view in (array, array.T, array[::2]):
    parked = parking.on_disk(view, folder=tmp_path)
    first = parked()
    np.testing.assert_array_equal(first, view)
    assert first.dtype == dtype and first.flags.c_contiguous
    first += 1  # is the caller's own
    np.testing.assert_array_equal(parked(), view)
  assert not list(tmp_path.iterdir())


def test_a_file_takes_its_array_in_parts(tmp_path):
  array = np.arange(24.0).reshape(4, 6)
  file = parking.File(tmp_path, array.dtype, array.shape)
  for part in np.split(array.reshape(-1), [5, 17]):
    file.add(part)
  np.testing.assert_array_equal(file(), array)


def test_parts_of_an_array_are_held_without_the_rest():
  array = np.zeros((4, 6))
  assert parking.held(array)() is array
  kept = parking.held(array[:2])()
  assert kept.base is None and kept.shape == (2, 6)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    parking.on_disk(np.zeros(3), folder=tmp_path / 'none')
