"""The polar factor, against what defines it and LAPACK's vectors."""

import numpy as np
import pytest

from taskvec_jax.merging import polar_factor


def matrix_with(values, num_rows, dtype=np.float64, seed=0):
  """Returns a matrix with these singular values, and its U and V'."""
  rng = np.random.default_rng(seed)
  left, _ = np.linalg.qr(rng.normal(size=(num_rows, len(values))))
  right, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
  matrix = ((left * values) @ right.T).astype(dtype)
  return np.asfortranarray(matrix), left, right.T


# Fewer rows than are worked on at once, as many, and more.
@pytest.mark.parametrize('shape', [(1, 1), (3, 2), (256, 256), (600, 300)])
@pytest.mark.parametrize('smallest', [1e-20, 1e-8, 0.9 / 300])
def test_it_is_that_of_the_vectors(shape, smallest):
  values = np.linspace(1.0, 2.0, shape[1])
  matrix, left, right = matrix_with(values, shape[0])
  found = polar_factor.polar_factor(matrix, smallest)
  assert found is matrix
  np.testing.assert_allclose(found, left @ right, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ('dtype', 'least', 'error'),
    [(np.float64, 1e-15, 1e-13), (np.float32, 1e-6, 1e-5)],
)
def test_however_ill_conditioned_the_matrix_it_is_orthonormal(
    dtype, least, error
):
  # Its own vectors are then known to `eps / least` at best; what defines it
  # holds to rounding all the same.
  values = np.geomspace(1.0, least, 200)
  matrix, _, _ = matrix_with(values, 300, dtype)
  found = polar_factor.polar_factor(matrix.copy(order='F'), least / 100)
  assert found.dtype == dtype
  np.testing.assert_allclose(found.T @ found, np.eye(200), rtol=0, atol=error)
  root = found.T @ matrix
  np.testing.assert_allclose(root, root.T, rtol=0, atol=error)
  assert np.linalg.eigvalsh((root + root.T) / 2)[0] > -error
  np.testing.assert_allclose(found @ root, matrix, rtol=0, atol=error)


def test_values_below_the_smallest_stay_between_0_and_1():
  values = np.r_[np.full(30, 1.0), np.full(20, 1e-4), np.zeros(10)]
  matrix, left, right = matrix_with(values, 80)
  found = polar_factor.polar_factor(matrix, 1e-2)
  sizes = np.diag(left.T @ found @ right.T)
  np.testing.assert_allclose(found, (left * sizes) @ right, atol=1e-13)
  np.testing.assert_allclose(sizes[:30], 1.0, rtol=1e-13)
  assert np.all((sizes[30:50] > 1e-4) & (sizes[30:50] < 0.9))
  np.testing.assert_allclose(sizes[50:], 0.0, atol=1e-13)


def test_zeros_stay_zeros():
  matrix = np.zeros((5, 3), order='F')
  assert not np.any(polar_factor.polar_factor(matrix, 1e-8))
