"""Where adding, negating and transferring task vectors should work.

From theta_0 + tau_1 + lambda tau_2, or theta_0 + sum_i lambda_i tau_i, of
experts on tasks with patterns mu_i (`pattern_tasks`), the paper promises

  addition     both tasks learned if alpha >= 0 and lambda >= 1 - alpha + beta,
               by no lambda if alpha < 0;
  negation     task 1 kept and task 2 forgotten: alpha = 0 and lambda <= 0;
               alpha < 0 and -Theta(1/alpha^2) <= lambda <= an end of the type
               poly(eta delta*) / alpha; alpha > 0 only if it is small;
  out of       mu' = sum_i gamma_i mu_i + kappa mu_perp is learned if
  domain       sum_i lambda_i gamma_i >= 1 + c,
               sum_i lambda_i gamma_i^2 >= 1 + c and |lambda_i| beta <= c,

with beta a small number of the setting. Its constants are not known here: they
are arguments. What is known of the paper is a review that disagrees with itself
twice: whether irrelevant tasks need 1 - beta or 1 - alpha + beta = 1 + beta,
and which sign the upper end of negation has. `reading` takes both.

The margin law is DERIVED here. After training, V's neurons lie along +-mu and
W is c mu mu' up to terms that are small when M is large. A merged model meets a
task with pattern mu' through two numbers,

  s = sum_i lambda_i gamma_i  (values),   q = sum_i lambda_i gamma_i^2
  (attention),   gamma_i = mu_i' mu',

and with z(t) = (n* e^t - n# e^-t) / (n* e^t + n# e^-t + n_v) the signed share
of attention that a query mu' gives to its own kind, its margin is

  m(s, q) = m_0 s h(c q) / h(c),
  P h(t) = n* z(t) + n# w(t) + n_v (n* - n#) / P,
  w(t) = (n* e^-t - n# e^t) / (n* e^-t + n# e^t + n_v)  (a query -mu'),

m_0 the expert's own margin. c and m_0 are read off the experts alone, before
anything is merged; no constant is fitted to a map. Addition asks m >= 1 - tol
of both tasks, negation m >= 1 - tol of the first and m <= tol of the second.
For lambda < 0 attention turns round at q = 0: for the first task that is
lambda = -1/alpha^2, the paper's lower end with constant 1. But the second
task's own q = lambda + alpha^2 is negative long before, and two signs cancel:
values turned round and attention turned round classify the task again.

Source: Li, Zhang, Zhang, Wang, Liu and Chen, "When is task vector provably
effective for model editing?", arXiv:2504.10957. As known from a review.
"""

from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import matrix_view
from taskvec_jax.merging import spectra
from taskvec_jax.studies import pattern_tasks
from taskvec_jax.typing import Params


class Expert(NamedTuple):
  """What the margin law has to know of an expert."""

  attention: float  # c = mu' W mu
  margin: float  # m_0, the mean of y f(X) on its own task


def attention_gain(
    score: np.ndarray | float, sizes: pattern_tasks.Sizes
) -> np.ndarray:
  """Returns h(t): the signed share of mu in the tokens that neurons see.

  Args:
    score: t = mu' W mu of the task at hand, any shape.
    sizes: tokens of an example.
  """
  score = np.asarray(score)
  up, down = np.exp(score), np.exp(-score)
  label, confusing = sizes.num_label, sizes.num_confusing
  background, total = sizes.num_background, pattern_tasks.num_tokens(sizes)
  with_label = (label * up - confusing * down) / (
      label * up + confusing * down + background
  )
  with_confusing = (label * down - confusing * up) / (
      label * down + confusing * up + background
  )
  uniform = (label - confusing) / total
  return (
      label * with_label + confusing * with_confusing + background * uniform
  ) / total


def predicted_margin(
    values: np.ndarray,
    attention: np.ndarray,
    expert: Expert,
    sizes: pattern_tasks.Sizes,
) -> np.ndarray:
  """Returns m(s, q) of the margin law, of the shape of its arguments."""
  return (
      expert.margin
      * values
      * attention_gain(expert.attention * attention, sizes)
      / attention_gain(expert.attention, sizes)
  )


def addition_region(
    scaling: np.ndarray, alpha: np.ndarray, *, beta: float
) -> np.ndarray:
  """Returns where the paper promises addition: bool, of the broadcast shape."""
  return (alpha >= 0) & (scaling >= 1 - alpha + beta - _ROUNDING)


