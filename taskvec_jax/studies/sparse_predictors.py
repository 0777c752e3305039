"""Sparse predictors of a task on shared features, and their derivatives.

Task t has n examples with features F `[n, m]` and targets y `[n]`. Its
predictor is the inner problem of a bilevel one,

  w_t = argmin_w |y - F w|^2 / 2n + lambda |w|_1,                     (lasso)
  w_t = argmin_w |y - F w|^2 / 2n + lambda |w|^2 / 2,                 (ridge)

and what the features depend on is trained through it:

  min_theta sum_t |y_t - F_t(theta) w_t(theta)|^2 / 2n.               (outer)

The paper's lambda is `l1 max|F'y| / n`, a share of the smallest penalty that
makes w zero, and no derivative is taken of it (`l1_penalty`); ridge has a
share of the features' total power (`l2_penalty`), so that for both the scale
of the features makes no difference to the predictions.

With G = F'F / n, c = F'y / n and S the support of w, the optimality of the
lasso on its support is `G_SS w_S = c_S - lambda sign(w_S)`, and S does not
change in a neighbourhood of almost every problem. Hence

  G_SS dw_S = dc_S - dG_SS w_S - dlambda sign(w_S),   dw = 0 elsewhere.

`lasso` carries this rule in both modes: no sweep of the solver is
differentiated. Shapes are static under `jit`, so the linear system is m x m
with the identity outside S, and costs m^3 where |S|^3 would do.

The solver is cyclic coordinate descent on G and c, m^2 a sweep, until the
optimality conditions hold to a tolerance.

Source: Lachapelle et al., "Synergies between disentanglement and sparsity:
generalization and identifiability in multi-task learning", arXiv:2211.14666;
for the derivative of the lasso Bertrand et al., arXiv:2105.01637.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from taskvec_jax.typing import Array


def moments(features: Array, targets: Array) -> tuple[Array, Array]:
  """Returns `(F'F / n [m, m], F'y / n [m])`, all that the problems read.

  Args:
    features: F, `[n, m]`.
    targets: y, `[n]`.
  """
  num_examples = features.shape[0]
  return (
      features.T @ features / num_examples,
      features.T @ targets / num_examples,
  )


def l1_penalty(correlation: Array, share: float | Array) -> Array:
  """Returns lambda = share * max|F'y| / n; 1 is the least that gives w = 0.

  No derivative is taken of the maximum, one is taken of the share.
  """
  return share * lax.stop_gradient(jnp.max(jnp.abs(correlation)))


def l2_penalty(gram: Array, share: float | Array) -> Array:
  """Returns lambda = share * |F|_F^2 / n, without a derivative of the power."""
  return share * lax.stop_gradient(jnp.trace(gram))


@functools.partial(jax.jit, static_argnames=('tolerance', 'max_sweeps'))
def lasso(
    gram: Array,
    correlation: Array,
    penalty: float | Array,
    *,
    start: Array | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int = 1000,
) -> Array:
  """Returns the lasso's w `[m]`; traceable, differentiable in both modes.

  The derivative is that on the support, and exact where the solver has
  converged. Features on the support must be independent.

  Args:
    gram: G, `[m, m]`.
    correlation: c, `[m]`.
    penalty: lambda, not negative.
    start: where the sweeps start; None for zeros. No derivative is taken.
    tolerance: of `violation`.
    max_sweeps: after which the solver stops anyway.
  """
  gram, correlation = jnp.asarray(gram), jnp.asarray(correlation)
  if start is None:
    start = jnp.zeros_like(correlation)
  return _lasso(
      gram,
      correlation,
      jnp.asarray(penalty, gram.dtype),
      lax.stop_gradient(start),
      tolerance,
      max_sweeps,
  )


@functools.partial(jax.jit, static_argnames=('tolerance', 'max_sweeps'))
def lasso_path(
    gram: Array,
    correlation: Array,
    penalties: Array,
    *,
    tolerance: float = 1e-6,
    max_sweeps: int = 1000,
) -> Array:
  """Returns w `[P, m]` for falling penalties `[P]`, each from the one before.

  Arguments are those of `lasso`.
  """

  def step(w, penalty):
    w = lasso(
        gram,
        correlation,
        penalty,
        start=w,
        tolerance=tolerance,
        max_sweeps=max_sweeps,
    )
    return w, w

  return lax.scan(step, jnp.zeros_like(correlation), penalties)[1]


@functools.partial(jax.jit, static_argnames='num')
def sweeps(
    gram: Array, correlation: Array, penalty: Array, start: Array, *, num: int
) -> Array:
  """Returns w after each of `num` sweeps over the coordinates, `[num, m]`.

  Every operation is differentiable: what unrolling the solver would see.
  """
  gram, correlation = jnp.asarray(gram), jnp.asarray(correlation)

  def one(w, j):
    rest = correlation[j] - gram[j] @ w + gram[j, j] * w[j]
    # A feature that is zero everywhere has no coefficient.
    scale = jnp.where(gram[j, j] > 0, gram[j, j], 1)
    return w.at[j].set(_shrink(rest, penalty) / scale), None

  # A scan, unlike a loop of unknown length, has a reverse mode.
  def sweep(w, _):
    w, _ = lax.scan(one, w, jnp.arange(correlation.shape[0]))
    return w, w

  return lax.scan(sweep, start, length=num)[1]


def support_solve(gram: Array, w: Array, change: Array) -> Array:
  """Returns dw, `G_SS dw_S = change_S` and 0 off the support of w, `[m]`.

  Args:
    gram: G, `[m, m]`, or any Hessian.
    w: `[m]`, whose entries that are not zero make S.
    change: `[m]`, of the right hand side of the optimality on the support.
  """
  support = (w != 0).astype(w.dtype)
  system = support[:, None] * gram * support + jnp.diag(1 - support)
  return jnp.linalg.solve(system, support * change)


def violation(
    gram: Array, correlation: Array, penalty: Array, w: Array
) -> Array:
  """Returns how far w is from optimal for the lasso, as a share of max|c|.

  The largest entry of the distance from 0 to the subdifferential: on the
  support `|c - G w - lambda sign(w)|`, elsewhere what |c - G w| has above
  lambda.
  """
  gradient = correlation - gram @ w
  off = jnp.where(
      w != 0,
      jnp.abs(gradient - penalty * jnp.sign(w)),
      jnp.maximum(jnp.abs(gradient) - penalty, 0),
  )
  scale = jnp.max(jnp.abs(correlation))
  return jnp.max(off) / jnp.where(scale > 0, scale, 1)


def ridge(gram: Array, correlation: Array, penalty: float | Array) -> Array:
  """Returns `(G + lambda)^{-1} c`, the dense alternative, `[m]`."""
  identity = jnp.eye(correlation.shape[0], dtype=gram.dtype)
  return jnp.linalg.solve(gram + penalty * identity, correlation)


def ridge_path(gram: Array, correlation: Array, penalties: Array) -> Array:
  """Returns ridge's w `[P, m]` for penalties `[P]`, by one eigenbasis."""
  values, vectors = jnp.linalg.eigh(gram)
  rotated = vectors.T @ correlation
  return (rotated / (values + penalties[:, None])) @ vectors.T


