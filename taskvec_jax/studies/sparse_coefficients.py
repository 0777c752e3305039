"""Which task vectors does a new task need? Sparse coefficients over a basis.

A few labelled images of a target, and task vectors tau_1 .. tau_B of source
tasks. With the model linearised at theta_0, the logits of a combination are

  f(x; a) = f(x; theta_0) + sum_b a_b J(x) tau_b,

so the target's cross-entropy L(a) is convex, with `[B]` unknowns, and

  a(lambda) = argmin_a L(a) + lambda |a|_1,     lambda = share max|grad L(0)|,

is the lasso of `sparse_predictors` for another loss (`lambda |a|^2 / 2` is its
ridge). The share is not guessed: it descends the loss V of further examples,
by implicit differentiation on the support S,

  H_SS da_S / dlambda = - sign(a_S),   dV / dlambda = grad V' da / dlambda,

H being L's Hessian at a(lambda). One step of Newton on the support from the
solution, with H and the start held constant, has that derivative, and is how
it is computed: no iteration of the solver is differentiated.

The bridge from sparse predictors to task vectors is this project's; aTLAS has
the combination, without penalty and not linearised. The solver is accelerated
proximal gradient with the step 2 / |mean J'J|, as a softmax has curvature 1/2
at most. Cost: B forward-mode passes over the images, once; then steps of
N x C x B.

Source: Lachapelle et al., arXiv:2211.14666; Zhang et al., aTLAS,
arXiv:2407.02880; Ortiz-Jimenez et al. for the linearisation, arXiv:2305.12827.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from taskvec_jax.merging import linearised
from taskvec_jax.studies import sparse_predictors
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class Problem(NamedTuple):
  """A target's examples, seen through the linearised model."""

  offsets: Array  # f(x; theta_0), [N, C]
  columns: Array  # J(x) tau_b, [N, C, B]
  labels: Array  # int [N]


class Chosen(NamedTuple):
  """The penalty that the descent ended with, and what it gives."""

  coefficients: Array  # a, [B]
  share: Array  # of the largest penalty
  shares: Array  # [num_steps + 1], the way there
  losses: Array  # [num_steps + 1], V at them


def problem(
    logits_fn: Callable[[Params, Array], Array],
    base_params: Params,
    task_vectors: Sequence[Params],
    inputs: Array,
    labels: Array,
) -> Problem:
  """Returns the linearised problem of the examples.

  Args:
    logits_fn: `(params, inputs) -> logits [N, C]`.
    base_params: `theta_0`.
    task_vectors: `tau_b`, a sequence, as a mapping has another order inside
      compiled programs.
    inputs: `[N, ...]`.
    labels: int `[N]`.
  """
  linear_fn = linearised.linearised(logits_fn, base_params)
  offsets = logits_fn(base_params, inputs)
  columns = [
      linear_fn(arithmetic.edit(base_params, vector), inputs) - offsets
      for vector in task_vectors
  ]
  return Problem(offsets, jnp.stack(columns, axis=-1), jnp.asarray(labels))


def joined(first: Problem, second: Problem) -> Problem:
  """Returns the problem of both targets' examples, a mixture."""
  return Problem(
      *(jnp.concatenate(parts) for parts in zip(first, second, strict=True))
  )


def loss(problem: Problem, coefficients: Array) -> Array:
  """Returns L(a), the mean cross-entropy in nats."""
  return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(
          problem.offsets + problem.columns @ coefficients, problem.labels
      )
  )


def largest_penalty(problem: Problem) -> Array:
  """Returns max|grad L(0)|, the least lambda of the lasso that gives a = 0."""
  zeros = jnp.zeros(problem.columns.shape[-1], problem.columns.dtype)
  return jnp.max(jnp.abs(jax.grad(loss, argnums=1)(problem, zeros)))


