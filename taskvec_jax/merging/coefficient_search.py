"""A whole grid of a method's number in one compiled program.

  curve_i = score( theta_0 + tau(s_i) ),   tau(s) = s tau  or any tau(s),

on validation data. The grid is a `lax.map` inside one program: a candidate
costs one evaluation and, while it lasts, one copy of the parameters. Everything
here but `choose` and `choose_under_control` is traceable, so that a score
summed over one batch goes through `full_batch.exact_mean` with the curve as its
result:

  lambda operands, batch: curve(
      lambda params: score_sum(params, batch), *operands)

with operands `(base_params, task_vector, scalings)`. A number that decides a
SHAPE (the rank that a singular value decomposition keeps) cannot be traced;
call such a method once a value.

Customs: addition searches linspace(0, 1, 21) for the best mean of normalised
accuracy (Ilharco et al.); methods that level singular values, linspace(0, 3,
31); without validation data 0.3 (AdaMerging, FusionBench) or 0.4 (TIES).

Source: Ilharco et al., "Editing models with task arithmetic",
arXiv:2212.04089.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from jax import lax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def curve(
    score_fn: Callable[[Params], Any],
    base_params: Params,
    task_vector: Params,
    scalings: Array,
) -> Any:
  """Returns `score_fn(theta_0 + s tau)` for every scaling s.

  Args:
    score_fn: `params -> tree of arrays`, traceable.
    base_params: `theta_0`.
    task_vector: `tau`, already merged.
    scalings: float `[S]`, the candidates.

  Returns:
    The scores' tree with an axis `[S]` in front of every leaf.

  Raises:
    ValueError: no candidate, or the trees differ.
  """
  return _map(
      lambda s: score_fn(arithmetic.edit(base_params, task_vector, s)), scalings
  )


def curve_of(
    score_fn: Callable[[Params], Any],
    base_params: Params,
    task_vector_fn: Callable[[Array], Params],
    values: Array,
) -> Any:
  """Returns `score_fn(theta_0 + tau(v))` for every value v of any number.

  Args:
    score_fn: `params -> tree of arrays`, traceable.
    base_params: `theta_0`.
    task_vector_fn: the method, `scalar -> merged task vector`, traceable.
    values: `[V]`, the candidates.

  Returns:
    The scores' tree with an axis `[V]` in front of every leaf.

  Raises:
    ValueError: as `curve`.
  """
  return _map(
      lambda v: score_fn(arithmetic.edit(base_params, task_vector_fn(v))),
      values,
  )


def choose(values: Sequence[float], scores: Sequence[float] | Array) -> float:
  """Returns the value with the highest score, of equals the first.

  Args:
    values: `[V]`, rising, so that of equals the smallest edit is taken.
    scores: `[V]`, higher is better.

  Raises:
    ValueError: the lengths differ, or there is none.
    FloatingPointError: a score is NaN, which has no place in an order.
  """
  return float(values[int(np.argmax(_checked(values, scores)))])


def choose_under_control(
    values: Sequence[float],
    target_scores: Sequence[float] | Array,
    control_scores: Sequence[float] | Array,
    *,
    minimum_control: float,
) -> float:
  """Returns the value that forgets the target most and leaves the control.

  The lowest target score among the values whose control score is at least
  `minimum_control`; of equals the first. The paper's negation asks for 95 % of
  the control accuracy of the base model.

  Args:
    values: `[V]`, rising.
    target_scores: `[V]` of the task to forget, higher is better at it.
    control_scores: `[V]` of the task to keep.
    minimum_control: the lowest control score allowed.

  Raises:
    ValueError: the lengths differ, or no value keeps the control: include 0,
      the base model.
    FloatingPointError: a score is NaN.
  """
  target = _checked(values, target_scores)
  control = _checked(values, control_scores)
  allowed = control >= minimum_control
  if not allowed.any():
    raise ValueError(
        f'No value keeps the control score at {minimum_control}; the best'
        f' reaches {control.max()}. Include 0, the base model, in the values.'
    )
  return float(values[int(np.argmin(np.where(allowed, target, np.inf)))])


def _map(fn: Callable, values: Array) -> Any:
  if np.ndim(values) != 1 or not np.shape(values)[0]:
    raise ValueError(
        'The candidates must be a vector of at least one number, but have'
        f' shape {np.shape(values)}.'
    )
  return lax.map(fn, jnp.asarray(values))


def _checked(
    values: Sequence[float], scores: Sequence[float] | Array
) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  if scores.shape != (len(values),) or not len(values):
    raise ValueError(
        f'There are {len(values)} values but scores of shape {scores.shape};'
        ' give one score a value, and at least one.'
    )
  if np.isnan(scores).any():
    at = [float(values[int(i)]) for i in np.flatnonzero(np.isnan(scores))]
    raise FloatingPointError(f'the score is NaN at the values {at}')
  return scores
