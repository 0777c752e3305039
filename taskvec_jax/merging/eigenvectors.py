"""The largest eigenvectors of a symmetric matrix, in little memory.

What LAPACK's `syevr` and `syevx` do, step by step, so that what a step has no
need of can be parked: A is made tridiagonal in its own place, `Q' A Q`; the
reflectors that make up Q are parked, and A is let go; vectors of the
tridiagonal matrix are found; and Q turns them back, some reflectors at a time.

Large matrices' vectors are found in blocks, by inverse iteration, each to wait
in its turn. Within a block LAPACK makes them orthogonal; between blocks they
are, but for

  rounding / (distance of the blocks' nearest values / the largest value),

so that a block ends at a large gap between values, or where the tridiagonal
matrix falls into parts, as it does if values are equal. Measured over spectra
of twenty kinds, vectors of different blocks were orthogonal to 1e-8, and but
for matrices of many values equal to seven digits to 1e-11. Where neither is
found, all vectors are found at once, and held.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import linalg

from taskvec_jax.merging import parking

_NUM_REFLECTORS = 128  # that are applied at once
_NUM_VECTORS = 128  # about as many are found, and turned back, at once
_NUM_WORK = 2**15  # numbers, for LAPACK's own blocks of reflectors
_MAX_WHOLE = 1024  # rows of a matrix whose vectors need no blocks
_MIN_GAP = 1e-11  # between blocks, of the largest value


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
  for columns in parking.slices(num, _NUM_VECTORS):
    found[:, columns] = _turned(form, found[:, columns])
  return found


def parked_vectors(
    form: Tridiagonal, num: int, park: parking.Park
) -> parking.Parked:
  """Returns what `vectors` does, parked, and in blocks if that can be.

  Args:
    form: of `tridiagonal`.
    num: of them.
    park: where they wait.
  """
  found = None
  if num and len(form.diagonal) > _MAX_WHOLE:
    found = _found_in_blocks(form, num, park)
  return parking.parked(vectors(form, num), park) if found is None else found


def _found_in_blocks(
    form: Tridiagonal, num: int, park: parking.Park
) -> parking.Parked | None:
  """Returns what `parked_vectors` does, or None if that cannot be."""
  ends = _ends_of_parts(form)
  found, parts = _largest(form, ends, num)
  cuts = _blocks(found, parts)
  if cuts is None:
    return None
  blocks = []
  for cut in cuts:
    block = _near(form, found[cut], parts[cut], ends)
    if block is None:
      return None
    blocks.append(parking.parked(_turned(form, block), park))
  order = np.argsort(found, kind='stable')
  return parking.by_rows(
      lambda rows: np.hstack([block(rows) for block in blocks])[:, order],
      form.diagonal.dtype,
      (len(form.diagonal), num),
      park,
  )


def _ends_of_parts(form: Tridiagonal) -> np.ndarray:
  """Returns where the parts end that nothing beside the diagonal connects."""
  rounding = np.finfo(form.diagonal.dtype).eps * np.abs(form.diagonal).max()
  ends = np.flatnonzero(np.abs(form.beside) <= rounding) + 1
  return np.append(ends, len(form.diagonal))


def _largest(
    form: Tridiagonal, ends: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the largest values `[num]`, part after part, and their parts."""
  starts = np.append(0, ends[:-1])
  found = np.concatenate(
      [
          values(
              form._replace(
                  diagonal=form.diagonal[start:end],
                  beside=form.beside[start : end - 1],
              )
          )
          for start, end in zip(starts, ends, strict=True)
      ]
  )
  kept = np.sort(np.argsort(found, kind='stable')[len(found) - num :])
  return found[kept], np.repeat(np.arange(len(ends)), ends - starts)[kept]


def _blocks(found: np.ndarray, parts: np.ndarray) -> list[slice] | None:
  """Returns what cuts values at large gaps or between parts, if that can be."""
  gaps = np.where(np.diff(parts), np.inf, np.diff(found))
  blocks, start = [], 0
  while len(found) - start > 3 * _NUM_VECTORS // 2:
    least = start + _NUM_VECTORS // 2
    stop = least + int(np.argmax(gaps[least - 1 :][:_NUM_VECTORS]))
    if gaps[stop - 1] < _MIN_GAP * found.max():
      return None
    blocks.append(slice(start, stop))
    start = stop
  return [*blocks, slice(start, len(found))]


def _near(
    form: Tridiagonal, found: np.ndarray, parts: np.ndarray, ends: np.ndarray
) -> np.ndarray | None:
  """Returns vectors `[n, k]` of k values, or None if LAPACK finds none."""
  size = len(form.diagonal)
  (stein,) = linalg.get_lapack_funcs(['stein'], [form.diagonal])
  of_values, last = np.ones(size, np.int32), np.full(size, size, np.int32)
  of_values[: len(parts)], last[: len(ends)] = parts + 1, ends
  block, failed = stein(form.diagonal, form.beside, found, of_values, last)
  return None if failed else block


def _turned(form: Tridiagonal, block: np.ndarray) -> np.ndarray:
  """Returns `Q Z` `[n, k]` of vectors Z `[n, k]`, in C order."""
  # As Z' Q', whose columns follow each other, so that LAPACK needs no copies.
  found = np.array(block, order='C').T
  (ormqr,) = linalg.get_lapack_funcs(['ormqr'], [found])
  turned = parking.slices(len(block) - 1, _NUM_REFLECTORS)
  panels = zip(turned, form.reflectors, strict=True)
  for rows, reflectors in reversed(list(panels)):
    ormqr(
        'R',
        'T',
        reflectors().T.astype(found.dtype, copy=False),
        form.factors[rows],
        found[:, rows.start + 1 :],
        lwork=_NUM_WORK,
        overwrite_c=True,
    )
  return found.T


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
