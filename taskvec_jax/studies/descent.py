"""Where full-batch gradient descent ends, or a sentence if it diverged.

A bounded activation hides divergence: loss and gradient stay finite numbers in
float32, and what comes out is a model at chance. So what has grown is refused,
not only what is infinite.
"""

import math

from taskvec_jax import tree
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn

# Times the first loss, or 1 if that is less: losses here are of that order, and
# a step that is merely too long for a while raises them by far less.
_GROWN = 100.0


def end(
    params: Params,
    value_and_grad_fn: ValueAndGradFn,
    *,
    learning_rate: float,
    num_epochs: int,
    what: str,
) -> Params:
  """Returns the end of `gradient_descent.trajectory`.

  Args:
    params: the start.
    value_and_grad_fn: `params -> (L, grad L)`.
    learning_rate: eta.
    num_epochs: k.
    what: is trained, the beginning of the sentence.

  Raises:
    FloatingPointError: loss or parameters became NaN or infinite, or the loss
      grew to a hundred times the first one; with `what` and the epoch.
  """
  epochs = gradient_descent.trajectory(
      params,
      value_and_grad_fn,
      learning_rate=learning_rate,
      num_epochs=num_epochs,
  )
  first = math.inf
  try:
    for params, info in epochs:
      if info.epoch == 1:
        first = info.loss
      size = float(tree.norm(params))
      if not math.isfinite(size):
        raise FloatingPointError(
            f'the length of the parameters became {size} in epoch'
            f' {info.epoch}; use a smaller learning_rate'
        )
      if info.loss > _GROWN * max(first, 1.0):
        raise FloatingPointError(
            f'the loss grew from {first:.3g} to {info.loss:.3g} in epoch'
            f' {info.epoch}; use a smaller learning_rate'
        )
  except FloatingPointError as error:
    raise FloatingPointError(f'{what}: {error}') from error
  return params
