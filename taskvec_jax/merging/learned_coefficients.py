"""Coefficients that are learned: one a task and parameter tensor (aTLAS).

  theta(Lambda) = theta_0 + sum_t Lambda_t tau_t,
  dL / dlambda_tl = < tau_tl , dL / dtheta_l >,

with `Lambda_t` block-diagonal: a coefficient `lambda_tl` for each parameter
tensor l, or, with a random partition of every tensor into K parts, K of them.
They start at 0, that is at the base model, nothing holds them to an interval,
and Adam minimises any loss that is handed in: cross-entropy on a few labelled
examples for addition, its negative plus a control task's for negation. All
steps are one compiled `scan`; a step costs one gradient of the loss and a pass
over the T task vectors.

The paper's code takes AdamW on a cosine with gradients clipped at norm 1; here
it is Adam at a constant rate. Its random masks are shared by all tensors of one
shape, as here, but with masks it merges matrices only and leaves every other
tensor at the base; here a partition applies to all tensors.

Source: Zhang et al., "Knowledge composition using task vectors with learned
anisotropic scaling", arXiv:2407.02880.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from taskvec_jax.merging import checks
from taskvec_jax.merging import pointwise
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class Learned(NamedTuple):
  """What learning the coefficients gave."""

  task_vector: Params  # sum_t Lambda_t tau_t
  coefficients: dict[str, Params]  # task -> scalar, or tree of [] or [K]
  losses: np.ndarray  # [num_steps], each before its step


def learned_coefficients(
    base_params: Params,
    task_vectors: Mapping[str, Params],
    loss_fn: Callable[[Params, Array], Array],
    *,
    partition: Params | None = None,
    learning_rate: float = 1e-2,
    num_steps: int = 300,
) -> Learned:
  """Returns the coefficients, from 0, that minimise a loss of theta(Lambda).

  Args:
    base_params: `theta_0`.
    task_vectors: task name -> `tau_t`.
    loss_fn: `(params, step) -> scalar`, traceable; the step, an int, lets it
      choose a batch. A `jax.tree_util.Partial` passes its arrays as data, so
      that equal shapes compile once.
    partition: of `partition`, for K coefficients a tensor and task; None for
      one.
    learning_rate: Adam's.
    num_steps: steps of Adam; 0 returns the base model.

  Raises:
    ValueError: the trees differ or the numbers make no sense.
    FloatingPointError: the loss became NaN or infinite, with its step.
  """
  checks.check_task_vectors(task_vectors)
  if partition is None:
    zeros = jax.tree.map(lambda _: jnp.zeros(()), base_params)
  else:
    zeros = jax.tree.map(
        lambda part: jnp.zeros(int(jnp.max(part, initial=0)) + 1), partition
    )
  return learn(
      base_params,
      task_vectors,
      loss_fn,
      dict.fromkeys(task_vectors, zeros),
      partition=partition,
      learning_rate=learning_rate,
      num_steps=num_steps,
  )


def partition(params: Params, *, num_parts: int, seed: int) -> Params:
  """Returns, for every entry of every tensor, the part it belongs to.

  Drawn uniformly, and the same for all tensors of one shape. Costs an int32
  copy of the parameters.

  Args:
    params: a tree of the shapes wanted.
    num_parts: K, at least 1.
    seed: of the draw.

  Raises:
    ValueError: num_parts is below 1.
  """
  if num_parts < 1:
    raise ValueError(f'num_parts must be at least 1 but is {num_parts}.')

  def parts(leaf):
    shape = np.shape(leaf)
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.integers(num_parts, size=shape), jnp.int32)

  return jax.tree.map(parts, params)


def weighted(
    task_vectors: Mapping[str, Params],
    coefficients: Mapping[str, Params],
    partition: Params | None = None,
) -> Params:
  """Returns `sum_t Lambda_t tau_t`; traceable.

  Args:
    task_vectors: task name -> `tau_t`.
    coefficients: task name -> one number, a tree of numbers, one a tensor, or
      with a partition a tree of vectors `[K]`.
    partition: for every entry the index of its coefficient.
  """
  (_, first), *_ = task_vectors.items()
  weights = [
      jax.tree.broadcast(coefficients[task], first) for task in task_vectors
  ]
  if partition is not None:
    weights = [
        jax.tree.map(lambda c, part: c[part], tree, partition)
        for tree in weights
    ]
  num_tasks = len(task_vectors)

  def one(*operands):
    vectors, factors = operands[:num_tasks], operands[num_tasks:]
    total = factors[0] * vectors[0]
    for factor, vector in zip(factors[1:], vectors[1:], strict=True):
      total = total + factor * vector
    return total

  return pointwise.combine(one, *task_vectors.values(), *weights)


def clamp(coefficient: Array) -> Array:
  """Returns it held to [0, 1]; outside, its gradient is zero.

  On the bounds themselves the gradient is one, as PyTorch's clamp has it.
  """
  inside = (coefficient >= 0) & (coefficient <= 1)
  bounded = jax.lax.stop_gradient(jnp.clip(coefficient, 0, 1))
  return jnp.where(inside, coefficient, bounded)


def learn(
    base_params: Params,
    task_vectors: Mapping[str, Params],
    loss_fn: Callable[[Params, Array], Array],
    coefficients: Mapping[str, Params],
    *,
    partition: Params | None = None,
    clamped: bool = False,
    learning_rate: float,
    num_steps: int,
) -> Learned:
  """Returns where Adam arrives from any coefficients.

  Args:
    base_params: `theta_0`.
    task_vectors: task name -> `tau_t`.
    loss_fn: as in `learned_coefficients`.
    coefficients: task name -> where to start, of a form that `weighted` takes.
    partition: as in `weighted`.
    clamped: whether the model sees the coefficients through `clamp`; what is
      returned is then what the model sees.
    learning_rate: Adam's, positive.
    num_steps: at least 0.

  Raises:
    ValueError: the trees differ or the numbers make no sense.
    FloatingPointError: the loss became NaN or infinite, with its step.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_tasks('coefficients', coefficients, task_vectors)
  if not learning_rate > 0 or num_steps < 0:
    raise ValueError(
        'learning_rate must be positive and num_steps at least 0, but they are'
        f' {learning_rate} and {num_steps}.'
    )
  # A Partial around a Partial would hide the inner one's arrays from jit.
  if not isinstance(loss_fn, jax.tree_util.Partial):
    loss_fn = jax.tree_util.Partial(loss_fn)
  task_vector, learned, losses = _learn(
      loss_fn,
      base_params,
      dict(task_vectors),
      dict(coefficients),
      partition,
      learning_rate,
      clamped=clamped,
      num_steps=num_steps,
  )
  losses = np.asarray(losses)
  if not np.isfinite(losses).all():
    step = int(np.flatnonzero(~np.isfinite(losses))[0])
    raise FloatingPointError(
        f'the loss became {losses[step]} in step {step + 1}; use a smaller'
        ' learning_rate'
    )
  return Learned(task_vector, learned, losses)


@functools.partial(jax.jit, static_argnames=('clamped', 'num_steps'))
def _learn(
    loss_fn,
    base_params,
    task_vectors,
    coefficients,
    partition,
    learning_rate,
    *,
    clamped,
    num_steps,
):
  rule = optax.adam(learning_rate)

  def merged(coefficients):
    if clamped:
      coefficients = jax.tree.map(clamp, coefficients)
    return weighted(task_vectors, coefficients, partition), coefficients

  def objective(coefficients, index):
    task_vector, _ = merged(coefficients)
    return loss_fn(arithmetic.edit(base_params, task_vector), index)

  def step(carry, index):
    coefficients, state = carry
    loss, gradient = jax.value_and_grad(objective)(coefficients, index)
    updates, state = rule.update(gradient, state)
    return (optax.apply_updates(coefficients, updates), state), loss

  (coefficients, _), losses = jax.lax.scan(
      step, (coefficients, rule.init(coefficients)), jnp.arange(num_steps)
  )
  return *merged(coefficients), losses
