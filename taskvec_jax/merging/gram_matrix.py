"""Singular values and vectors of a float32 matrix, by its Gram matrix.

  A' A = V diag(s^2) V',   U = A V diag(1 / s)

in float64, whose 53 bits resolve the squares of all values above the default
cut of float32 (see numerical_rank). Merged matrices come out nearer to those of
float64 than by a decomposition in float32, 5 times in the median (1.4 to 45). A
cut as high as that of leaves of 8 bits leaves no small squares: with it the
Gram matrix is one of float32, in half the memory, and merged matrices are about
as exact as by a decomposition in float32.

Memory: half a matrix `[n_out, n_out]` of either, and some rows; where vectors
cannot be found in blocks (see eigenvectors), a whole one of float64.
"""

import mmap

import numpy as np
from scipy import linalg

from taskvec_jax.merging import eigenvectors
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking

_FLOAT8_TOLERANCE = 2.0**-3  # of float8_e4m3fn; others' are coarser


def resolves(dtype: np.dtype, tolerance: float) -> bool:
  """Returns whether float64 tells the squares of all values from rounding."""
  return dtype == np.float32 and tolerance >= numerical_rank.FLOAT32_TOLERANCE


def triples(
    matrix: parking.Parked, cut: numerical_rank.Cut, park: parking.Park
) -> numerical_rank.Kept:
  """Returns the triples that count, in float64.

  Args:
    matrix: `[n_in, n_out]`, float32.
    cut: which count; its tolerance one that `resolves`.
    park: where the Gram matrix's reflectors and vectors wait.
  """
  dtype = _dtype(matrix.dtype, cut.tolerance)
  exponent = _exponent(matrix, dtype)
  form = eigenvectors.tridiagonal(_gram(matrix, exponent, dtype), park)
  form = form._replace(
      diagonal=form.diagonal.astype(np.float64),
      beside=form.beside.astype(np.float64),
      factors=form.factors.astype(np.float64),
  )
  # First how many: vectors of the null space are slow to find, and in the way.
  sizes = np.ldexp(_roots(eigenvectors.values(form)), exponent)
  rank = numerical_rank.num_kept(sizes, cut)
  sizes = sizes[len(sizes) - rank :]
  vectors = eigenvectors.parked_vectors(form, rank, park)

  def left(rows: slice) -> np.ndarray:
    part = matrix(rows).astype(np.float64)
    found = np.zeros((len(part), rank))
    for columns in parking.slices(part.shape[1], parking.NUM_FACTOR_ROWS):
      found += part[:, columns] @ vectors(columns)
    return found / sizes

  return numerical_rank.Kept(left, sizes, vectors)


def values(matrix: parking.Parked, tolerance: float) -> np.ndarray:
  """Returns all singular values of a matrix, the smallest first, in float64.

  Args:
    matrix: `[n_in, n_out]`.
    tolerance: a share of the largest; those below it need not be resolved.
  """
  dtype = _dtype(matrix.dtype, tolerance)
  exponent = _exponent(matrix, dtype)
  squares = linalg.eigvalsh(
      _gram(matrix, exponent, dtype),
      lower=True,
      overwrite_a=True,
      check_finite=False,
  )
  return np.ldexp(_roots(np.asarray(squares, np.float64)), exponent)


def _dtype(dtype: np.dtype, tolerance: float) -> np.dtype:
  """Returns what tells the squares of values that count from rounding."""
  enough = dtype == np.float32 and tolerance >= _FLOAT8_TOLERANCE
  return np.dtype(np.float32 if enough else np.float64)


def _exponent(matrix: parking.Parked, dtype: np.dtype) -> int:
  """Returns an exponent with which squares of `A / 2**exponent` fit a dtype."""
  if dtype == np.float64:
    return 0  # those of float32 do
  parts = parking.slices(matrix.shape[0], parking.NUM_ROWS)
  largest = max(np.abs(matrix(rows)).max(initial=0.0) for rows in parts)
  return int(np.frexp(largest)[1])


def _gram(matrix: parking.Parked, exponent: int, dtype: np.dtype) -> np.ndarray:
  """Returns the lower half of `A' A / 4**exponent`, for LAPACK to work in."""
  gram = _zeros(matrix.shape[1], dtype)
  (syrk,) = linalg.get_blas_funcs(['syrk'], [gram])
  for rows in parking.slices(matrix.shape[0], parking.NUM_ROWS):
    part = np.ldexp(matrix(rows).astype(dtype), -exponent).T
    gram = syrk(1.0, part, beta=1.0, c=gram, overwrite_c=True, lower=True)
  return gram


def _zeros(size: int, dtype: np.dtype) -> np.ndarray:
  """Returns zeros `[n, n]` in Fortran's order, of which half can stay free.

  What is above the diagonal takes no memory as long as nobody writes there,
  which takes pages that are smaller than columns, and so no huge ones.
  """
  memory = mmap.mmap(-1, max(dtype.itemsize * size**2, 1))
  if hasattr(mmap, 'MADV_NOHUGEPAGE'):  # Linux
    memory.madvise(mmap.MADV_NOHUGEPAGE)
  found = np.frombuffer(memory, dtype, count=size**2)
  return found.reshape((size, size), order='F')


def _roots(squares: np.ndarray) -> np.ndarray:
  return squares.clip(0.0) ** 0.5
