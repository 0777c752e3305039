"""Tasks one after another: what training adds, and what merging keeps.

With `theta^_{t-1}` the model kept of the tasks before, `theta*_t` finetuned
from it on task t and `Delta = theta*_t - theta^_{t-1}`, every method here keeps

  theta^_t = theta^_{t-1} + alpha_t Delta,   alpha_1 = 1,

and differs in `alpha_t` (the paper's is `perturb_and_merge.coefficient`; 1 is
sequential finetuning, 1/t a running mean) and in the objective of `theta*_t`:

  plain      L_t
  perturbed  L_t at theta, theta + epsilon Delta, theta - epsilon Delta, with
             probabilities 1 - 2p, p, p: L_t + p epsilon^2 Delta' H Delta + ...
  noise      the same with z in place of Delta, z Gaussian of Delta's length
  EWC        L_t + (lambda / 2) sum_{i<t} (theta - theta*_i)' F_i (...),

the last being elastic weight consolidation: the very quadratic that the paper's
coefficient minimises along a line, here as a penalty while training.

DERIVED here, not the paper's.
(a) Of a quadratic L_t with minimum m, reached from theta^ by `Delta_0 = m -
theta^`, perturbed training ends at

  Delta = Delta_0 / (1 + 2 p epsilon^2),

on the same line: H (theta - m) + 2 p epsilon^2 H (theta - theta^) = 0. It is a
shorter step, by 6/7 with the paper's numbers, and a coefficient that is fitted
to the true minimum undoes it. What perturbing adds beyond that is not
quadratic. Noise whose length is held fixed does not move the minimum at all.
(b) z' H z has the mean |Delta|^2 tr H / n over n parameters, so that noise of
Delta's length meets the mean curvature and Delta the curvature of its own
direction.

Cost: of a training step one gradient, whatever the objective; EWC keeps two
trees, one for all earlier tasks.

Source: Qiu et al., "Train with Perturbation, Infer after Merging: A Two-Stage
Framework for Continual Learning", arXiv:2505.22389; Kirkpatrick et al.,
"Overcoming catastrophic forgetting in neural networks", arXiv:1612.00796.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

from taskvec_jax import tree
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

# (task, theta^_{t-1}, theta*_i of the tasks before) -> theta*_t.
TrainFn = Callable[[str, Params, Mapping[str, Params]], Params]
# (theta^_{t-1}, Delta, theta*_i of the tasks up to the new one) -> alpha_t.
CoefficientFn = Callable[[Params, Params, Mapping[str, Params]], float]


class Step(NamedTuple):
  """What one task of the sequence gave."""

  task: str
  previous_params: Params  # theta^_{t-1}
  finetuned_params: Params  # theta*_t
  merged_params: Params  # theta^_t
  alpha: float


class Anchor(NamedTuple):
  """What EWC keeps of all earlier tasks: the quadratic, up to a constant."""

  precision: Params  # sum_i F_i
  pull: Params  # sum_i F_i theta*_i


def sequence(
    base_params: Params,
    tasks: Sequence[str],
    train_fn: TrainFn,
    coefficient_fn: CoefficientFn,
) -> Iterator[Step]:
  """Yields a step after each task.

  Args:
    base_params: `theta_0`, where the first task starts.
    tasks: in the order in which they come.
    train_fn: finetunes.
    coefficient_fn: gives `alpha_t` from the second task on.
  """
  merged, seen = base_params, {}
  for task in tasks:
    previous = merged
    finetuned = train_fn(task, previous, seen)
    seen = {**seen, task: finetuned}
    direction = tree.sub(finetuned, previous)
    alpha = 1.0
    if len(seen) > 1:
      alpha = coefficient_fn(previous, direction, seen)
    merged = arithmetic.edit(previous, direction, alpha)
    yield Step(task, previous, finetuned, merged, alpha)


def last_model(previous: Params, direction: Params, seen: Any) -> float:
  """Returns 1: sequential finetuning keeps the newest model."""
  del previous, direction, seen
  return 1.0


def running_mean(
    previous: Params, direction: Params, seen: Mapping[str, Params]
) -> float:
  """Returns 1/t: the mean of all `theta*_i`."""
  del previous, direction
  return 1 / len(seen)


def plain_objective(
    loss_fn: Callable[[Params, Any], Array], params: Params, batch_and_key: Any
) -> tuple[Array, Params]:
  """Returns `(loss, gradient)` of a batch.

  Args:
    loss_fn: `(params, batch) -> mean loss`. Bind it, and what the other
      objectives take between it and params, with `jax.tree_util.Partial`.
    params: theta.
    batch_and_key: the key is for the objectives that draw.
  """
  batch, _ = batch_and_key
  return jax.value_and_grad(loss_fn)(params, batch)


# One function for a pair of numbers and not one a task, as for the losses:
# what differs between tasks is passed as data.
@functools.cache
def perturbed_objective(
    *, epsilon: float, probability: float
) -> Callable[..., tuple[Array, Params]]:
  """Returns `(loss_fn, theta^_{t-1}, params, (batch, key)) -> ...`.

  One draw a step; the gradient goes through Delta, as the expectation's does.
  """

  def objective(loss_fn, previous_params, params, batch_and_key):
    batch, key = batch_and_key

    def loss(params):
      drawn = perturb_and_merge.perturbed_params(
          key, params, previous_params, epsilon=epsilon, probability=probability
      )
      return loss_fn(drawn, batch)

    return jax.value_and_grad(loss)(params)

  return objective


@functools.cache
def noise_objective(
    *, epsilon: float, probability: float
) -> Callable[..., tuple[Array, Params]]:
  """Returns the same with noise: theta or theta +- epsilon z.

  The length of z is Delta's at that step, which no gradient goes through.
  """

  def objective(loss_fn, previous_params, params, batch_and_key):
    batch, key = batch_and_key
    noise_key, draw_key = jax.random.split(key)
    direction = tree.sub(params, previous_params)
    noise = gaussian_like(noise_key, direction)
    # Around params, z is `params - previous` of perturbed_params.
    shift = jax.lax.stop_gradient(
        tree.sub(
            perturb_and_merge.perturbed_params(
                draw_key,
                params,
                tree.sub(params, noise),
                epsilon=epsilon,
                probability=probability,
            ),
            params,
        )
    )
    return jax.value_and_grad(loss_fn)(tree.add(params, shift), batch)

  return objective


def anchored_objective(
    loss_fn: Callable[[Params, Any], Array],
    anchor: Anchor,
    strength: float | Array,
    params: Params,
    batch_and_key: Any,
) -> tuple[Array, Params]:
  """Returns `(loss, gradient)` of EWC.

  The loss lacks the constant of the penalty; the gradient is whole.
  """
  loss, gradient = plain_objective(loss_fn, params, batch_and_key)
  force = jax.tree.map(
      lambda f, p, q: f * p - q, anchor.precision, params, anchor.pull
  )
  value = 0.5 * tree.vdot(params, tree.sub(force, anchor.pull))
  return loss + strength * value, tree.add_scale(gradient, strength, force)


def no_anchor(params: Params) -> Anchor:
  """Returns the anchor of no earlier task."""
  zeros = tree.zeros_like(params)
  return Anchor(zeros, zeros)


def add_to_anchor(
    anchor: Anchor, fisher: Params, finetuned_params: Params
) -> Anchor:
  """Returns the anchor with one more task's `F_i` and `theta*_i`."""
  pull = jax.tree.map(
      lambda q, f, p: q + f * p, anchor.pull, fisher, finetuned_params
  )
  return Anchor(tree.add(anchor.precision, fisher), pull)


