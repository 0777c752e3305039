"""Where gradient flow and gradient descent end, and how far they are apart.

`gradient_flow` integrates `theta' = -grad L` to a small tolerance, `descend`
runs the project's gradient descent until the gradient has vanished.

DERIVED here: on a balanced network (`deep_linear`) the gradient of layer j is
`s^{L-2} (v.g) u_{j-1} u_j'`, or `s^{L-1} g u_1'` in the first, so that both
keep the hidden directions and their state is `x = (v, s)`, `beta = s^{L-1} v`,
where v starts at `s b`. The flow keeps `|v| = s`; descent,

  v+ = v - eta s^{L-1} g,   s+ = s - eta s^{L-2} v.g,

leaves that by O(eta^2) a step, so its limit is O(eta) from the flow's. To
second order it follows (backward error analysis, textbook)

  x' = f(x) - (eta / 2) f'(x) f(x),   f = -(s^{L-1} g, s^{L-2} v.g),     (S2.13)

whose limit `modified_flow_limit` returns: the step-size error to O(eta^2). For
L = 1 there is none: descent only ever adds rows of X.

Cost: the flow takes twelve gradient passes a step, explicit Runge-Kutta of
order 8. (S2.13) needs no network: d + 1 numbers.

Source: Hairer, Lubich and Wanner, "Geometric Numerical Integration", ch. IX;
for gradient descent Barrett and Dherin, arXiv:2009.11162.
"""

import math

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


def descend(
    params: Params,
    value_and_grad_fn: ValueAndGradFn,
    *,
    step_size: float,
    tolerance: float = 1e-12,
    max_steps: int = 50_000,
) -> Params:
  """Returns where gradient descent ends.

  Args:
    params: the start.
    value_and_grad_fn: `params -> (L, grad L)`.
    step_size: eta, which every problem's weight multiplies.
    tolerance: it has ended once `|grad L| <= tolerance |grad L(start)|`.
    max_steps: before it is given up.

  Raises:
    FloatingPointError: the gradient has not fallen that far, or the loss is
      not finite.
  """
  start = norm = math.inf
  for end, info in gradient_descent.trajectory(
      params, value_and_grad_fn, learning_rate=step_size, num_epochs=max_steps
  ):
    norm = info.gradient_norm
    start = norm if info.epoch == 1 else start
    # The gradient is the one before the step; the step can only help.
    if norm <= tolerance * start:
      return jax.tree.map(np.asarray, end)
  raise FloatingPointError(
      f'the gradient of descent is {norm:.3g}, from {start:.3g}, after'
      f' {max_steps} steps of {step_size:g}; let it run longer'
  )


def gradient_flow(
    params: Params,
    value_and_grad_fn: ValueAndGradFn,
    *,
    tolerance: float = 1e-10,
    duration: float = 50.0,
    max_pieces: int = 10,
) -> Params:
  """Returns where `theta' = -grad L(theta)` ends; float64 under x64 only.

  Args:
    params: the start; a tree of arrays.
    value_and_grad_fn: `params -> (L, grad L)`, with infimum 0.
    tolerance: of the solver, relative, and a hundredth of it absolute; the flow
      has ended once `L <= tolerance^2 L(start)`.
    duration: of the first piece, after which that is asked; each is twice as
      long as the one before.
    max_pieces: before it is given up.

  Raises:
    FloatingPointError: the loss has not fallen that far; says how far.
  """
  flat, unravel = ravel_pytree(params)

  def velocity(_, at):
    _, gradient = value_and_grad_fn(unravel(jnp.asarray(at)))
    return -np.asarray(ravel_pytree(gradient)[0])

  start, _ = value_and_grad_fn(params)
  at, loss = np.asarray(flat), start
  for piece in range(max_pieces):
    at = _integrate(velocity, at, duration * 2**piece, tolerance)
    loss, _ = value_and_grad_fn(unravel(jnp.asarray(at)))
    if loss <= tolerance**2 * start:
      return jax.tree.map(np.asarray, unravel(jnp.asarray(at)))
  raise FloatingPointError(
      f'the loss of the flow is {float(loss):.3g}, from {float(start):.3g},'
      f' after {max_pieces} pieces of time; let it run longer'
  )


def modified_flow_limit(
    source: np.ndarray,
    target: np.ndarray,
    inputs: np.ndarray,
    *,
    num_layers: int,
    step_size: float,
    tolerance: float = 1e-10,
) -> np.ndarray:
  """Returns where descent from a balanced start ends, to O(step_size^2).

  Args:
    source: `theta_S`, `[d]`, not zero.
    target: `theta_T`, `[d]`.
    inputs: X, `[n, d]`.
    num_layers: L, at least 2.
    step_size: eta, of the unweighted loss; 0 gives the flow itself, reduced to
      d + 1 numbers.
    tolerance: of the solver, and of the residual at the end.

  Raises:
    FloatingPointError: it has not ended after many times its slowest rate.
  """
  gram = inputs.T @ inputs / len(inputs)
  depth = num_layers

  def velocity(_, x):
    v, s = x[:-1], x[-1]
    g = gram @ (s ** (depth - 1) * v - target)
    f_v, f_s = -(s ** (depth - 1)) * g, -(s ** (depth - 2)) * (v @ g)
    # The derivative of f along f: first of g, then of the products.
    dg = gram @ (
        s ** (depth - 1) * f_v + (depth - 1) * s ** (depth - 2) * f_s * v
    )
    df_v = -(depth - 1) * s ** (depth - 2) * f_s * g - s ** (depth - 1) * dg
    df_s = -(depth - 2) * s ** (depth - 3) * f_s * (v @ g) - s ** (
        depth - 2
    ) * (f_v @ g + v @ dg)
    half = step_size / 2
    return np.append(f_v - half * df_v, f_s - half * df_s)

  scale = np.linalg.norm(source) ** (1 / depth)
  at = np.append(source * scale ** (1 - depth), scale)
  labels = inputs @ target
  allowed = tolerance * np.linalg.norm(inputs @ source - labels)
  duration = 50 / np.trace(gram)
  for _ in range(20):
    at = _integrate(velocity, at, duration, tolerance)
    end = at[-1] ** (depth - 1) * at[:-1]
    if np.linalg.norm(inputs @ end - labels) <= allowed:
      return end
    duration *= 2
  raise FloatingPointError(
      f'the modified flow has not ended after time {2 * duration:.3g}; use a'
      ' smaller step_size'
  )


def _integrate(velocity, start, duration, tolerance) -> np.ndarray:
  solution = integrate.solve_ivp(
      velocity,
      (0.0, duration),
      start,
      method='DOP853',
      rtol=tolerance,
      atol=tolerance / 100,
      t_eval=[duration],
  )
  if not solution.success:
    raise FloatingPointError(f'the solver stopped: {solution.message}')
  return solution.y[:, -1]
