"""Uncertainty-based gradient matching: task vectors weighted by curvature.

  tau = sum_t alpha_t Hbar^-1 H_{0+t} tau_t,
  H_{0+t} = H_0 + H_t,   Hbar = H_0 + sum_t alpha_t H_t,

with diagonal Fisher matrices for the Hessians: `H_0` of the base model on its
own data, or of a prior (a number on the diagonal), `H_t` of task t at theta_t.
The nearest theory to this project's: the paper writes the error of task
arithmetic as a mismatch of gradients between each model and the merged one,

  theta_target - theta_TA = - sum_t alpha_t H_0^-1 [ grad L_t(theta_target)
                                                      - grad L_t(theta_t) ],

for losses with the quadratic regulariser `H_0` around the base, and takes it
to first order. One task with alpha 1 gives tau_1; a prior far above all `H_t`
gives task arithmetic; a prior of 0 gives Fisher merging, whose weights then sum
to one whatever the sum of the alphas is.

Cost: one pass over T task vectors and T + 1 diagonals.

Source: Daheim et al., "Model merging by uncertainty-based gradient matching",
arXiv:2310.12808.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from taskvec_jax.merging import checks
from taskvec_jax.merging import pointwise
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def uncertainty_gradient(
    task_vectors: Mapping[str, Params],
    fishers: Mapping[str, Params],
    base_fisher: Params,
    scaling: Mapping[str, float],
) -> Params:
  """Returns `sum_t alpha_t Hbar^-1 (H_0 + H_t) tau_t`.

  Args:
    task_vectors: task name -> `tau_t`.
    fishers: task name -> diagonal `H_t`, not negative.
    base_fisher: diagonal `H_0`, not negative.
    scaling: task name -> `alpha_t`, not negative: with one below 0 Hbar can
      vanish.

  Returns:
    A tree like one task vector; `sum_t alpha_t tau_t` where `Hbar` is 0.

  Raises:
    ValueError: tasks or trees differ, or a coefficient is negative.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_tasks('fishers', fishers, task_vectors)
  checks.check_tasks('scaling', scaling, task_vectors)
  if min(scaling.values()) < 0:
    raise ValueError(f'scaling must not be negative but is {dict(scaling)}.')
  tasks = tuple(task_vectors)
  for diagonal in (base_fisher, *fishers.values()):
    arithmetic.check_same_tree(
        diagonal, task_vectors[tasks[0]], 'a Fisher', tasks[0]
    )

  def one(*operands):
    vectors, diagonals = operands[: len(tasks)], operands[len(tasks) : -1]
    base = operands[-1]
    above, below, plain = jnp.zeros_like(base), base, jnp.zeros_like(base)
    for task, vector, diagonal in zip(tasks, vectors, diagonals, strict=True):
      alpha = scaling[task]
      above += alpha * (base + diagonal) * vector
      below += alpha * diagonal
      plain += alpha * vector
    is_zero = below == 0
    return jnp.where(is_zero, plain, above / jnp.where(is_zero, 1, below))

  return pointwise.combine(
      one,
      *task_vectors.values(),
      *(fishers[task] for task in tasks),
      base_fisher,
  )