@functools.partial(jax.jit, static_argnames=('sparse', 'num_steps'))
def solve(
    problem: Problem, penalty: Array, *, sparse: bool, num_steps: int = 300
) -> Array:
  """Returns a(lambda) `[B]`; traceable, differentiable in lambda and examples.

  Args:
    problem: the target's examples.
    penalty: lambda, positive.
    sparse: `lambda |a|_1`, else `lambda |a|^2 / 2`.
    num_steps: of the solver, which restarts its momentum where it overshoots.
  """
  fixed, held = lax.stop_gradient((problem, penalty))
  start = _minimise(fixed, held, sparse=sparse, num_steps=num_steps)
  hessian = _hessian(fixed, start)
  gradient = jax.grad(loss, argnums=1)(problem, start)
  if sparse:
    slope = gradient + penalty * jnp.sign(start)
    return start - sparse_predictors.support_solve(hessian, start, slope)
  identity = jnp.eye(start.shape[0], dtype=start.dtype)
  slope = gradient + penalty * start
  return start - jnp.linalg.solve(hessian + held * identity, slope)


def choose(
    problem: Problem,
    held_out: Problem,
    *,
    sparse: bool,
    share: float,
    learning_rate: float = 0.3,
    num_steps: int = 25,
) -> Chosen:
  """Returns the best share on the way of a descent of the held-out loss.

  Adam on log(share), by the implicit derivative; the share stays at most 1, at
  which the lasso is 0.

  Args:
    problem: of the examples that the coefficients are fitted to.
    held_out: of the examples of V.
    sparse: as in `solve`.
    share: where to start, positive and at most 1.
    learning_rate: Adam's, in log(share).
    num_steps: of Adam.
  """
  top = largest_penalty(problem)
  rule = optax.adam(learning_rate)

  def held_out_loss(log_share):
    a = solve(problem, top * jnp.exp(log_share), sparse=sparse)
    return loss(held_out, a), a

  def step(carry, _):
    log_share, state = carry
    (value, a), slope = jax.value_and_grad(held_out_loss, has_aux=True)(
        log_share
    )
    updates, state = rule.update(slope, state)
    changed = jnp.minimum(log_share + updates, 0)
    return (changed, state), (log_share, value, a)

  log_share = jnp.log(jnp.asarray(share, problem.columns.dtype))
  _, (way, losses, coefficients) = lax.scan(
      step, (log_share, rule.init(log_share)), length=num_steps + 1
  )
  best = jnp.argmin(losses)
  shares = jnp.exp(way)
  return Chosen(coefficients[best], shares[best], shares, losses)


def combined(task_vectors: Sequence[Params], coefficients: Array) -> Params:
  """Returns `sum_b a_b tau_b`, to be added to theta_0."""
  vectors = {str(index): vector for index, vector in enumerate(task_vectors)}
  numbers = np.asarray(coefficients).tolist()
  return arithmetic.weighted_sum(
      vectors, dict(zip(vectors, numbers, strict=True))
  )


def _hessian(problem: Problem, coefficients: Array) -> Array:
  """Returns L's Hessian `[B, B]`: mean J' (diag p - p p') J."""
  columns = problem.columns
  p = jax.nn.softmax(problem.offsets + columns @ coefficients)
  mean = jnp.einsum('nc,ncb->nb', p, columns)
  centred = columns - mean[:, None]
  return jnp.einsum('nc,nca,ncb->ab', p, centred, centred) / len(p)


def _minimise(problem, penalty, *, sparse, num_steps):
  # |J_x|^2 / 2 summed over examples bounds L's curvature in a.
  flat = problem.columns.reshape(-1, problem.columns.shape[-1])
  gram = flat.T @ flat / problem.columns.shape[0]
  smoothness = jnp.linalg.eigvalsh(gram)[-1] / 2
  smoothness = jnp.where(smoothness > 0, smoothness, 1)

  def proximal(a):
    moved = a - jax.grad(loss, argnums=1)(problem, a) / smoothness
    if not sparse:
      return moved / (1 + penalty / smoothness)
    threshold = penalty / smoothness
    return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0)

  def step(carry, _):
    a, ahead, t = carry
    new = proximal(ahead)
    # Momentum that points uphill is dropped.
    t = jnp.where(jnp.vdot(ahead - new, new - a) > 0, 1.0, t)
    next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    return (new, new + (t - 1) / next_t * (new - a), next_t), None

  zeros = jnp.zeros(problem.columns.shape[-1], problem.columns.dtype)
  carry = (zeros, zeros, jnp.ones((), zeros.dtype))
  return lax.scan(step, carry, length=num_steps)[0][0]
