"""Arrays that wait."""

import functools

import numpy as np
import pytest

from taskvec_jax.merging import parking


@pytest.fixture(params=['memory', 'disk'])
def park(request, tmp_path):
  if request.param == 'memory':
    return parking.in_memory
  return functools.partial(parking.File, folder=tmp_path)


@pytest.mark.parametrize('shape', [(0, 3), (1,), (5, 0), (63, 2), (200, 7)])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_what_was_parked_comes_back(park, tmp_path, shape, dtype):
  array = np.random.default_rng(0).normal(size=shape).astype(dtype)
  for view in (array, array.T, array[::2]):
    parked = parking.parked(view, park)
    assert parked.shape == view.shape and parked.dtype == dtype
    first = parked()
    np.testing.assert_array_equal(first, view)
    assert first.dtype == dtype and first.flags.c_contiguous
    first += 1  # is the caller's own
    np.testing.assert_array_equal(parked(), view)
    for rows in (slice(0, 1), slice(2, 60), slice(3, 3)):
      np.testing.assert_array_equal(parked(rows), view[rows])
  assert not list(tmp_path.iterdir())  # the files have no names


def test_an_array_is_written_in_parts_and_read_in_between(park):
  array = np.arange(24.0).reshape(4, 6)
  parked = park(array.dtype, array.shape)
  first, *others = np.split(array.reshape(-1), [6, 17])
  parked.add(first)
  np.testing.assert_array_equal(parked(slice(0, 1)), array[:1])
  for part in others:
    parked.add(part)
  np.testing.assert_array_equal(parked(), array)


def test_rows_are_made_as_they_are_written(park):
  asked = []

  def squares(rows):
    asked.append(rows)
    return np.arange(150.0)[rows, None] ** 2

  parked = parking.by_rows(squares, np.dtype(np.float32), (150, 1), park)
  assert asked == [slice(0, 64), slice(64, 128), slice(128, 150)]
  assert parked().dtype == np.float32
  np.testing.assert_array_equal(parked()[:, 0], np.arange(150.0) ** 2)


@pytest.mark.parametrize('shape', [(0, 3), (5, 0), (63, 2), (130, 1100)])
def test_a_transpose_is_made_of_rows(park, shape):
  array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  found = parking.transposed(parking.parked(array, park), park)
  assert found.shape == shape[::-1] and found.dtype == np.float32
  np.testing.assert_array_equal(found(), array.T)


def test_an_array_in_memory_is_wrapped_and_not_changed():
  array = np.zeros((4, 6))
  taken = parking.Memory(array)(slice(1, 3))
  taken += 1
  assert not array.any()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    parking.File(np.dtype(np.float32), (3,), folder=tmp_path / 'none')
