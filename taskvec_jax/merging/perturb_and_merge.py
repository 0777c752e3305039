"""Perturb-and-Merge (P&M): tasks one after another, merged as they come.

Infer after merging. With `theta^_{t-1}` merged from the tasks before,
`theta*_t` finetuned on task t and `Delta = theta*_t - theta^_{t-1}`,

  theta^_t = theta^_{t-1} + alpha_t Delta,
  alpha_t  = - sum_{i<=t} (theta^_{t-1} - theta*_i)' H_i Delta
             / sum_{i<=t} Delta' H_i Delta,

which minimises along Delta the rise of all tasks' losses over their own optima
to second order, `sum_i (theta - theta*_i)' H_i (theta - theta*_i) / 2`; `H_i`
is task i's Hessian at `theta*_i`. The paper takes the diagonal of the empirical
Fisher for it, and 0 <= alpha_t <= 1. Here `H_i Delta` is an argument: true
Hessian-vector products (`hessian_product_fns`), or a diagonal
(`fisher_product_fns`). A true Hessian can have negative curvature along Delta:
within [0, 1] the better end is then taken; without the interval there is no
minimum, which is an error.

Train with perturbation. What merging will cost, `Delta' H Delta`, is made small
while a task trains, by evaluating its loss at theta, theta + epsilon Delta or
theta - epsilon Delta with probabilities 1 - 2p, p, p (`Delta` from
`theta^_{t-1}` to the current parameters):

  E L = L + p (L_+ + L_- - 2 L) = L + p epsilon^2 Delta' H Delta + O(epsilon^4).

The paper: epsilon 0.5 and p 1/3, a weight of 1/12, one draw a step and no more
work; its networks train LoRA factors of rank 10 alone.

Cost: t products `H_i Delta` for task t, T (T + 1) / 2 in all, T + 3 copies of
the parameters.

Source: Qiu et al., "Train with Perturbation, Infer after Merging: A Two-Stage
Framework for Continual Learning", arXiv:2505.22389; the formulas are derived
anew here.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from taskvec_jax import tree
from taskvec_jax.merging import checks
from taskvec_jax.merging import pointwise
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params

# v -> H_i v at theta*_i.
ProductFn = Callable[[Params], Params]


class Merged(NamedTuple):
  """What merging task after task gave."""

  task_vector: Params  # theta^_T - theta_0
  coefficients: dict[str, float]  # alpha_t; 1 for the first task


def perturb_and_merge(
    task_vectors: Mapping[str, Params],
    product_fns: Mapping[str, ProductFn],
    *,
    bounded: bool = True,
) -> Merged:
  """Returns the merged task vector and the coefficients, in the tasks' order.

  Args:
    task_vectors: task name -> `tau_t = theta*_t - theta_0`, in the order in
      which they come; in the paper each was finetuned from `theta^_{t-1}`.
    product_fns: task name -> `v -> H_t v`.
    bounded: whether coefficients are held to [0, 1], as in the paper.

  Raises:
    ValueError: the tasks or the trees differ.
    FloatingPointError: unbounded, and the curvature along a Delta is negative.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_tasks('product_fns', product_fns, task_vectors)
  (first, merged), *others = task_vectors.items()
  coefficients, seen = {first: 1.0}, {first: merged}
  for task, vector in others:
    seen[task] = vector
    direction = _difference(vector, merged)
    alpha = coefficient(merged, direction, seen, product_fns, bounded=bounded)
    merged = arithmetic.edit(merged, direction, alpha)
    coefficients[task] = alpha
  return Merged(merged, coefficients)


