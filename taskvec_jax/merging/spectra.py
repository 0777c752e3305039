"""Singular values and vectors of matrices that wait, and polar factors.

Only what lies above the numerical rank (see numerical_rank) counts. Matrices of
float32, and leaves below it, which are computed in it, go by their Gram matrix
(see gram_matrix); others, and float32 with a tolerance below its default, by
LAPACK's singular value decomposition, or if they are large by their polar
factor (see polar_factor).

Memory: matrices wait, and go through memory some rows at a time. What is held
at most is half a matrix `[n, n]` of float64, n = min(n_in, n_out), where the
Gram matrix is gone by (a whole one if vectors cannot be found in blocks); three
copies of the matrix by the polar factor; and seven by LAPACK, which is why it
is for matrices up to 8 MiB.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import linalg

from taskvec_jax.merging import gram_matrix
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import polar_factor

MAX_LAPACK = 2**23  # bytes of a matrix that goes by LAPACK


class Svd(NamedTuple):
  """`U diag(s) V'`, of `rank` triples, the largest first."""

  left: parking.Parked  # U [n_in, rank]
  values: np.ndarray  # s [rank]
  right: parking.Parked  # V [n_out, rank]


def added(
    matrices: Sequence[parking.Parked], park: parking.Park
) -> parking.Parked:
  """Returns the sum."""

  def total(rows: slice) -> np.ndarray:
    return functools.reduce(np.add, (matrix(rows) for matrix in matrices))

  return parking.by_rows(total, matrices[0].dtype, matrices[0].shape, park)


def svd(
    matrix: parking.Parked,
    *,
    tolerance: float,
    scale: float | None = None,
    most: int | None = None,
    park: parking.Park = parking.in_memory,
) -> Svd:
  """Returns the triples with `s_i > tolerance scale`, the largest `most`.

  Args:
    matrix: `[n_in, n_out]`.
    tolerance: relative to `scale`.
    scale: None for `s_1`, the matrix's own norm.
    most: None for all.
    park: where the vectors wait.
  """
  cut = numerical_rank.Cut(tolerance, scale, most)
  kept = _kept(matrix, cut, park)
  num_long, num_short = max(matrix.shape), min(matrix.shape)
  rank = len(kept.values)
  long = parking.by_rows(
      lambda rows: kept.left(rows)[:, ::-1],
      matrix.dtype,
      (num_long, rank),
      park,
      num_rows=parking.in_few_parts(num_long),
  )
  short = parking.by_rows(
      lambda rows: kept.right(rows)[:, ::-1],
      matrix.dtype,
      (num_short, rank),
      park,
  )
  values = kept.values[::-1].astype(matrix.dtype)
  if _is_wide(matrix):
    return Svd(short, values, long)
  return Svd(long, values, short)


def outside(
    matrix: parking.Parked, left: parking.Parked, park: parking.Park
) -> parking.Parked:
  """Returns `(I - U U') A` of orthonormal U `[n_in, k]`."""
  inside = _inner(left, matrix)
  return parking.by_rows(
      lambda rows: matrix(rows) - left(rows) @ inside,
      matrix.dtype,
      matrix.shape,
      park,
  )


def orthogonalised(
    parts: Sequence[Svd],
    *,
    tolerance: float,
    park: parking.Park = parking.in_memory,
) -> Svd:
  """Returns all triples side by side, their vectors made orthonormal.

  `[U_1 ... U_T]` and `[V_1 ... V_T]` are replaced by their polar factors, cut
  at their rank, which is below the number of triples if those depend on each
  other.
  """
  left = _polar_of_blocks([part.left for part in parts], tolerance, park)
  right = _polar_of_blocks([part.right for part in parts], tolerance, park)
  return Svd(left, np.concatenate([part.values for part in parts]), right)


def product(
    parts: Svd, park: parking.Park = parking.in_memory
) -> parking.Parked:
  """Returns `U diag(s) V'` `[n_in, n_out]`."""
  num_rows, num_columns = parts.left.shape[0], parts.right.shape[0]

  def made(rows: slice) -> np.ndarray:
    left = parts.left(rows) * parts.values
    found = np.empty((len(left), num_columns), left.dtype)
    for columns in parking.slices(num_columns, parking.NUM_FACTOR_ROWS):
      found[:, columns] = left @ parts.right(columns).T
    return found

  return parking.by_rows(
      made,
      parts.left.dtype,
      (num_rows, num_columns),
      park,
      num_rows=parking.in_few_parts(num_rows),
  )


def polar(
    matrix: parking.Parked,
    *,
    tolerance: float,
    park: parking.Park = parking.in_memory,
) -> parking.Parked:
  """Returns `P Q'` of `matrix = P diag(d) Q'`, cut at its rank.

  The nearest matrix with orthonormal columns (or rows, if it is wide) at full
  rank; below it the nearest partial isometry on the same space, which unlike
  the former is unique. A matrix without entries is returned as it is.
  """
  if 0 in matrix.shape:
    return matrix
  parts = svd(matrix, tolerance=tolerance, park=park)
  return product(parts._replace(values=np.ones_like(parts.values)), park)


def rank(matrix: parking.Parked, *, tolerance: float) -> int:
  """Returns the number of singular values above `tolerance s_1`."""
  if gram_matrix.resolves(matrix.dtype, tolerance):
    values = gram_matrix.values(_tall(matrix, parking.in_memory), tolerance)
  else:
    values = np.asarray(linalg.svdvals(matrix(), check_finite=False))
  return numerical_rank.num_kept(values, numerical_rank.Cut(tolerance))


def norm(
    matrix: parking.Parked,
    *,
    tolerance: float,
    park: parking.Park = parking.in_memory,
) -> float:
  """Returns the largest singular value, as exactly as a cut relative to it is.

  From the smaller Gram matrix, which is less work than a decomposition.
  """
  return float(gram_matrix.values(_tall(matrix, park), tolerance)[-1])


def num_bytes(size: int, dtype: np.dtype, tolerance: float) -> int:
  """Returns about how many bytes are held for a matrix of `size` entries."""
  matrix = size * dtype.itemsize
  if gram_matrix.resolves(dtype, tolerance):
    return 2 * matrix
  return max(3 * matrix, 7 * min(matrix, MAX_LAPACK))


def _kept(
    matrix: parking.Parked, cut: numerical_rank.Cut, park: parking.Park
) -> numerical_rank.Kept:
  """Returns the triples that count, of A, or of A' if A is wide."""
  tall = _tall(matrix, park)
  if gram_matrix.resolves(matrix.dtype, cut.tolerance):
    return gram_matrix.triples(tall, cut, park)
  if math.prod(matrix.shape) * matrix.dtype.itemsize > MAX_LAPACK:
    return polar_factor.triples(tall, cut, park)
  find = functools.partial(
      linalg.svd, tall(), full_matrices=False, check_finite=False
  )
  try:
    left, values, right = find()
  except linalg.LinAlgError:
    # Divide and conquer can fail in float32; the older iteration is slower.
    left, values, right = find(lapack_driver='gesvd')
  largest = slice(numerical_rank.num_kept(values, cut))
  left = left[:, largest][:, ::-1]
  return numerical_rank.Kept(
      left.__getitem__,
      values[largest][::-1],
      parking.Memory(right[largest][::-1].T),
  )


