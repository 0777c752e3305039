"""Second-order gap between task arithmetic and multitask training.

Merging T models, each finetuned for k epochs, is not quite training on the T
tasks together. With learning rate `eta` and coefficients `alpha_t`,

  theta_TA^(k) = theta_MT^(k) + eta^2 C_k + O(eta^3),
  C_k     = - sum_t alpha_t sum_{e=1}^{k-1} H_t^(e) R_t^(e),             (3.3)
  R_t^(e) = sum_{m<e} ( sum_s alpha_s g_s^(m) - g_t^(m) ),               (3.2)

with `g_t^(e)`, `H_t^(e)` the gradient and Hessian of task t's mean loss at the
multitask parameters `theta_MT^(e)`. Mini-batches (3.5) are the same loop with
the loss of step e's batch in place of the task's: a step is an epoch of the
full batch or one mini-batch.

One forward-over-reverse pass a task and step gives `g_t` and `H_t R_t`
together, at the cost of two to three gradients: no Hessian is formed and no
trajectory is stored. The loop keeps T + 4 copies of the parameters, and peaks
below T + 8 (`python -m benchmarks.memory`).

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082; the
form along the multitask path is derived in docs/theory.md.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params


class CorrectionState(NamedTuple):
  """The loop after `step` steps; all that going on needs."""

  step: int  # e
  params: Params  # theta_MT^(e)
  correction: Params  # C_e
  drift: dict[str, Params]  # R_t^(e), task name -> tree


@dataclasses.dataclass
class Loop:
  """What a step replaces in place, or old trees would outlive their use."""

  params: Params  # theta_MT^(e)
  total: Params  # C_e, or Delta_e in `response`
  drift: dict[str, Params]  # R_t^(e), or D_t^(e)

  def trees(self) -> tuple[Params, Params, dict[str, Params]]:
    """Returns what a state holds beside its step."""
    return self.params, self.total, self.drift


def corrections(
    base_params: Params,
    fns_by_step: Iterable[Mapping[str, GradAndHvpFn]],
    scaling: Mapping[str, float],
    *,
    learning_rate: float,
    state: CorrectionState | None = None,
) -> Iterator[CorrectionState]:
  """Yields the state after each step: `theta_MT^(e)`, `C_e`, `R_t^(e)`.

  Args:
    base_params: `theta_0`.
    fns_by_step: for each step, task name -> `(params, v) -> (g_t, H_t v)`.
    scaling: task name -> coefficient `alpha_t`.
    learning_rate: `eta`.
    state: where to go on; its `step` first entries of `fns_by_step` are passed
      over. None starts at `theta_0`.
  """
  if state is None:
    state = CorrectionState(0, *start(base_params, scaling).trees())
  return states(_advance, state, fns_by_step, scaling, learning_rate)


def states(
    advance: Callable[..., None],
    state: Any,
    fns_by_step: Iterable[Mapping[str, GradAndHvpFn]],
    scaling: Mapping[str, float],
    learning_rate: float,
) -> Iterator[Any]:
  """Yields the state after each step, by which `advance` takes a `Loop` on.

  Args:
    advance: `(loop, fns, scaling, learning_rate)`.
    state: where to start, a NamedTuple of a step and what a `Loop` holds.
    fns_by_step: as `corrections` takes it.
    scaling: task name -> coefficient.
    learning_rate: `eta`.
  """
  for step, fns in enumerate(fns_by_step):
    if step >= state.step:
      kind, loop = type(state), Loop(*state[1:])
      del state  # its trees go one by one, unless the caller keeps it
      # A copy: the caller may keep the state that was yielded before.
      loop.drift = dict(loop.drift)
      advance(loop, fns, scaling, learning_rate)
      state = kind(step + 1, *loop.trees())
      del loop
      yield state


def second_order_correction(
    base_params: Params,
    grad_and_hvp_fns: Mapping[str, GradAndHvpFn],
    scaling: Mapping[str, float],
    *,
    learning_rate: float,
    num_epochs: int,
) -> Params:
  """Returns `C_k` (3.3), which `eta**2` turns into theta_TA - theta_MT.

  Args:
    base_params: `theta_0`.
    grad_and_hvp_fns: task name -> `(params, v) -> (g_t, H_t v)`, full batch.
    scaling: task name -> coefficient `alpha_t`, for exactly the same tasks.
    learning_rate: `eta`, positive; it sets the path, `C_k` is not scaled by it.
    num_epochs: k, at least 1; `C_1 = 0`.

  Raises:
    ValueError: the tasks differ, or eta or k make no sense.
  """
  check_arguments(grad_and_hvp_fns, scaling, learning_rate, num_epochs)
  loop = start(base_params, scaling)
  for _ in range(num_epochs):
    _advance(loop, grad_and_hvp_fns, scaling, learning_rate)
  return loop.total


def base_correction(
    base_params: Params,
    grad_and_hvp_fns: Mapping[str, GradAndHvpFn],
    scaling: Mapping[str, float],
    *,
    num_epochs: int,
) -> Params:
  """Returns `C_k` to leading order, from derivatives at the base alone (3.4).

    C_k = -(k (k-1) / 2) sum_t alpha_t H_t(theta_0) r_t^(0) + O(eta),

  for the full batch. Costs two passes over the data whatever k is. Arguments
  and errors are those of `second_order_correction`.
  """
  check_arguments(grad_and_hvp_fns, scaling, 1.0, num_epochs)
  # The drift after one step is r_t^(0), whatever the step size: it is measured
  # in gradients. A second pass at the same point multiplies it by H_t.
  loop = start(base_params, scaling)
  for _ in range(2):
    _advance(loop, grad_and_hvp_fns, scaling, 0.0)
  return tree.scale(num_epochs * (num_epochs - 1) / 2, loop.total)


def corrected_merge(
    merged_params: Params, correction: Params, *, learning_rate: float
) -> Params:
  """Returns `theta_TA - eta^2 C_k`, multitask training to O(eta^3) (3.6)."""
  return tree.add_scale(merged_params, -(learning_rate**2), correction)


def check_arguments(
    fns: Mapping[str, GradAndHvpFn],
    scaling: Mapping[str, float],
    learning_rate: float,
    num_epochs: int,
) -> None:
  """Raises the ValueErrors of `second_order_correction`, before any work."""
  if not scaling or set(fns) != set(scaling):
    raise ValueError(
        f'grad_and_hvp_fns has tasks {sorted(fns)} but scaling has'
        f' {sorted(scaling)}; give one coefficient for each task.'
    )
  if not learning_rate > 0:
    raise ValueError(f'learning_rate must be positive but is {learning_rate}.')
  if num_epochs < 1:
    raise ValueError(f'num_epochs must be at least 1 but is {num_epochs}.')


def start(base_params: Params, scaling: Mapping[str, float]) -> Loop:
  """Returns the loop before its first step."""
  zeros = tree.zeros_like(base_params)
  return Loop(base_params, zeros, dict.fromkeys(scaling, zeros))


def _advance(
    loop: Loop,
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
    loop.total = tree.add_scale(loop.total, -alpha, hvp)
    drift[task] = tree.add_scale(drift[task], -1.0, gradient)
    del gradient, hvp  # or they would be a part of the next task's peak
  for task in scaling:
    drift[task] = tree.add_scale(drift[task], 1.0, multitask_gradient)
  loop.params = tree.add_scale(loop.params, -learning_rate, multitask_gradient)