@jax.jit
def gaussian_like(key: Array, direction: Params) -> Params:
  """Returns z, Gaussian with the mean square length of `direction`."""
  flat, unravel = flatten_util.ravel_pytree(direction)
  # One draw for all leaves: a draw a leaf takes seconds to compile.
  noise = jax.random.normal(key, flat.shape, flat.dtype)
  return unravel(jnp.sqrt(jnp.mean(flat**2)) * noise)


def empirical_fisher_sum(
    loss_sum: Callable[[Params, Any], Array], params: Params, batch: Any
) -> Params:
  """Returns the squared gradients of single examples, summed over a batch.

  The diagonal that the paper takes for `H_i`: with the labels of the data.
  What `full_batch.exact_mean` adds up over batches.

  Args:
    loss_sum: `(params, batch) -> scalar`, zero for a masked example.
    params: `theta*_i`.
    batch: a tree with leaves `[B, ...]`; all B gradients go side by side.
  """

  def squares(example):
    one = jax.tree.map(lambda x: x[None], example)
    return jax.tree.map(jnp.square, jax.grad(loss_sum)(params, one))

  return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(squares)(batch))


def shortening(*, epsilon: float, probability: float) -> float:
  """Returns `1 / (1 + 2 p epsilon^2)`, Delta over Delta_0 of a quadratic."""
  return 1 / (1 + 2 * probability * epsilon**2)


def sampled_minimiser(scalings: np.ndarray, losses: np.ndarray) -> float:
  """Returns where a loss sampled along Delta is lowest.

  The vertex of the parabola through the lowest sample and its neighbours,
  which for equally spaced samples lies within half a step of it; an end of the
  interval if that is the lowest.

  Args:
    scalings: `[S]`, equally spaced, rising, at least three.
    losses: `[S]`, the measured sum over the tasks.
  """
  lowest = int(np.argmin(losses))
  if lowest in (0, len(losses) - 1):
    return float(scalings[lowest])
  before, here, after = (float(x) for x in losses[lowest - 1 : lowest + 2])
  bend = before - 2 * here + after
  if bend <= 0:  # all three alike
    return float(scalings[lowest])
  step = float(scalings[1]) - float(scalings[0])
  return float(scalings[lowest]) + step * (before - after) / (2 * bend)
