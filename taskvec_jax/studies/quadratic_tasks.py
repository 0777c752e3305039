"""Tasks whose loss IS a quadratic: ridge regression on one-hot labels.

  L_i(W) = |X_i W - Y_i|^2 / (2 N_i) + (rho / 2) |W|^2,
  H_i    = I (x) (X_i' X_i / N_i + rho I),
  W*_i   = (X_i' X_i / N_i + rho I)^{-1} X_i' Y_i / N_i,

with `X_i [N, D]`, `Y_i [N, C]`, and the same pixels shuffled anew for every
task. What the paper expands to second order is exact here, so its coefficient
must be the minimiser that a line search on the measured losses finds. Without
the ridge rho, pixels that are hardly ever lit carry enormous weights, and what
one task has learned is meaningless to another.

Closed forms are NumPy float64 on the host; the loss is traceable.

Cost: one linear system of size D a task.

Source: the setting is this project's; Qiu et al., arXiv:2505.22389, for what
is asked of it.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import optimize

from taskvec_jax.tasks import batching
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class Regression(NamedTuple):
  """One task; a constant column stands for the bias."""

  inputs: np.ndarray  # float64 [N, D]
  labels: np.ndarray  # int32 [N], in 0..C-1


def regression(
    images: np.ndarray, labels: np.ndarray, order: np.ndarray
) -> Regression:
  """Returns the task of images whose pixels stand in another order.

  Args:
    images: uint8 `[N, H, W, 1]`; pixels are scaled to 0..1.
    labels: int32 `[N]`.
    order: int `[H W]`, a permutation.
  """
  pixels = images.reshape(len(images), -1)[:, order] / 255
  return Regression(np.c_[pixels, np.ones(len(pixels))], labels)


def loss_sum(
    ridge: float | Array, params: Params, batch: batching.Batch
) -> Array:
  """Returns the loss summed over the unmasked examples of a batch.

  Args:
    ridge: rho. Bind it with `jax.tree_util.Partial`.
    params: `{'kernel': W [D, C]}`.
    batch: inputs `[B, D]`, labels and mask `[B]`.
  """
  kernel = params['kernel']
  left = batch.inputs @ kernel
  left -= jnp.eye(left.shape[1], dtype=left.dtype)[batch.labels]
  squares = jnp.sum(left**2, axis=1) + ridge * jnp.sum(kernel**2)
  return 0.5 * jnp.sum(jnp.where(batch.mask, squares, 0))


def minimum(task: Regression, *, num_classes: int, ridge: float) -> np.ndarray:
  """Returns `W*_i [D, C]`."""
  return joint_minimum([task], num_classes=num_classes, ridge=ridge)


def joint_minimum(
    tasks: Sequence[Regression], *, num_classes: int, ridge: float
) -> np.ndarray:
  """Returns the minimum `[D, C]` of the mean of the tasks' losses."""
  hessian = sum(curvature(task, ridge=ridge) for task in tasks)
  pull = sum(
      task.inputs.T @ np.eye(num_classes)[task.labels] / len(task.labels)
      for task in tasks
  )
  return np.linalg.solve(hessian, pull)


def curvature(task: Regression, *, ridge: float) -> np.ndarray:
  """Returns `X' X / N + rho I`, `[D, D]`: one class's block of H."""
  size = task.inputs.shape[1]
  return task.inputs.T @ task.inputs / len(task.labels) + ridge * np.eye(size)


def measured_minimiser(loss_fn: Callable[[float], float]) -> float:
  """Returns where a measured loss along a line is lowest.

  By Brent's method, which knows values alone. Around a minimum these are flat
  to sqrt(eps), about 1e-8 of the line's length in float64.
  """
  found = optimize.minimize_scalar(loss_fn, bracket=(0.0, 1.0), tol=1e-12)
  return float(found.x)
