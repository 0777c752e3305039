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

Decompositions are LAPACK's, in the dtype of the leaf, float32 at least.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from taskvec_jax.merging import leaves
from taskvec_jax.typing import Params

_NUM_COLUMNS = 256  # in float64 at once


class Svd(NamedTuple):
  """`U diag(s) V'`, of `rank` triples, the largest first."""

  left: np.ndarray  # U [n_in, rank]
  values: np.ndarray  # s [rank]
  right: np.ndarray  # V' [rank, n_out]


def svd(
    matrix: np.ndarray, *, tolerance: float, scale: float | None = None
) -> Svd:
  """Returns the triples with `s_i > tolerance scale`.

  Args:
    matrix: `[n_in, n_out]`.
    tolerance: relative to `scale`.
    scale: None for `s_1`, the matrix's own norm.
  """
  try:
    left, values, right = linalg.svd(
        matrix, full_matrices=False, check_finite=False
    )
  except linalg.LinAlgError:
    # Divide and conquer can fail in float32; the older iteration is slower.
    left, values, right = linalg.svd(
        matrix, full_matrices=False, check_finite=False, lapack_driver='gesvd'
    )
  rank = _rank(values, tolerance, float(values[0]) if scale is None else scale)
  return Svd(left[:, :rank], values[:rank], right[:rank])


def truncated(parts: Svd, rank: int) -> Svd:
  """Returns the `rank` largest triples, or all if there are fewer."""
  # Copies, or views would hold the rest.
  return Svd(
      parts.left[:, :rank].copy(),
      parts.values[:rank].copy(),
      parts.right[:rank].copy(),
  )


def concatenated(parts: list[Svd]) -> Svd:
  """Returns all triples side by side; their vectors need not be orthogonal."""
  return Svd(
      np.concatenate([part.left for part in parts], axis=1),
      np.concatenate([part.values for part in parts]),
      np.concatenate([part.right for part in parts], axis=0),
  )


def polar(matrix: np.ndarray, *, tolerance: float) -> np.ndarray:
  """Returns `P Q'` of `matrix = P diag(d) Q'`, cut at its numerical rank.

  The nearest matrix with orthonormal columns (or rows, if it is wide) at full
  rank; below it the nearest partial isometry on the same space, which unlike
  the former is unique. A matrix without entries is returned as it is.
  """
  if not matrix.size:
    return matrix
  parts = svd(matrix, tolerance=tolerance)
  return parts.left @ parts.right


def rank(matrix: np.ndarray, *, tolerance: float) -> int:
  """Returns the number of singular values above `tolerance s_1`."""
  values = np.asarray(linalg.svdvals(matrix, check_finite=False))
  return _rank(values, tolerance, float(values[0]))


def norm(matrix: np.ndarray) -> float:
  """Returns the largest singular value, from the smaller Gram matrix.

  Less work than all values; in float64, because it squares them.
  """
  wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
  gram = np.zeros((len(wide), len(wide)))
  for start in range(0, wide.shape[1], _NUM_COLUMNS):
    columns = wide[:, start : start + _NUM_COLUMNS].astype(np.float64)
    gram += columns @ columns.T
  return float(np.linalg.eigvalsh(gram)[-1].clip(0.0) ** 0.5)


def tolerance_of(dtype, rank_tolerance: float | None = None) -> float:
  """Returns the tolerance for a leaf of `dtype`: as given, or the default."""
  if rank_tolerance is not None:
    return rank_tolerance
  own = float(jnp.finfo(dtype).eps)
  computed_in = min(own, float(jnp.finfo(jnp.float32).eps))
  return max(own, computed_in**0.5)


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


def _rank(values: np.ndarray, tolerance: float, scale: float) -> int:
  return int(np.sum(values > tolerance * scale))