def loss(features: Array, targets: Array, w: Array) -> Array:
  """Returns `|y - F w|^2 / 2n`."""
  return jnp.mean(jnp.square(targets - features @ w)) / 2


@functools.partial(jax.jit, static_argnames='sparse')
def outer_loss(
    features: Array, targets: Array, *, share: float | Array, sparse: bool
) -> Array:
  """Returns the loss of a task's own predictor, differentiable in F.

  Args:
    features: F, `[n, m]`.
    targets: y, `[n]`.
    share: of the largest l1 penalty, or of the power for ridge.
    sparse: whether the predictor is the lasso's; else ridge's.
  """
  gram, correlation = moments(features, targets)
  if sparse:
    w = lasso(gram, correlation, l1_penalty(correlation, share))
  else:
    w = ridge(gram, correlation, l2_penalty(gram, share))
  return loss(features, targets, w)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _lasso(gram, correlation, penalty, start, tolerance, max_sweeps):
  def unfinished(state):
    w, num = state
    off = violation(gram, correlation, penalty, w)
    return (num < max_sweeps) & (off > tolerance)

  def sweep(state):
    w, num = state
    return sweeps(gram, correlation, penalty, w, num=1)[-1], num + 1

  return lax.while_loop(unfinished, sweep, (start, 0))[0]


@_lasso.defjvp
def _lasso_jvp(tolerance, max_sweeps, primals, tangents):
  gram, correlation, penalty, _ = primals
  d_gram, d_correlation, d_penalty, _ = tangents
  w = _lasso(*primals, tolerance, max_sweeps)
  change = d_correlation - d_gram @ w - d_penalty * jnp.sign(w)
  return w, support_solve(gram, w, change)


def _shrink(x: Array, threshold: Array) -> Array:
  return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)
