"""The multitask objective, as a weighted sum of the tasks' own.

  L_MT(theta) = sum_t alpha_t L_t(theta),   grad L_MT = sum_t alpha_t g_t,

so that `gradient_descent.trajectory` on it is multitask training: the path
`theta_MT^(e)` that merged models are compared with. One gradient costs as much
as the gradients of the tasks together.
"""

from collections.abc import Mapping

from taskvec_jax import tree
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


def multitask_value_and_grad(
    value_and_grad_fns: Mapping[str, ValueAndGradFn],
    scaling: Mapping[str, float],
) -> ValueAndGradFn:
  """Returns `params -> (sum_t alpha_t L_t, sum_t alpha_t grad L_t)`.

  Args:
    value_and_grad_fns: task name -> `params -> (L_t, grad L_t)`.
    scaling: task name -> coefficient `alpha_t`, for exactly the same tasks.

  Raises:
    ValueError: there is no task, or the tasks of the two differ.
  """
  if not scaling or set(value_and_grad_fns) != set(scaling):
    raise ValueError(
        f'value_and_grad_fns has tasks {sorted(value_and_grad_fns)} but'
        f' scaling has {sorted(scaling)}; give one coefficient for each task.'
    )

  def value_and_grad_fn(params: Params) -> tuple[Array, Params]:
    first, *others = scaling
    total = tree.scale(scaling[first], value_and_grad_fns[first](params))
    for task in others:
      total = tree.add_scale(
          total, scaling[task], value_and_grad_fns[task](params)
      )
    return total

  return value_and_grad_fn
