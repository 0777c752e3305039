"""The orthogonal polar factor of a matrix, in little memory, by QDWH.

  A = Q H,   Q' Q = I,   H = H' >= 0:   of A = U diag(s) V', Q = U V'

is the limit of the dynamically weighted Halley iteration

  X <- X (a I + b X' X) (I + c X' X)^-1,   X_0 = A / |A|_F,

which keeps the singular vectors and sends each value towards 1. Its weights
follow from a lower bound of the values, which each step moves up: six steps
are enough for any, five for 1e-10. Small bounds have large c, and then `X (I +
c X' X)^-1` comes from a QR decomposition of `[sqrt(c) X; I]`, which is stable
whatever c is; later, when c < 100, from a Cholesky decomposition.

With H = V diag(s) V' (see eigenvectors), U is Q V: a singular value
decomposition in half the memory of LAPACK's, three copies of a square matrix,
in up to twice its time.

Source: Nakatsukasa, Bai and Gygi, "Optimizing Halley's iteration for computing
the matrix polar decomposition", SIAM J. Matrix Anal. Appl. 31, 2010; for the
decomposition Nakatsukasa and Higham, "Stable and efficient spectral divide and
conquer algorithms for the symmetric eigenvalue decomposition and the SVD",
SIAM J. Sci. Comput. 35, 2013.
"""

from collections.abc import Iterator

import numpy as np
from scipy import linalg

from taskvec_jax.merging import eigenvectors
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking

_BLOCK = 128  # rows or columns that are worked on at once
_MAX_CHOLESKY = 100.0  # c up to which I + c X' X is well conditioned


def triples(
    matrix: parking.Parked, cut: numerical_rank.Cut, park: parking.Park
) -> numerical_rank.Kept:
  """Returns the triples that count, in the matrix's own dtype.

  Args:
    matrix: `[n_in, n_out]`, n_in >= n_out, float64 or float32.
    cut: which count.
    park: where the reflectors of H wait.
  """
  factor, form = _factors(matrix, cut, park)
  # But for rounding none is negative; a cut that lets rounding in lets in both.
  values = eigenvectors.values(form)
  sizes = np.abs(values)
  order = np.argsort(sizes, kind='stable')
  kept = order[len(order) - numerical_rank.num_kept(sizes, cut) :]
  first = kept.min(initial=len(sizes))
  vectors = eigenvectors.vectors(form, len(sizes) - first)
  if np.any(np.diff(kept) != 1):
    vectors = vectors[:, kept - first]
  return numerical_rank.Kept(
      lambda rows: factor[rows] @ vectors, sizes[kept], parking.Memory(vectors)
  )


def _factors(
    matrix: parking.Parked, cut: numerical_rank.Cut, park: parking.Park
) -> tuple[np.ndarray, eigenvectors.Tridiagonal]:
  """Returns Q, orthonormal as far as values count, and the form of H."""
  factor = np.asfortranarray(matrix())
  norm = float(np.linalg.norm(factor)) or 1.0
  # s_1 is at least the root of the mean square.
  scale = norm / factor.shape[1] ** 0.5 if cut.scale is None else cut.scale
  least = cut.tolerance * scale / norm / 2
  least = max(least, float(np.finfo(factor.dtype).eps) ** 2)
  factor = polar_factor(factor, min(least, 0.5))
  (syr2k,) = linalg.get_blas_funcs(['syr2k'], [factor])
  return factor, eigenvectors.tridiagonal(
      # (Q' A + A' Q) / 2
      syr2k(0.5, factor, np.asfortranarray(matrix()), trans=True, lower=True),
      park,
  )


def polar_factor(matrix: np.ndarray, smallest: float) -> np.ndarray:
  """Returns Q `[m, n]` of a matrix, in its place.

  Held at most: three copies of a square matrix, this one among them.

  Args:
    matrix: `[m, n]`, m >= n, in Fortran's order; overwritten.
    smallest: in (0, 1): singular values from this share of the Frobenius norm
      on become 1 to rounding; those below it, something between 0 and 1.
  """
  norm = np.linalg.norm(matrix)
  if norm:
    matrix /= norm
  for a, b, c in _weights(smallest):
    step = _by_qr if c > _MAX_CHOLESKY else _by_cholesky
    step(matrix, b / c, a - b / c, c)
  return matrix


def _weights(smallest: float) -> Iterator[tuple[float, float, float]]:
  """Yields a, b and c of each step, until `smallest` has become 1."""
  while 1.0 - smallest > 1e-15:
    square = smallest**2
    d = (4.0 * (1.0 - square) / square**2) ** (1 / 3)
    root = (1.0 + d) ** 0.5
    a = root + (8 - 4 * d + 8 * (2 - square) / (square * root)) ** 0.5 / 2
    b = (a - 1.0) ** 2 / 4
    c = a + b - 1.0
    smallest *= (a + b * square) / (1 + c * square)
    yield a, b, c


def _by_qr(x: np.ndarray, kept: float, changed: float, c: float) -> None:
  """Sets X to `kept X + changed X (I + c X' X)^-1`: Q_1 Q_2' / sqrt(c)."""
  num_rows, size = x.shape
  stack = np.zeros((num_rows + size, size), x.dtype, order='F')
  np.multiply(x, c**0.5, out=stack[:num_rows])
  np.fill_diagonal(stack[num_rows:], 1.0)
  geqrf, orgqr = linalg.get_lapack_funcs(['geqrf', 'orgqr'], [stack])
  work = _BLOCK * size
  stack, factors, _, _ = geqrf(stack, lwork=work, overwrite_a=True)
  stack, _, _ = orgqr(stack, factors, lwork=work, overwrite_a=True)
  first, second = stack[:num_rows], stack[num_rows:]
  x *= kept
  for columns in parking.slices(size, _BLOCK):
    x[:, columns] += first @ (changed / c**0.5 * second[columns].T)


def _by_cholesky(x: np.ndarray, kept: float, changed: float, c: float) -> None:
  """Sets X to `kept X + changed X (I + c X' X)^-1`: two triangular solves."""
  syrk, trsm = linalg.get_blas_funcs(['syrk', 'trsm'], [x])
  gram = syrk(c, x, trans=True, lower=True)
  gram[np.diag_indices_from(gram)] += 1.0
  factor = linalg.cholesky(
      gram, lower=True, overwrite_a=True, check_finite=False
  )
  for rows in parking.slices(len(x), _BLOCK):
    part = np.array(x[rows], order='F')
    for transposed in (True, False):
      part = trsm(
          1.0,
          factor,
          part,
          side=True,
          lower=True,
          trans_a=transposed,
          overwrite_b=True,
      )
    x[rows] = kept * x[rows] + changed * part
