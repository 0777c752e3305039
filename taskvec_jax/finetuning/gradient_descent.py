"""Full-batch gradient descent, one step an epoch.

  theta^(e+1) = theta^(e) - eta grad L(theta^(e)),   e = 0..k-1,

for any objective: one task's mean loss, or the multitask objective of
`multitask`. After one epoch the task vector IS `-eta grad L(theta_0)` (2.1).
An epoch costs one gradient; the state is the parameters alone, so a
trajectory goes on from any of its points.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082.
"""

from collections.abc import Iterator
import math
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class EpochInfo(NamedTuple):
  """What was measured on the way to `theta^(epoch)`."""

  epoch: int  # 1..k
  loss: float  # L(theta^(epoch - 1)), before the step
  gradient_norm: float  # |grad L(theta^(epoch - 1))|


def trajectory(
    base_params: Params,
    value_and_grad_fn: ValueAndGradFn,
    *,
    learning_rate: float,
    num_epochs: int,
    num_done: int = 0,
) -> Iterator[tuple[Params, EpochInfo]]:
  """Yields `(theta^(e), info)` after each epoch e = 1..k.

  Args:
    base_params: `theta_0`; when going on, `theta^(num_done)`.
    value_and_grad_fn: `params -> (L, grad L)`.
    learning_rate: `eta`, positive.
    num_epochs: k, at least 1.
    num_done: epochs that lie behind `base_params`, not repeated.

  Raises:
    ValueError: eta or k make no sense; raised by the call, before any work.
    FloatingPointError: the loss became NaN or infinite, with its epoch.
  """
  if not (learning_rate > 0 and math.isfinite(learning_rate)):
    raise ValueError(
        f'learning_rate must be positive and finite but is {learning_rate}.'
    )
  if num_epochs < 1:
    raise ValueError(f'num_epochs must be at least 1 but is {num_epochs}.')

  def epochs():
    params = base_params
    for epoch in range(num_done + 1, num_epochs + 1):
      loss, gradient = value_and_grad_fn(params)
      check_finite(float(loss), epoch)
      params = tree.add_scale(params, -learning_rate, gradient)
      yield params, EpochInfo(epoch, float(loss), float(tree.norm(gradient)))

  return epochs()


def check_finite(loss: float, epoch: int) -> None:
  """Raises a FloatingPointError if the loss is NaN or infinite."""
  if not math.isfinite(loss):
    raise FloatingPointError(
        f'the loss became {loss} in epoch {epoch}; use a smaller'
        ' learning_rate'
    )
