"""TSV-M: task singular vectors, made orthogonal between tasks.

Of each matrix (see matrix_view) of each task, `Delta_t = U_t S_t V_t'`, the
k = floor(r / T) largest singular triples are kept, r = min(n_in, n_out). All
tasks' vectors, side by side, are replaced by their polar factors, the nearest
orthonormal ones:

  U = [U_1 ... U_T],  U* = polar(U),   V alike,
  tau_m = U* diag(S_1, ..., S_T) V*'.

Everything else is averaged. The paper's scaling is 1, or the best of 0, 0.1,
..., 3 on validation data.

Where this leaves the paper and its implementation: triples below the numerical
rank are not taken in, and the polar factors stop at the numerical rank of U and
V (see numerical_rank). The implementation takes k triples whatever the rank, so
that a rank-deficient matrix's arbitrary null vectors turn the other tasks'.
Tasks that share a direction exactly share it in equal parts here. A matrix with
fewer singular values than there are tasks, k = 0, is averaged; the
implementation gives zeros. It also averages the leaf that is called
text_projection; here every matrix is decomposed. One task gives its own task
vector.

Cost: a decomposition a task and matrix, two of `[n, k T]`.

Source: Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in
Model Merging", arXiv:2412.00081.
"""

from collections.abc import Mapping
from collections.abc import Sequence

from taskvec_jax.merging import checks
from taskvec_jax.merging import matrix_view
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import spectra
from taskvec_jax.typing import Params


def tsv_m(
    task_vectors: Mapping[str, Params], *, rank_tolerance: float | None = None
) -> Params:
  """Returns `tau_m`, a tree like one task vector.

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
      tsv_m_matrix, task_vectors, rank_tolerance=rank_tolerance
  )


def tsv_m_matrix(
    matrices: Sequence[parking.Parked],
    tolerance: float,
    *,
    park: parking.Park = parking.in_memory,
) -> parking.Parked:
  """Returns `U* S V*'` `[n_in, n_out]` of T matrices `[n_in, n_out]`."""
  num_kept = min(matrices[0].shape) // len(matrices)
  if num_kept == 0:
    total = spectra.added(matrices, park)
    return parking.by_rows(
        lambda rows: total(rows) / len(matrices), total.dtype, total.shape, park
    )
  parts = [
      spectra.svd(matrix, tolerance=tolerance, most=num_kept, park=park)
      for matrix in matrices
  ]
  return spectra.product(
      spectra.orthogonalised(parts, tolerance=tolerance, park=park), park
  )
