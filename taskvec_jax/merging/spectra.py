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
decomposition, and if they are large by their polar factor (see polar_factor),
which takes up to twice as long.

Memory: what has to wait is parked, so that it can wait on disk. Then three
copies of a square matrix are held at most (of a float32 one's Gram matrix in
float64 each counts as two). LAPACK's singular value decomposition holds six,
which is why it is for matrices up to 8 MiB.
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
from taskvec_jax.merging import polar_factor
from taskvec_jax.typing import Params

_BLOCK = 64  # rows or columns that are worked on at once
MAX_LAPACK = 2**23  # bytes of a matrix that goes by LAPACK
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
  if not _squares_resolve(matrix.dtype, tolerance):
    find = _lapack if matrix.nbytes <= MAX_LAPACK else _by_polar_factor
    return find(matrix, tolerance, scale, most, park)
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
  if not _squares_resolve(matrix.dtype, tolerance):
    if matrix.nbytes > MAX_LAPACK:
      return _isometry(matrix, tolerance, park)
    parts = _lapack(matrix, tolerance, None, None, park)
    return parts.left() @ parts.right(), parts.values
  wide = _wide(matrix)
  values, vectors = _gram_parts(wide, tolerance, park)
  (gemm,) = linalg.get_blas_funcs(['gemm'], [vectors])
  for columns in parking.slices(wide.shape[1], _BLOCK):
    inside = _inside(vectors, wide[:, columns], values)
    wide[:, columns] = gemm(1.0, vectors, inside)
  return matrix, values[::-1].astype(matrix.dtype)


def rank(matrix: np.ndarray, *, tolerance: float) -> int:
  """Returns the number of singular values above `tolerance s_1`."""
  if _squares_resolve(matrix.dtype, tolerance):
    return _rank(_values(_wide(matrix)), tolerance)
  values = np.asarray(linalg.svdvals(matrix, check_finite=False))
  return _rank(values, tolerance)


def norm(matrix: np.ndarray) -> float:
  """Returns the largest singular value, from the smaller Gram matrix.

  Less work than a decomposition; in float64, because it squares the values.
  """
  return float(_values(_wide(matrix))[0])


def _squares_resolve(dtype: np.dtype, tolerance: float) -> bool:
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
    matrix: np.ndarray,
    tolerance: float,
    scale: float | None,
    most: int | None,
    park: parking.Park,
) -> Svd:
  """Does what `svd` does."""
  find = functools.partial(linalg.svd, full_matrices=False, check_finite=False)
  try:
    left, values, right = find(matrix)
  except linalg.LinAlgError:
    # Divide and conquer can fail in float32; the older iteration is slower.
    left, values, right = find(matrix, lapack_driver='gesvd')
  kept = slice(_rank(values, tolerance, scale, most))
  return Svd(park(left[:, kept]), values[kept].copy(), park(right[kept]))


def _by_polar_factor(
    matrix: np.ndarray,
    tolerance: float,
    scale: float | None,
    most: int | None,
    park: parking.Park,
) -> Svd:
  """Does what `svd` does: with A = Q H and H = V S V', U is Q V."""
  is_wide = matrix.shape[0] < matrix.shape[1]
  factor, form = _polar_form(matrix, tolerance, scale, park)
  values, short = _largest(form, tolerance, scale, most)
  long = factor[:, : len(values)]
  for rows in parking.slices(len(factor), _BLOCK):
    long[rows] = factor[rows] @ short
  long = park(long.T if is_wide else long)
  del factor
  short = park(short if is_wide else short.T)
  return Svd(short, values, long) if is_wide else Svd(long, values, short)


def _isometry(
    matrix: np.ndarray, tolerance: float, park: parking.Park
) -> tuple[np.ndarray, np.ndarray]:
  """Does what `polar` does: of Q, `Q V V'` with the vectors that are kept."""
  is_wide = matrix.shape[0] < matrix.shape[1]
  factor, form = _polar_form(matrix, tolerance, None, park)
  values, vectors = _largest(form, tolerance, None, None)
  if len(values) < factor.shape[1]:
    for rows in parking.slices(len(factor), _BLOCK):
      factor[rows] = (factor[rows] @ vectors) @ vectors.T
  return factor.T if is_wide else factor, values


def _polar_form(
    matrix: np.ndarray,
    tolerance: float,
    scale: float | None,
    park: parking.Park,
) -> tuple[np.ndarray, eigenvectors.Tridiagonal]:
  """Returns Q and the form of H of the matrix, or its transpose if it is wide.

  Q is orthonormal where `s_i` is above the cut.
  """
  tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
  again = park(tall.T)
  if not tall.flags.f_contiguous:
    tall = tall.reshape(-1).reshape(tall.shape, order='F')
    tall[:] = again().T
  norm = float(np.linalg.norm(tall)) or 1.0
  # s_1 is at least the root of the mean square.
  cut = tolerance * (norm / len(tall.T) ** 0.5 if scale is None else scale)
  smallest = max(cut / norm / 2, float(jnp.finfo(tall.dtype).eps) ** 2)
  factor = polar_factor.polar_factor(tall, min(smallest, 0.5))
  (syr2k,) = linalg.get_blas_funcs(['syr2k'], [factor])
  return factor, eigenvectors.tridiagonal(
      syr2k(0.5, factor, again().T, trans=True, lower=True), park
  )


def _largest(
    form: eigenvectors.Tridiagonal,
    tolerance: float,
    scale: float | None,
    most: int | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns eigenvalues `[rank]` of H, and vectors `[n, rank]`.

  The largest first, by size: but for rounding H has no negative ones, and where
  the tolerance lets rounding in, either sign of it counts.
  """
  values = eigenvectors.values(form)
  sizes = np.abs(values)
  order = np.argsort(-sizes, kind='stable')
  kept = order[: _rank(sizes[order], tolerance, scale, most)]
  if not len(kept):
    return np.zeros(0, sizes.dtype), np.zeros((len(sizes), 0), sizes.dtype)
  first = kept.min()
  vectors = eigenvectors.vectors(form, len(sizes) - first)
  return sizes[kept], vectors[:, kept - first]


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
