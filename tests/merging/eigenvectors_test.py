"""The largest eigenvectors, with reflectors in memory and on disk."""

import functools

import numpy as np
import pytest
from scipy import linalg

from taskvec_jax.merging import eigenvectors
from taskvec_jax.merging import parking


def form_of(matrix, park=parking.in_memory):
  # What is above the diagonal is not looked at.
  lower = np.asfortranarray(
      np.tril(matrix) + np.triu(np.full_like(matrix, 7), 1)
  )
  return eigenvectors.tridiagonal(lower, park)


def matrix_with(values, seed=0):
  """Returns a matrix with these eigenvalues, and its vectors."""
  rng = np.random.default_rng(seed)
  turn, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
  return (turn * values) @ turn.T, turn


# Below, at and above the number of reflectors that are applied at once.
@pytest.mark.parametrize('size', [1, 2, 128, 129, 130, 300])
def test_the_largest_vectors_are_those_of_the_matrix(size, tmp_path):
  values = np.linspace(-1.0, 3.0, size)
  matrix, turn = matrix_with(values)
  for park in (
      parking.in_memory,
      functools.partial(parking.File, folder=tmp_path),
  ):
    form = form_of(matrix, park)
    np.testing.assert_allclose(eigenvectors.values(form), values, atol=1e-13)
    for num in {0, 1, max(size // 3, 1), size // 2 + 1, size}:
      found = eigenvectors.vectors(form, num)
      assert found.shape == (size, num)
      signs = np.sum(found * turn[:, size - num :], axis=0)
      np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-12)
  assert not list(tmp_path.iterdir())  # the files have no names


def test_equal_values_have_orthonormal_vectors():
  values = np.r_[np.zeros(80), np.ones(120), np.linspace(1.5, 2.0, 10)]
  matrix, _ = matrix_with(values)
  found = eigenvectors.vectors(form_of(matrix), 130)
  np.testing.assert_allclose(found.T @ found, np.eye(130), atol=1e-12)
  np.testing.assert_allclose(matrix @ found, found * values[-130:], atol=1e-12)


def test_where_lapacks_fastest_way_fails_another_is_gone(monkeypatch):
  plain, asked = linalg.eigh_tridiagonal, []

  def stubborn(*args, lapack_driver, **options):
    asked.append(lapack_driver)
    if lapack_driver == 'stemr':
      raise linalg.LinAlgError('stemr did not converge')
    return plain(*args, lapack_driver=lapack_driver, **options)

  monkeypatch.setattr(linalg, 'eigh_tridiagonal', stubborn)
  matrix, turn = matrix_with(np.arange(20.0))
  for num in (3, 20):
    found = eigenvectors.vectors(form_of(matrix), num)
    signs = np.sum(found * turn[:, -num:], axis=0)
    np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-12)
  assert asked == ['stemr', 'stebz'] * 2


@pytest.fixture
def in_blocks(monkeypatch):
  """Has vectors of small matrices found in blocks, as those of large ones."""
  monkeypatch.setattr(eigenvectors, '_MAX_WHOLE', 0)
  monkeypatch.setattr(eigenvectors, '_NUM_VECTORS', 16)
  widths = []
  plain = linalg.get_lapack_funcs

  def counting(names, arrays):
    functions = plain(names, arrays)
    if list(names) != ['stein']:
      return functions

    def stein(diagonal, beside, found, *parts):
      widths.append(len(found))
      return functions[0](diagonal, beside, found, *parts)

    return [stein]

  monkeypatch.setattr(linalg, 'get_lapack_funcs', counting)
  return widths


@pytest.mark.parametrize('num', [0, 1, 24, 25, 100, 150])
def test_vectors_in_blocks_are_those_of_the_matrix(num, in_blocks, tmp_path):
  values = np.geomspace(1e-4, 1.0, 150)
  matrix, turn = matrix_with(values)
  form = form_of(matrix)
  park = functools.partial(parking.File, folder=tmp_path)
  found = eigenvectors.parked_vectors(form, num, park)()
  signs = np.sum(found * turn[:, 150 - num :], axis=0)
  np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-12)
  np.testing.assert_allclose(found.T @ found, np.eye(num), atol=1e-11)
  assert sum(in_blocks) == num
  assert all(8 <= width <= 24 for width in in_blocks[:-1])
  assert max(in_blocks, default=0) <= 24


def test_a_block_ends_where_values_are_far_from_each_other(in_blocks):
  # Four clusters of values that are equal but for rounding.
  values = np.repeat([1.0, 2.0, 3.0, 4.0], 20)
  matrix, _ = matrix_with(values)
  form = form_of(matrix)
  found = eigenvectors.parked_vectors(form, 80, parking.in_memory)()
  assert in_blocks == [20, 20, 20, 20]
  np.testing.assert_allclose(found.T @ found, np.eye(80), atol=1e-12)
  np.testing.assert_allclose(matrix @ found, found * values, atol=1e-12)


def test_values_too_close_for_blocks_have_their_vectors_found_at_once(
    in_blocks,
):
  values = np.r_[np.linspace(0.0, 0.5, 20), 1.0 + 1e-14 * np.arange(60)]
  matrix, _ = matrix_with(values)
  form = form_of(matrix)
  found = eigenvectors.parked_vectors(form, 80, parking.in_memory)()
  assert not in_blocks
  np.testing.assert_allclose(found.T @ found, np.eye(80), atol=1e-12)
  np.testing.assert_allclose(matrix @ found, found * values, atol=1e-12)


@pytest.mark.parametrize('num', [30, 80])
def test_equal_values_of_separate_parts_have_their_vectors_in_blocks(
    num, in_blocks
):
  part, _ = matrix_with(np.linspace(1.0, 2.0, 10))
  whole = linalg.block_diag(*[part] * 5, 1.5 * np.eye(30))
  form = form_of(whole)
  found = eigenvectors.parked_vectors(form, num, parking.in_memory)()
  assert sum(in_blocks) == num and max(in_blocks) <= 24
  np.testing.assert_allclose(found.T @ found, np.eye(num), atol=1e-12)
  values = np.linalg.eigvalsh(whole)[80 - num :]
  np.testing.assert_allclose(whole @ found, found * values, atol=1e-12)


def test_where_inverse_iteration_fails_vectors_are_found_at_once(monkeypatch):
  monkeypatch.setattr(eigenvectors, '_MAX_WHOLE', 0)
  monkeypatch.setattr(eigenvectors, '_near', lambda *_: None)
  matrix, turn = matrix_with(np.arange(20.0))
  form = form_of(matrix)
  found = eigenvectors.parked_vectors(form, 7, parking.in_memory)()
  signs = np.sum(found * turn[:, -7:], axis=0)
  np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-12)
