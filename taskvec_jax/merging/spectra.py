"""Singular values and polar factors, cut at the numerical rank.

  A = U diag(s) V',   rank = the number of s_i > tolerance s_1,

and everything below the cut is left out. It has to be: a polar factor `U V'`
is unique at full rank only. Of a rank-3 sum of 8 x 8 matrices, 62 % of the
energy of an uncut `U V'` lies in directions that rounding chose, and a change
of the sum by 1e-12 changes it by 94 %. After one epoch task vectors are such
sums: a gradient's rank is at most the number of examples, and units that never
fire have rows of zeros.

The default tolerance is the square root of the machine epsilon of the dtype
computed in, or the epsilon of the leaf's own dtype if that is coarser:

  float64 1.5e-8   float32 3.5e-4   bfloat16 7.8e-3   float16 9.8e-4.

A relative change of the matrix by d moves each s_i by at most d s_1, so the
rank does not change unless some s_i / s_1 lies within d of the tolerance: 1e-12
in float64 is far below it, and so is, in float32, the rounding of a difference
of parameters a hundred times its size.

Matrices of float32 (and leaves below it, which are computed in it) go by the
eigenvectors of their smaller Gram matrix in float64, whose 53 bits resolve the
squares of all values above the cut. Merged matrices come out 3 to 16 times
nearer to those of float64 than by a decomposition in float32. Other matrices,
and tolerances below float32's default, go by LAPACK's singular value
decomposition.

Memory: what has to wait is parked, so that it can wait on disk. Then three
copies of a square float32 matrix are held at most (an array of float64 counts
as two); LAPACK's singular value decomposition holds six, in its own dtype.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from taskvec_jax.merging import eigenvectors
from taskvec_jax.merging import leaves
from taskvec_jax.merging import parking
from taskvec_jax.typing import Params

_BLOCK = 64  # rows or columns that are worked on at once
_FLOAT32_TOLERANCE = float(jnp.finfo(jnp.float32).eps) ** 0.5


class Svd(NamedTuple):
  """`U diag(s) V'`, of `rank` triples, the largest first."""

  left: parking.Parked  # U [n_in, rank]
  values: np.ndarray  # s [rank]
  right: parking.Parked  # V' [rank, n_out]


def added(matrices: Sequence[parking.Parked]) -> np.ndarray:
  """Returns the sum."""
  total = matrices[0]()
  for matrix in matrices[1:]:
    total += matrix()
  return total


def svd(
    matrix: np.ndarray,
    *,
    tolerance: float,
    scale: float | None = None,
    most: int | None = None,
    park: parking.Park = parking.held,
) -> Svd:
  """Returns the triples with `s_i > tolerance scale`, the largest `most`.

  Args:
    matrix: `[n_in, n_out]`, which may be overwritten.
    tolerance: relative to `scale`.
    scale: None for `s_1`, the matrix's own norm.
    most: None for all.
    park: where the vectors wait.
  """
  if not squares_resolve(matrix.dtype, tolerance):
    left, values, right = _lapack(matrix, park)
    kept = slice(_rank(values, tolerance, scale, most))
    return Svd(park(left[:, kept]), values[kept].copy(), park(right[kept]))
  wide = _wide(matrix)
  tall = wide is not matrix
  values, vectors = _gram_parts(wide, tolerance, park, scale, most)
  long = wide[: len(values)]
  for columns in parking.slices(wide.shape[1], _BLOCK):
    long[::-1, columns] = _inside(vectors, wide[:, columns], values)
  long = park(long.T if tall else long)
  del matrix, wide
  short = vectors[:, ::-1].astype(np.float32)
  short = park(short.T if tall else short)
  values = values[::-1].astype(np.float32)
  return Svd(long, values, short) if tall else Svd(short, values, long)


def outside(matrix: np.ndarray, left: np.ndarray) -> np.ndarray:
  """Returns `(I - U U') A` of orthonormal U `[n_in, k]`, in the place of A."""
  (gemm,) = linalg.get_blas_funcs(['gemm'], [matrix])
  for columns in parking.slices(matrix.shape[1], _BLOCK):
    inside = gemm(1.0, left.T, matrix[:, columns])
    matrix[:, columns] -= gemm(1.0, left.T, inside, trans_a=True)
  return matrix


def orthogonalised(
    parts: Sequence[Svd], *, tolerance: float, park: parking.Park = parking.held
) -> Svd:
  """Returns all triples side by side, their vectors made orthonormal.

  `[U_1 ... U_T]` and `[V_1 ... V_T]` are replaced by their polar factors, cut
  at their rank, which is below the number of triples if those depend on each
  other.
  """
  left = [part.left() for part in parts]
  left = park(_polar_of_blocks(left, tolerance, park))
  right = [part.right().T for part in parts]
  right = park(_polar_of_blocks(right, tolerance, park).T)
  return Svd(left, np.concatenate([part.values for part in parts]), right)


def polar(
    matrix: np.ndarray, *, tolerance: float, park: parking.Park = parking.held
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `P Q'` and `d` of `matrix = P diag(d) Q'`, cut at its rank.

  The nearest matrix with orthonormal columns (or rows, if it is wide) at full
  rank; below it the nearest partial isometry on the same space, which unlike
  the former is unique. A matrix without entries is returned as it is, others
  may be overwritten.
  """
  if not matrix.size:
    return matrix, np.zeros(0, matrix.dtype)
  if not squares_resolve(matrix.dtype, tolerance):
    parts = svd(matrix, tolerance=tolerance, park=park)
    left, right = parts.left(), parts.right()
    for rows in parking.slices(len(matrix), _BLOCK):
      matrix[rows] = left[rows] @ right
    return matrix, parts.values
  wide = _wide(matrix)
  values, vectors = _gram_parts(wide, tolerance, park)
  (gemm,) = linalg.get_blas_funcs(['gemm'], [vectors])
  for columns in parking.slices(wide.shape[1], _BLOCK):
    inside = _inside(vectors, wide[:, columns], values)
    wide[:, columns] = gemm(1.0, vectors, inside)
  return matrix, values[::-1].astype(matrix.dtype)