def _polar_of_blocks(
    blocks: Sequence[parking.Parked], tolerance: float, park: parking.Park
) -> parking.Parked:
  """Returns the polar factor of blocks `[n, k_t]` side by side.

  Args:
    blocks: orthonormal each.
    tolerance: relative to the largest singular value, at most
      `sqrt(len(blocks))`.
    park: where arrays wait.
  """
  first, *others = blocks
  if not others:
    return first
  num_rows, num_first = first.shape
  num_others = sum(other.shape[1] for other in others)
  shape = num_rows, num_first + num_others
  if num_first <= num_others or tolerance * len(blocks) ** 0.5 >= 1:
    joined = parking.by_rows(
        lambda rows: np.hstack([block(rows) for block in blocks]),
        first.dtype,
        shape,
        park,
    )
    return polar(joined, tolerance=tolerance, park=park)
  # Of the first block A and the others B, B and `A Q` of `A' B = Q R` turn. The
  # rest of A is orthogonal to them and has singular values of 1, above the cut:
  # with Iso-CTS so many equal ones that their vectors would be slow to find.
  turns = linalg.qr(  # which NumPy's does in float64
      np.hstack([_inner(first, other) for other in others]),
      mode='economic',
      check_finite=False,
  )
  touched = np.asarray(turns[0])
  del turns
  num_touched = touched.shape[1]
  joined = parking.by_rows(
      lambda rows: np.hstack(
          [first(rows) @ touched, *(other(rows) for other in others)]
      ),
      first.dtype,
      (num_rows, num_touched + num_others),
      park,
  )
  turned = polar(joined, tolerance=tolerance, park=park)

  def whole(rows: slice) -> np.ndarray:
    kept, changed = first(rows), turned(rows)
    kept += (changed[:, :num_touched] - kept @ touched) @ touched.T
    return np.hstack([kept, changed[:, num_touched:]])

  return parking.by_rows(whole, first.dtype, shape, park)


def _inner(left: parking.Parked, right: parking.Parked) -> np.ndarray:
  """Returns `L' R` `[k, m]` of L `[n, k]` and R `[n, m]`."""
  found = np.zeros((right.shape[1], left.shape[1]), left.dtype, order='F')
  if not found.size:  # which BLAS does not take
    return found.T
  (gemm,) = linalg.get_blas_funcs(['gemm'], [found])
  for rows in parking.slices(left.shape[0], parking.NUM_ROWS):
    sides = right(rows).T, left(rows).T
    found = gemm(1.0, *sides, beta=1.0, c=found, trans_b=True, overwrite_c=True)
  return found.T


def _is_wide(matrix: parking.Parked) -> bool:
  return matrix.shape[0] < matrix.shape[1]


def _tall(matrix: parking.Parked, park: parking.Park) -> parking.Parked:
  """Returns A, or A' if A is wide."""
  return parking.transposed(matrix, park) if _is_wide(matrix) else matrix