def negation_region(
    scaling: np.ndarray,
    alpha: np.ndarray,
    *,
    beta: float,
    lower: float,
    small_alpha: float,
    sign: int,
) -> np.ndarray:
  """Returns where the paper promises negation.

  Args:
    scaling: lambda.
    alpha: correlation of the tasks.
    beta: poly(eta delta*); the upper end is `sign beta / |alpha|`.
    lower: the constant of the lower end `-lower / alpha^2`.
    small_alpha: alpha up to which the tasks still count as irrelevant.
    sign: +1 or -1, the reading of the upper end for alpha < 0.
  """
  size = np.maximum(np.abs(alpha), _ROUNDING)
  contradictory = (
      (alpha < 0)
      & (scaling >= -lower / size**2 - _ROUNDING)
      & (scaling <= sign * beta / size + _ROUNDING)
  )
  irrelevant = (alpha >= 0) & (alpha <= small_alpha) & (scaling <= 0)
  # From where on task 1 itself loses beta.
  return contradictory | (irrelevant & (scaling * alpha >= -beta - _ROUNDING))


def transfer_region(
    scalings: np.ndarray, gammas: np.ndarray, *, beta: float
) -> np.ndarray:
  """Returns where the paper promises an out-of-domain task.

  There has to be a c in (0, 1) with both sums at least 1 + c and all
  `|lambda_i| beta <= c`: the smallest such c is the largest `|lambda_i| beta`.

  Args:
    scalings: lambda_i, `[..., T]`.
    gammas: gamma_i, `[..., T]`.
    beta: interference of one task vector with another task.
  """
  values, attention = shares(scalings, gammas)
  c = beta * np.max(np.abs(scalings), axis=-1)
  return (np.minimum(values, attention) >= 1 + c) & (c < 1)


def shares(
    scalings: np.ndarray, gammas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `(s, q)` of `lambda_i` and `gamma_i`, both `[..., T]`."""
  return np.sum(scalings * gammas, -1), np.sum(scalings * gammas**2, -1)


def pair_margins(
    scaling: np.ndarray,
    alpha: np.ndarray,
    expert: Expert,
    sizes: pattern_tasks.Sizes,
    *,
    attends: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the law's margins of theta_0 + tau_1 + lambda tau_2 on both tasks.

  Args:
    scaling: lambda.
    alpha: correlation of the tasks; the two are broadcast.
    expert: c and m_0.
    sizes: tokens of an example.
    attends: False if the second task vector has values and no attention.
  """
  scaling, alpha = np.broadcast_arrays(scaling, alpha)
  attention = scaling if attends else 0 * scaling
  return (
      predicted_margin(
          1 + scaling * alpha, 1 + attention * alpha**2, expert, sizes
      ),
      predicted_margin(alpha + scaling, alpha**2 + attention, expert, sizes),
  )


class Agreement(NamedTuple):
  """A predicted region against a measured one."""

  share: float  # of the clear cells, those on which the two agree
  kept: float  # of the clear cells that are promised, those that hold


def agreement(
    predicted: np.ndarray, measured: np.ndarray, clear: np.ndarray
) -> Agreement:
  """Returns how two regions agree, bool `[Y, X]`, on the clear cells."""
  promised = clear & predicted
  return Agreement(
      float(np.mean((predicted == measured)[clear])) if clear.any() else np.nan,
      float(np.mean(measured[promised])) if promised.any() else np.nan,
  )


def outside_margin(predicted: np.ndarray, *, margin: int) -> np.ndarray:
  """Returns the cells from which no edge of the region is `margin` cells away.

  A cell counts as within the margin if the prediction differs anywhere in the
  square of `2 margin + 1` cells around it.
  """
  padded = np.pad(predicted, margin, mode='edge')
  windows = np.lib.stride_tricks.sliding_window_view(
      padded, (2 * margin + 1, 2 * margin + 1)
  )
  return np.all(windows == predicted[..., None, None], axis=(-2, -1))


def low_rank(task_vector: Params, rank: int) -> Params:
  """Returns the task vector, each matrix cut to its `rank` largest triples."""

  def cut(matrices, tolerance):
    return spectra.product(
        spectra.svd(matrices[0], tolerance=tolerance, most=rank)
    )

  return matrix_view.merged(cut, {'task': task_vector})


def relative_error(
    approximation: Params, task_vector: Params
) -> dict[str, float]:
  """Returns, of each kernel, `|A - tau|_F / |tau|_F`."""
  return {
      name: float(
          np.linalg.norm(approximation[name]['kernel'] - leaf['kernel'])
          / np.linalg.norm(leaf['kernel'])
      )
      for name, leaf in task_vector.items()
  }


def pruned_neurons(task_vector: Params, *, share: float) -> Params:
  """Returns the task vector without its smallest neurons.

  Args:
    task_vector: as of `pattern_tasks.init`; its attention stays whole.
    share: of the neurons, columns of the value kernel by their norm, that are
      set to zero: floor(share m) of them.
  """
  kernel = np.asarray(task_vector['value']['kernel'])
  order = np.argsort(np.linalg.norm(kernel, axis=0), kind='stable')
  kernel = kernel.copy()
  kernel[:, order[: int(share * len(order))]] = 0
  return {**task_vector, 'value': {'kernel': kernel}}


_ROUNDING = 1e-9  # cells of a grid that lie on an edge count as inside
