"""Linear response: the gap at practical step sizes.

The expansion (3.3) drops the finetuned model's own curvature and blows up once
`eta k lambda_max` passes about 1. Keeping it costs the same passes:

  D_t^(0)   = 0,
  D_t^(e+1) = D_t^(e) + eta r_t^(e) - eta H_t^(e) D_t^(e),               (3.7)
  Delta_k   = - eta sum_t alpha_t sum_{e=1}^{k-1} H_t^(e) D_t^(e),

with `r_t^(e) = sum_s alpha_s g_s^(e) - g_t^(e)` and everything at the multitask
parameters `theta_MT^(e)`. `D_t` predicts `theta_t^(e) - theta_MT^(e)`, Delta_k
predicts `theta_TA - theta_MT`. It is exact for quadratic losses at every eta
and k; what it leaves is quadratic in the drift. It needs
`eta lambda_max < 2`. Mini-batches are the same loop, as in `correction`.

One jvp-of-grad pass a task and step, two to three gradients; below T + 8 copies
of the parameters.

Source: derived for this project, docs/theory.md (3.7).
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.second_order import correction
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class ResponseState(NamedTuple):
  """The loop after `step` steps; all that going on needs."""

  step: int  # e
  params: Params  # theta_MT^(e)
  response: Params  # Delta_e
  drift: dict[str, Params]  # D_t^(e), task name -> tree


def responses(
    base_params: Params,
    fns_by_step: Iterable[Mapping[str, GradAndHvpFn]],
    scaling: Mapping[str, float],
    *,
    learning_rate: float,
    state: ResponseState | None = None,
) -> Iterator[ResponseState]:
  """Yields the state after each step: `theta_MT^(e)`, `Delta_e`, `D_t^(e)`.

  Arguments are those of `correction.corrections`.
  """
  if state is None:
    state = ResponseState(0, *correction.start(base_params, scaling).trees())
  return correction.states(_advance, state, fns_by_step, scaling, learning_rate)


def linear_response(
    base_params: Params,
    grad_and_hvp_fns: Mapping[str, GradAndHvpFn],
    scaling: Mapping[str, float],
    *,
    learning_rate: float,
    num_epochs: int,
) -> Params:
  """Returns `Delta_k` (3.7), the predicted gap theta_TA - theta_MT.

  Arguments and errors are those of `correction.second_order_correction`; the
  step size must satisfy `eta lambda_max < 2`, which the caller measures
  (`lanczos.extreme_eigenvalues`).
  """
  correction.check_arguments(
      grad_and_hvp_fns, scaling, learning_rate, num_epochs
  )
  loop = correction.start(base_params, scaling)
  for _ in range(num_epochs):
    _advance(loop, grad_and_hvp_fns, scaling, learning_rate)
  return loop.total


def indicator(
    value_and_grad_fn: ValueAndGradFn,
    grad_and_hvp_fn: GradAndHvpFn,
    params: Params,
    drift: Params,
) -> float:
  """Returns how far task t's gradient is from linear over its drift.

    |grad L_t(theta_MT + D_t) - g_t - H_t D_t| / |H_t D_t|,

  computed without the true finetuned model: an a posteriori sign of where
  linear response ends. Small values mean that it can be used. A drift of zero
  has no such ratio: the answer is then NaN.
  """
  gradient, hvp = grad_and_hvp_fn(params, drift)
  _, moved = value_and_grad_fn(tree.add(params, drift))
  remainder = tree.sub(tree.sub(moved, gradient), hvp)
  size = float(tree.norm(hvp))
  return float(tree.norm(remainder)) / size if size else float('nan')


def _advance(
    loop: correction.Loop,
    fns: Mapping[str, GradAndHvpFn],
    scaling: Mapping[str, float],
    learning_rate: float,
) -> None:
  """Takes the loop a step further."""
  drift = loop.drift
  multitask_gradient = tree.zeros_like(loop.params)  # sum_t alpha_t g_t^(e)
  for task, alpha in scaling.items():
    gradient, hvp = fns[task](loop.params, drift[task])
    multitask_gradient = tree.add_scale(multitask_gradient, alpha, gradient)
    drift[task] = tree.add_scale(drift[task], -learning_rate, gradient)
    del gradient  # or it would be a part of the peak
    loop.total = tree.add_scale(loop.total, -learning_rate * alpha, hvp)
    drift[task] = tree.add_scale(drift[task], -learning_rate, hvp)
    del hvp
  for task in scaling:
    drift[task] = tree.add_scale(drift[task], learning_rate, multitask_gradient)
  loop.params = tree.add_scale(loop.params, -learning_rate, multitask_gradient)
