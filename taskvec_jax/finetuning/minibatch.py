"""Mini-batch finetuning, as people do it: SGD, momentum, Adam, AdamW.

One epoch is one pass over a seeded permutation of the examples, compiled as a
single `scan`, or as several where the examples do not fit on the device at
once. The batch order comes back with every epoch, so that the
mini-batch form of the second-order term, (3.5), can be evaluated on exactly
the batches that were seen. What (2.1) says of one full-batch step does not
hold for these update rules: this is the empirical regime, kept apart from the
exact one.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import functools
from typing import Any
from typing import NamedTuple

import jax
import numpy as np
import optax

from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class MinibatchState(NamedTuple):
  """All that going on needs."""

  epoch: int  # epochs done
  params: Params
  opt_state: optax.OptState


class MinibatchInfo(NamedTuple):
  """What was measured in one epoch."""

  epoch: int  # 1..k
  losses: np.ndarray  # [num_steps] mean loss of each batch before its step
  order: np.ndarray  # int [num_steps, B], the examples of each batch


def optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    cosine: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """Returns one of the update rules people finetune with, from Optax.

  Args:
    name: 'sgd', 'momentum' (0.9), 'adam' or 'adamw'.
    learning_rate: the peak step size.
    num_steps: length of the whole run, which a cosine decays over.
    warmup_steps: steps of linear warm-up from zero.
    cosine: whether to decay to zero by a half cosine after the warm-up.
    weight_decay: decoupled weight decay, of 'adamw' alone.
    clip_norm: largest global norm of a gradient; None leaves it alone.

  Raises:
    ValueError: an unknown name, or a weight decay that the rule would ignore.
  """
  rules = {
      'sgd': optax.sgd,
      'momentum': functools.partial(optax.sgd, momentum=0.9),
      'adam': optax.adam,
      'adamw': functools.partial(optax.adamw, weight_decay=weight_decay),
  }
  if name not in rules:
    raise ValueError(f'Unknown optimizer {name!r}; known: {", ".join(rules)}.')
  if weight_decay and name != 'adamw':
    raise ValueError(
        f'weight_decay={weight_decay} needs the optimizer adamw, not {name!r}.'
    )
  schedule = optax.constant_schedule(learning_rate)
  if cosine:
    schedule = optax.cosine_decay_schedule(
        learning_rate, max(num_steps - warmup_steps, 1)
    )
  if warmup_steps:
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
  rule = rules[name](schedule)
  if clip_norm is None:
    return rule
  return optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def epochs(
    base_params: Params,
    batch_value_and_grad_fn: Callable[[Params, Any], tuple[Array, Params]],
    optimizer: optax.GradientTransformation,
    *,
    num_examples: int,
    batch_size: int,
    num_epochs: int,
    seed: int,
    batches_fn: Callable[[np.ndarray], Iterable[Any]] = lambda order: [order],
    state: MinibatchState | None = None,
    matmul_precision: str = 'highest',
) -> Iterator[tuple[MinibatchState, MinibatchInfo]]:
  """Yields `(state, info)` after each epoch.

  Args:
    base_params: `theta_0`.
    batch_value_and_grad_fn: `(params, batch) -> (mean loss, gradient)`,
      traceable. A `jax.tree_util.Partial` passes its arrays as data, so that
      equal shapes compile once.
    optimizer: an Optax update rule.
    num_examples: N; an epoch is a permutation of `0..N-1`.
    batch_size: B, at most N. An incomplete last batch is dropped: other
      examples every epoch, since every epoch has its own permutation.
    num_epochs: k.
    seed: of the permutations; epoch e's depends on the seed and e alone.
    batches_fn: from an epoch's order, int32 `[num_steps, B]`, to its batches
      in order: trees with leaves `[some steps, ...]`, one tree or several that
      visit the device in turn. By default a batch is its indices `[B]`.
    state: where to go on; None starts at `theta_0`.
    matmul_precision: of float32 products where the hardware has fewer bits to
      offer, as `jax.default_matmul_precision` takes it.

  Raises:
    ValueError: the numbers make no sense; raised by the call.
    FloatingPointError: a loss became NaN or infinite, with its epoch.
  """
  if not 1 <= batch_size <= num_examples:
    raise ValueError(
        f'batch_size must be between 1 and the {num_examples} examples but is'
        f' {batch_size}.'
    )
  if num_epochs < 1:
    raise ValueError(f'num_epochs must be at least 1 but is {num_epochs}.')
  # A Partial around a Partial would hide the inner one's arrays from jit.
  if not isinstance(batch_value_and_grad_fn, jax.tree_util.Partial):
    batch_value_and_grad_fn = jax.tree_util.Partial(batch_value_and_grad_fn)
  if state is None:
    state = MinibatchState(0, base_params, optimizer.init(base_params))

  def generate(state):
    for epoch in range(state.epoch + 1, num_epochs + 1):
      order = batch_order(
          seed, epoch, num_examples=num_examples, batch_size=batch_size
      )
      params, opt_state, pieces = state.params, state.opt_state, []
      for batches in batches_fn(order):
        with jax.default_matmul_precision(matmul_precision):
          params, opt_state, losses = _steps(
              optimizer, batch_value_and_grad_fn, params, opt_state, batches
          )
        pieces.append(np.asarray(losses))
      losses = np.concatenate(pieces)
      gradient_descent.check_finite(float(losses.sum()), epoch)
      state = MinibatchState(epoch, params, opt_state)
      yield state, MinibatchInfo(epoch, losses, order)

  return generate(state)


def batch_order(
    seed: int, epoch: int, *, num_examples: int, batch_size: int
) -> np.ndarray:
  """Returns int32 `[num_steps, B]`: the examples of each batch of an epoch."""
  rng = np.random.default_rng([seed, epoch])
  num_steps = num_examples // batch_size
  order = rng.permutation(num_examples)[: num_steps * batch_size]
  return order.reshape(num_steps, batch_size).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _steps(optimizer, batch_value_and_grad_fn, params, opt_state, batches):
  def step(carry, batch):
    params, opt_state = carry
    loss, gradient = batch_value_and_grad_fn(params, batch)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), batches)
  return params, opt_state, losses