def rank(matrix: np.ndarray, *, tolerance: float) -> int:
  """Returns the number of singular values above `tolerance s_1`."""
  if squares_resolve(matrix.dtype, tolerance):
    return _rank(_values(_wide(matrix)), tolerance)
  values = np.asarray(linalg.svdvals(matrix, check_finite=False))
  return _rank(values, tolerance)


def norm(matrix: np.ndarray) -> float:
  """Returns the largest singular value, from the smaller Gram matrix.

  Less work than a decomposition; in float64, because it squares the values.
  """
  return float(_values(_wide(matrix))[0])


def squares_resolve(dtype: np.dtype, tolerance: float) -> bool:
  """Returns whether a matrix goes by its Gram matrix, not by LAPACK's way.

  It does if float64 tells the squares of all values from rounding.
  """
  return dtype == np.float32 and tolerance >= _FLOAT32_TOLERANCE


def tolerance_of(dtype, rank_tolerance: float | None = None) -> float:
  """Returns the tolerance for a leaf of `dtype`: as given, or the default."""
  if rank_tolerance is not None:
    return rank_tolerance
  own = float(jnp.finfo(dtype).eps)
  return max(own, min(own**0.5, _FLOAT32_TOLERANCE))


def tolerances(
    task_vectors: Mapping[str, Params], rank_tolerance: float | None = None
) -> dict[str, float]:
  """Returns leaf name -> tolerance, of the floating-point leaves."""
  first = next(iter(task_vectors.values()))
  return {
      name: tolerance_of(leaves.asarray(leaf).dtype, rank_tolerance)
      for name, leaf in leaves.named(first).items()
      if leaves.is_floating(leaves.asarray(leaf).dtype)
  }


def check_tolerance(rank_tolerance: float | None) -> None:
  """Raises a ValueError unless the tolerance is None or in [0, 1)."""
  if rank_tolerance is not None and not 0 <= rank_tolerance < 1:
    raise ValueError(
        'rank_tolerance must be at least 0 and below 1 but is'
        f' {rank_tolerance}.'
    )


