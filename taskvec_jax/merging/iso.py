"""Iso-C and Iso-CTS: merged matrices whose singular values are all one.

Iso-C flattens the spectrum of the sum of each matrix (see matrix_view):

  sum_t Delta_t = U diag(s) V',   tau_m = s_bar U V',   s_bar = mean(s).

Iso-CTS keeps the sum's k largest triples, k = floor(f r) of r = min(n_in,
n_out), and gives the rest to the tasks: q = round((r - k) / T) triples each
(k is then r - q T, so that they fill r) of what lies outside,

  (I - U_k U_k') Delta_t = U_t S_t V_t';

with U = [U_k U_1 ... U_T], S and V alike,

  tau_m = s_bar polar(U) polar(V)',   s_bar = mean(S).

If q = 0, at f = 0.8 for r up to about 5/2 T, it is Iso-C. Everything that is no
matrix is averaged. The papers choose the scaling on validation data among 0,
0.1, ..., 3.

Where this leaves the paper and its implementation, which guard nothing: only
directions above the numerical rank count (see numerical_rank; an uncut U V'
gives the weight s_bar to directions that rounding chose). s_bar is the mean of
the singular values that are kept: with the cut as without it, Iso-C keeps the
sum of the singular values. The tasks' parts are cut against the norm of
Delta_t, because what the projection leaves of a task inside the common space is
rounding and would be its own measure. The number of tasks' triples never
exceeds r, where rounding up would. A sum of zeros gives zeros.

Cost: a decomposition a matrix for Iso-C; T more and two of `[n, r]` for
Iso-CTS.

Source: Marczak et al., "No Task Left Behind: Isotropic Model Merging with
Common and Task-Specific Subspaces", arXiv:2502.04959.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.merging import matrix_view
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import spectra
from taskvec_jax.typing import Params


def iso_c(
    task_vectors: Mapping[str, Params], *, rank_tolerance: float | None = None
) -> Params:
  """Returns Iso-C's `tau_m`, a tree like one task vector.

  Args:
    task_vectors: task name -> `tau_t`.
    rank_tolerance: singular values up to this share of the largest count as 0;
      in [0, 1); None for the default of each leaf's dtype.

  Raises:
    ValueError: no task, trees that differ, or a tolerance out of its range.
  """
  checks.check_task_vectors(task_vectors)
  numerical_rank.check_tolerance(rank_tolerance)
  return matrix_view.merged(
      iso_c_matrix, task_vectors, rank_tolerance=rank_tolerance
  )


def iso_cts(
    task_vectors: Mapping[str, Params],
    *,
    common_fraction: float = 0.8,
    rank_tolerance: float | None = None,
) -> Params:
  """Returns Iso-CTS' `tau_m`, a tree like one task vector.

  Args:
    task_vectors: task name -> `tau_t`.
    common_fraction: f, the share of triples that all tasks share, in [0, 1].
    rank_tolerance: as in `iso_c`.

  Raises:
    ValueError: as `iso_c`, or a fraction outside [0, 1].
  """
  checks.check_task_vectors(task_vectors)
  checks.check_fraction('common_fraction', common_fraction)
  numerical_rank.check_tolerance(rank_tolerance)
  return matrix_view.merged(
      functools.partial(iso_cts_matrix, common_fraction=common_fraction),
      task_vectors,
      rank_tolerance=rank_tolerance,
  )


def iso_c_matrix(
    matrices: Sequence[parking.Parked],
    tolerance: float,
    *,
    park: parking.Park = parking.in_memory,
) -> parking.Parked:
  """Returns `s_bar U V'` `[n_in, n_out]` of T matrices `[n_in, n_out]`."""
  total = spectra.added(matrices, park)
  return _flattened(spectra.svd(total, tolerance=tolerance, park=park), park)


def iso_cts_matrix(
    matrices: Sequence[parking.Parked],
    tolerance: float,
    *,
    common_fraction: float,
    park: parking.Park = parking.in_memory,
) -> parking.Parked:
  """Returns `s_bar polar(U) polar(V)'` of T matrices `[n_in, n_out]`."""
  num_common, num_own = allocation(
      min(matrices[0].shape), len(matrices), common_fraction=common_fraction
  )
  if num_own == 0:
    return iso_c_matrix(matrices, tolerance, park=park)
  common = spectra.svd(
      spectra.added(matrices, park),
      tolerance=tolerance,
      most=num_common,
      park=park,
  )
  parts = [common]
  for matrix in matrices:
    parts.append(
        spectra.svd(
            spectra.outside(matrix, common.left, park),
            tolerance=tolerance,
            scale=spectra.norm(matrix, tolerance=tolerance, park=park),
            most=num_own,
            park=park,
        )
    )
  return _flattened(
      spectra.orthogonalised(parts, tolerance=tolerance, park=park), park
  )


def allocation(
    size: int, num_tasks: int, *, common_fraction: float
) -> tuple[int, int]:
  """Returns (k, q), triples in common and for each task: size = k + q T."""
  rest = size - leaves.share(common_fraction, size)
  num_own = min(round(rest / num_tasks), size // num_tasks)
  return size - num_own * num_tasks, num_own


def _flattened(parts: spectra.Svd, park: parking.Park) -> parking.Parked:
  """Returns `s_bar U V'`."""
  mean = np.mean(parts.values) if parts.values.size else 0.0
  values = np.full_like(parts.values, mean)
  return spectra.product(parts._replace(values=values), park)