def coefficient(
    merged: Params,
    direction: Params,
    task_vectors: Mapping[str, Params],
    product_fns: Mapping[str, ProductFn],
    *,
    bounded: bool = True,
) -> float:
  """Returns `alpha` that is best for all tasks along one direction.

  Args:
    merged: `theta^_{t-1} - theta_0`.
    direction: `Delta`; along zeros there is nothing to gain: alpha is 0.
    task_vectors: task name -> `theta*_i - theta_0`, of all tasks to minimise
      over, the new one among them.
    product_fns: task name -> `v -> H_i v`, for these tasks at least.
    bounded: whether to minimise over [0, 1].

  Raises:
    FloatingPointError: unbounded, and the curvature is negative.
  """
  slope, curvature = 0.0, 0.0  # of the quadratic in alpha, at 0
  for task, vector in task_vectors.items():
    product = product_fns[task](direction)
    slope += float(tree.vdot(_difference(merged, vector), product))
    curvature += float(tree.vdot(direction, product))
  if curvature > 0:
    alpha = -slope / curvature
    return min(max(alpha, 0.0), 1.0) if bounded else alpha
  if not bounded and curvature < 0:
    raise FloatingPointError(
        f'the curvature along the new task is {curvature:.6g}, so no'
        ' coefficient is best; use bounded=True or the Fisher'
    )
  # Concave or flat: an end of [0, 1] is lowest; of equals, what is there.
  return 1.0 if bounded and slope + curvature / 2 < 0 else 0.0


def hessian_product_fns(
    base_params: Params,
    task_vectors: Mapping[str, Params],
    grad_and_hvp_fns: Mapping[str, GradAndHvpFn],
) -> dict[str, ProductFn]:
  """Returns task name -> `v -> H_i v`, the true Hessian at `theta*_i`.

  Args:
    base_params: `theta_0`.
    task_vectors: task name -> `theta*_i - theta_0`.
    grad_and_hvp_fns: task name -> `(params, v) -> (gradient, H v)`.
  """
  checks.check_tasks('grad_and_hvp_fns', grad_and_hvp_fns, task_vectors)

  def product_fn(task):
    def product(v):
      optimum = arithmetic.edit(base_params, task_vectors[task])
      _, hvp = grad_and_hvp_fns[task](optimum, v)
      return hvp

    return product

  return {task: product_fn(task) for task in task_vectors}


def fisher_product_fns(fishers: Mapping[str, Params]) -> dict[str, ProductFn]:
  """Returns task name -> `v -> F_i v` of diagonals, `fisher.diagonal_fisher`.

  The paper takes the empirical Fisher, with the labels of the data. The exact
  one, over the model's own, is for cross-entropy the diagonal of the
  Gauss-Newton matrix; the empirical one is not.
  """

  def product_fn(diagonal):
    return lambda v: pointwise.combine(lambda x, f: f * x, v, diagonal)

  return {task: product_fn(diagonal) for task, diagonal in fishers.items()}


def perturbed_loss(
    loss_fn: Callable[[Params], Array],
    previous_params: Params,
    *,
    epsilon: float = 0.5,
    probability: float = 1 / 3,
) -> Callable[[Params], Array]:
  """Returns `params -> E L`, the expected loss; three evaluations.

  Args:
    loss_fn: `params -> scalar`.
    previous_params: `theta^_{t-1}`, which Delta is measured from.
    epsilon: how far along Delta, not negative.
    probability: p, of each side, at most 1/2.

  Raises:
    ValueError: a number is out of range.
  """
  _check_perturbation(epsilon, probability)

  def expected(params):
    direction = _difference(params, previous_params)
    ahead = loss_fn(arithmetic.edit(params, direction, epsilon))
    behind = loss_fn(arithmetic.edit(params, direction, -epsilon))
    here = loss_fn(params)
    return here + probability * (ahead + behind - 2 * here)

  return expected


def perturbed_params(
    key: Array,
    params: Params,
    previous_params: Params,
    *,
    epsilon: float = 0.5,
    probability: float = 1 / 3,
) -> Params:
  """Returns theta or theta +- epsilon Delta, one draw; traceable.

  A step of training takes its gradient through it. Arguments and errors are
  those of `perturbed_loss`, `key` a key of `jax.random`.
  """
  _check_perturbation(epsilon, probability)
  draw = jax.random.uniform(key)
  sign = jnp.where(draw < 2 * probability, -1.0, 0.0)
  sign = jnp.where(draw < probability, 1.0, sign)
  direction = _difference(params, previous_params)
  return arithmetic.edit(params, direction, sign * epsilon)


def _difference(params: Params, others: Params) -> Params:
  return pointwise.combine(jnp.subtract, params, others)


def _check_perturbation(epsilon: float, probability: float) -> None:
  if not (epsilon >= 0 and 0 <= probability <= 0.5):
    raise ValueError(
        'epsilon must not be negative and probability, of each side, must be'
        f' from 0 to 1/2, but they are {epsilon} and {probability}.'
    )