def _polar_of_blocks(
    columns: list[np.ndarray], tolerance: float, park: parking.Park
) -> np.ndarray:
  """Returns the polar factor of blocks `[n, k_t]` side by side.

  Args:
    columns: orthonormal in each block; the list is emptied.
    tolerance: relative to the largest singular value, at most
      `sqrt(len(columns))`.
    park: where arrays wait.
  """
  largest = len(columns) ** 0.5
  num_first, joined = columns[0].shape[1], np.concatenate(columns, axis=1)
  columns.clear()
  first, others = joined[:, :num_first], joined[:, num_first:]
  if num_first <= others.shape[1] or tolerance * largest >= 1:
    return polar(joined, tolerance=tolerance, park=park)[0]
  # Of the first block A and the others B, B and `A Q` of `A' B = Q R` turn. The
  # rest of A is orthogonal to them and has singular values of 1, above the cut:
  # with Iso-CTS so many equal ones that their vectors would be slow to find.
  touched, _ = np.linalg.qr(first.T @ others)
  turned, _ = polar(
      np.concatenate([first @ touched, others], axis=1),
      tolerance=tolerance,
      park=park,
  )
  for rows in parking.slices(len(joined), _BLOCK):
    change = turned[rows, : touched.shape[1]] - first[rows] @ touched
    first[rows] += change @ touched.T
  others[:] = turned[:, touched.shape[1] :]
  return joined


def _lapack(
    matrix: np.ndarray, park: parking.Park
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns U, s and V' of all triples, and overwrites the matrix."""
  flags = matrix.flags
  if flags.c_contiguous and not flags.f_contiguous:  # LAPACK wants columns
    right, values, left = _lapack(matrix.T, park)
    return left.T, values, right.T
  again = park(matrix.copy())
  find = functools.partial(
      linalg.svd, full_matrices=False, overwrite_a=True, check_finite=False
  )
  try:
    return find(matrix)
  except linalg.LinAlgError:
    # Divide and conquer can fail in float32; the older iteration is slower.
    return find(again(), lapack_driver='gesvd')


def _inside(
    vectors: np.ndarray, part: np.ndarray, values: np.ndarray
) -> np.ndarray:
  """Returns `diag(1 / s) U' A` of some columns of A."""
  # By BLAS itself: NumPy's product is that of the transposes, for which it
  # packs copies of more vectors at once.
  (gemm,) = linalg.get_blas_funcs(['gemm'], [vectors])
  part = part.astype(np.float64, order='F')
  inside = gemm(1.0, vectors, part, trans_a=True)
  inside /= values[:, None]
  return inside


def _gram_parts(
    wide: np.ndarray,
    tolerance: float,
    park: parking.Park,
    scale: float | None = None,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns s `[rank]` and U `[n, rank]` in float64, the smallest first."""
  form = eigenvectors.tridiagonal(_gram(wide), park)
  # First how many: vectors of the null space are slow to find, and in the way.
  values = _roots(eigenvectors.values(form))
  found = _rank(values[::-1], tolerance, scale, most)
  if not found:
    return np.zeros(0), np.zeros((len(wide), 0))
  return values[-found:], eigenvectors.vectors(form, found)


def _values(wide: np.ndarray) -> np.ndarray:
  """Returns all singular values, the largest first, in float64."""
  return _roots(
      linalg.eigvalsh(
          _gram(wide), lower=True, overwrite_a=True, check_finite=False
      )
  )[::-1]


def _wide(matrix: np.ndarray) -> np.ndarray:
  return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _gram(wide: np.ndarray) -> np.ndarray:
  """Returns the lower half of `A A'` in float64, where LAPACK can work in it.

  Squares of float32 fit in float64.
  """
  gram = np.zeros((len(wide), len(wide)), order='F')
  (syrk,) = linalg.get_blas_funcs(['syrk'], [gram])
  for columns in parking.slices(wide.shape[1], _BLOCK):
    part = wide[:, columns].astype(np.float64, order='F')
    gram = syrk(1.0, part, beta=1.0, c=gram, overwrite_c=True, lower=True)
  return gram


def _roots(squares: np.ndarray) -> np.ndarray:
  return squares.clip(0.0) ** 0.5


def _rank(
    values: np.ndarray,
    tolerance: float,
    scale: float | None = None,
    most: int | None = None,
) -> int:
  scale = float(values[0]) if scale is None else scale
  found = int(np.sum(values > tolerance * scale))
  return found if most is None else min(found, most)
