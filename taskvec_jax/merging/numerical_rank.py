"""The numerical rank: which singular values count.

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
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from taskvec_jax.merging import leaves
from taskvec_jax.merging import parking
from taskvec_jax.typing import Params

FLOAT32_TOLERANCE = float(jnp.finfo(jnp.float32).eps) ** 0.5


class Cut(NamedTuple):
  """Which singular values count."""

  tolerance: float  # those above `tolerance scale`
  scale: float | None = None  # None for `s_1`, the largest
  most: int | None = None  # of them the largest so many; None for all


class Kept(NamedTuple):
  """The triples that count, of a matrix `[n_in, n_out]`, the smallest first."""

  left: Callable[[slice], np.ndarray]  # rows of U [n_in, rank]
  values: np.ndarray  # s [rank]
  right: parking.Parked  # V [n_out, rank]


def num_kept(values: np.ndarray, cut: Cut) -> int:
  """Returns how many singular values count, of at least one, in any order."""
  scale = float(values.max()) if cut.scale is None else cut.scale
  found = int(np.sum(values > cut.tolerance * scale))
  return found if cut.most is None else min(found, cut.most)


def tolerance_of(dtype, rank_tolerance: float | None = None) -> float:
  """Returns the tolerance for a leaf of `dtype`: as given, or the default."""
  if rank_tolerance is not None:
    return rank_tolerance
  own = float(jnp.finfo(dtype).eps)
  return max(own, min(own**0.5, FLOAT32_TOLERANCE))


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
