"""The largest eigenvectors of a symmetric matrix, in little memory.

What LAPACK's `syevr` does, step by step, so that what a step has no need of can
be parked: A is made tridiagonal in its own place, `Q' A Q`; the reflectors that
make up Q are parked, and A is let go; vectors of the tridiagonal matrix are
found; and Q turns them back, some reflectors at a time. With the reflectors on
disk one copy of the matrix is held, beside blocks, where LAPACK holds two.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import linalg

from taskvec_jax.merging import parking

_NUM_REFLECTORS = 128  # that are applied at once
_NUM_VECTORS = 64  # to which they are applied
_NUM_WORK = 2**14  # numbers, for LAPACK's own blocks of reflectors


class Tridiagonal(NamedTuple):
  """`Q' A Q` of a symmetric matrix A `[n, n]`, and Q."""

  diagonal: np.ndarray  # [n]
  beside: np.ndarray  # [n - 1]
  reflectors: list[parking.Parked]  # v', _NUM_REFLECTORS in each
  factors: np.ndarray  # of the reflectors, [n - 1]


def tridiagonal(lower: np.ndarray, park: parking.Park) -> Tridiagonal:
  """Returns the form of the matrix with a lower half, which is overwritten.

  Args:
    lower: `[n, n]`, float64 or float32, in Fortran's order; above the diagonal
      it is not looked at. To be let go, it must be held by the caller no
      longer.
    park: where the reflectors wait.
  """
  size = len(lower)
  sytrd, sytrd_lwork = linalg.get_lapack_funcs(
      ['sytrd', 'sytrd_lwork'], [lower]
  )
  work, _ = sytrd_lwork(size, lower=True)
  lower, diagonal, beside, factors, _ = sytrd(
      lower, lower=True, lwork=int(work), overwrite_a=True
  )
  reflectors = [
      parking.parked(lower[columns.start + 1 :, columns].T, park)
      for columns in parking.slices(size - 1, _NUM_REFLECTORS)
  ]
  return Tridiagonal(diagonal, beside, reflectors, factors)


def values(form: Tridiagonal) -> np.ndarray:
  """Returns all eigenvalues `[n]`, the smallest first."""
  found = linalg.eigvalsh_tridiagonal(
      form.diagonal, form.beside, check_finite=False, lapack_driver='sterf'
  )
  return np.asarray(found)


def vectors(form: Tridiagonal, num: int) -> np.ndarray:
  """Returns the vectors `[n, num]` of the largest values, the smallest first.

  Args:
    form: of `tridiagonal`.
    num: of them.
  """
  if not num:
    return np.zeros((len(form.diagonal), 0), form.diagonal.dtype)
  found = _of_tridiagonal(form, num)
  (ormqr,) = linalg.get_lapack_funcs(['ormqr'], [found])
  turned = parking.slices(len(found) - 1, _NUM_REFLECTORS)
  panels = zip(turned, form.reflectors, strict=True)
  for rows, reflectors in reversed(list(panels)):
    below, panel = slice(rows.start + 1, None), reflectors().T
    for columns in parking.slices(num, _NUM_VECTORS):
      found[below, columns], _, _ = ormqr(
          'L',
          'N',
          panel,
          form.factors[rows],
          found[below, columns],
          lwork=_NUM_WORK,
      )
  return found


def _of_tridiagonal(form: Tridiagonal, num: int) -> np.ndarray:
  size = len(form.diagonal)
  # LAPACK's ways to a few vectors and to all take equal times at half of them.
  few = {'select': 'i', 'select_range': (size - num, size - 1)}
  find = functools.partial(
      linalg.eigh_tridiagonal,
      form.diagonal,
      form.beside,
      check_finite=False,
      **(few if num <= size // 2 else {}),
  )
  try:
    found = find(lapack_driver='stemr')
  except linalg.LinAlgError:
    # It can fail where many values are equal; inverse iteration is slower.
    found = find(lapack_driver='stebz')
  return np.asarray(found[1])[:, -num:]
