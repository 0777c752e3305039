"""PCGrad on task vectors: no task goes against another.

Each task vector gives up what points against another one,

  v_i <- v_i - (v_i . tau_j / |tau_j|^2) tau_j   if v_i . tau_j < 0,

starting at `v_i = tau_i`, for all j /= i one after the other; `tau_m` is the
sum of the `v_i`. Inner products are over the whole flat vector. The paper does
this to the gradients of one step; a first task vector is such a gradient, times
-eta. It takes the j in random order, new for each i: so does this, from the
seed and the tasks' names, so that the order of the mapping does not matter.
`seed=None` takes them in the mapping's order.

All the `v_i` lie in the span of the task vectors: the loop runs on T numbers
each, from the T^2 inner products, and the result is task arithmetic with the
coefficients that come out. A task vector of zeros has nothing to conflict with.

Cost: two passes over the task vectors, for the inner products and the sum.

Source: Yu et al., "Gradient Surgery for Multi-Task Learning", arXiv:2001.06782.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import draws
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Params


def pcgrad(
    task_vectors: Mapping[str, Params], *, seed: int | None = 0
) -> Params:
  """Returns `sum_i v_i`, to be scaled as task arithmetic is.

  Args:
    task_vectors: task name -> `tau_t`.
    seed: of the random orders; None for the mapping's order.

  Raises:
    ValueError: no task, trees that differ, or a seed that is no integer.
  """
  checks.check_task_vectors(task_vectors)
  if seed is not None:
    checks.check_seed(seed)
  weights = coefficients(
      leaves.gram(task_vectors), tuple(task_vectors), seed=seed
  )
  return leaves.merged(
      lambda _, stack: leaves.added(
          [
              weight * vector
              for weight, vector in zip(weights, stack, strict=True)
          ]
      ),
      task_vectors,
  )


def coefficients(
    gram: np.ndarray, tasks: Sequence[str], *, seed: int | None = 0
) -> list[float]:
  """Returns `alpha_t`, in `tasks`' order: `tau_m = sum_t alpha_t tau_t`.

  Args:
    gram: inner products `tau_s . tau_t`, `[T, T]`; for tensors in slices, the
      sum of `leaves.stack_gram`.
    tasks: their names.
    seed: of the random orders; None for the order of `tasks`.
  """
  total = np.zeros(len(tasks))
  for index, task in enumerate(tasks):
    weights = np.zeros(len(tasks))  # v_i = sum_t weights_t tau_t
    weights[index] = 1.0
    for other in _order(tasks, task, seed):
      product = weights @ gram[:, other]  # v_i . tau_j
      if product < 0 and gram[other, other] > 0:
        weights[other] -= product / gram[other, other]
    total += weights
  return total.tolist()


def _order(tasks: Sequence[str], task: str, seed: int | None) -> list[int]:
  """Returns the indices of all tasks but `task`, in the order of their turn."""
  others = [index for index, name in enumerate(tasks) if name != task]
  if seed is None:
    return others

  def lot(index: int) -> tuple[int, ...]:
    draw = draws.bits(seed, 'pcgrad', task, tasks[index], start=0, stop=2)
    return tuple(draw.tolist())

  return sorted(others, key=lot)
