"""MagMax: of each coordinate, the task vector that moved it furthest.

  tau_m = tau_s,   s = argmax_t |tau_t|,   for each coordinate.

Equal magnitudes go to the task that comes first in the mapping, as in the
reference implementation, which goes through the models in order. One task
gives itself. How far to go along the result is the caller's scaling.

Cost: a pass over the task vectors.

Source: Marczak et al., "MagMax: Leveraging Model Merging for Seamless
Continual Learning", arXiv:2407.06322.
"""

from collections.abc import Mapping

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def magmax(task_vectors: Mapping[str, Params]) -> Params:
  """Returns the coordinates of largest magnitude, a tree like one task vector.

  Raises:
    ValueError: no task, or trees that differ.
  """
  checks.check_task_vectors(task_vectors)
  return leaves.merged(lambda _, stack: largest(stack), task_vectors)


def largest(stack: Array) -> Array:
  """Returns the largest in magnitude of `stack [T, ...]`, tensor or slice."""
  xp = leaves.namespace(stack)
  chosen = xp.argmax(xp.abs(stack), axis=0)
  return xp.take_along_axis(stack, chosen[None], axis=0)[0]
