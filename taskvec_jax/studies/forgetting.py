"""Two regressions that differ by an orthogonal map, learned one after another.

Task A: n examples of p > n observed features of d hidden ones; task B: the same
examples turned, with O a rotation drawn at random,

  z ~ N(0, I_d),  y = z' theta,  x = W z + u,  u ~ N(0, I_p),  W'W = p gamma I,
  X_B = X_A O'.

A is trained from zero to the solution b of least norm, B from there: the end is
b + tau with tau = O b - P_B b, P_B the projection on the rows of X_B.
Forgetting is what A's risk gains, R_A(b + tau) - R_A(b), where

  R_A(v) = E (y - x'v)^2 = |theta - W'v|^2 + |v|^2,   R_B(v) = R_A(O'v).

Gradient descent on |X v - y|^2 / (2 n) that is stopped after k steps shrinks
along the singular vectors instead of projecting: with X_A = U diag(sigma) Q',

  s = 1 - (1 - eta sigma^2 / n)^k,   S = Q diag(s) Q'   (converged: s = 1)
  b = Q diag(s / sigma) U'y,         tau = O (b - S O'b),

and B trained beside A, from zero, is S = 0, tau = O b: the case of task vectors
that are added.

O enters through O K alone, K `[p, n + d]` an orthonormal basis of what X_A and
W span, so a draw is a random frame: p (n + d)^2 operations, no p x p matrix. A
permutation is K with its rows permuted. The means over all rotations are in
`expected_forgetting`. All in NumPy.

Source: Goldfarb and Hand, "Analysis of Catastrophic Forgetting for Random
Orthogonal Transformation Tasks in the Overparameterized Regime",
arXiv:2207.06475, for setting and sequence; stopped training and task vectors
are this project's.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import threadpoolctl


class Regression(NamedTuple):
  """One task: its examples, and the law that they are drawn from."""

  inputs: np.ndarray  # X [n, p]
  targets: np.ndarray  # y [n]
  features: np.ndarray  # W [p, d]
  theta: np.ndarray  # [d]


class Trained(NamedTuple):
  """A task trained from zero, and what training after it makes of a start."""

  params: np.ndarray  # b [p]
  basis: np.ndarray  # Q [p, n], an orthonormal basis of the rows of X_A
  gains: np.ndarray  # s [n], with S = Q diag(s) Q'; all 1 once converged


class Rule(NamedTuple):
  """The parameters `first b + second tau`."""

  first: float
  second: float
  sequential: bool  # B trained after A; else both from zero


SEQUENCE = Rule(1.0, 1.0, True)
ADDITION = Rule(1.0, 1.0, False)


def draw(
    rng: np.random.Generator,
    *,
    num_features: int,
    num_examples: int,
    num_latent: int,
    gamma: float,
) -> Regression:
  """Returns task A with theta ~ N(0, I) and a random W, W'W = p gamma I.

  Args:
    rng: of all draws.
    num_features: p, at least n + d.
    num_examples: n.
    num_latent: d.
    gamma: strength of the hidden features, positive.

  Raises:
    ValueError: the sizes do not leave room, or gamma is not positive.
  """
  check_sizes(
      num_features=num_features,
      num_examples=num_examples,
      num_latent=num_latent,
      gamma=gamma,
  )
  frame = haar_frame(rng, num_features, num_latent)
  features = np.sqrt(num_features * gamma) * frame
  theta = rng.standard_normal(num_latent)
  latent = rng.standard_normal((num_examples, num_latent))
  noise = rng.standard_normal((num_examples, num_features))
  return Regression(
      latent @ features.T + noise, latent @ theta, features, theta
  )


def check_sizes(
    *, num_features: int, num_examples: int, num_latent: int, gamma: float
) -> None:
  """Raises a ValueError for sizes that no problem can be drawn with."""
  if min(num_examples, num_latent) < 1:
    raise ValueError(
        f'There are {num_examples} examples and {num_latent} hidden features;'
        ' at least one of each is needed.'
    )
  if num_features < num_examples + num_latent:
    raise ValueError(
        f'p = {num_features} features are fewer than n + d = {num_examples} +'
        f' {num_latent}; take at least that many.'
    )
  if not (gamma > 0 and np.isfinite(gamma)):
    raise ValueError(f'gamma must be positive and finite but is {gamma}.')


def risk(task: Regression, params: np.ndarray) -> np.ndarray:
  """Returns `|theta - W'v|^2 + |v|^2` for `params` v `[..., p]`."""
  missed = task.theta - params @ task.features
  return np.sum(missed**2, axis=-1) + np.sum(params**2, axis=-1)


def trained(
    task: Regression,
    *,
    learning_rate: float | None = None,
    num_epochs: int | None = None,
) -> Trained:
  """Returns the solution of least norm, or k steps towards it from zero.

  The steps are of gradient descent on `|X v - y|^2 / (2 n)`.

  Args:
    task: with inputs of full rank n.
    learning_rate: eta; None, like `num_epochs`, for the converged solution.
    num_epochs: k.

  Raises:
    ValueError: one of the two numbers is given without the other.
  """
  if (learning_rate is None) != (num_epochs is None):
    raise ValueError(
        f'learning_rate is {learning_rate} and num_epochs is {num_epochs}; give'
        ' both, or neither for the converged solution.'
    )
  left, singular, basis = np.linalg.svd(task.inputs, full_matrices=False)
  gains = np.ones_like(singular)
  if learning_rate is not None and num_epochs is not None:
    gains -= (1 - learning_rate * singular**2 / len(left)) ** num_epochs
  params = basis.T @ (gains / singular * (left.T @ task.targets))
  return Trained(params, basis.T, gains)


def trained_from(
    start: np.ndarray,
    task: Regression,
    *,
    learning_rate: float | None = None,
    num_epochs: int | None = None,
) -> np.ndarray:
  """Returns what training `task` makes of the parameters `start` `[p]`.

  `start + b - S start`; arguments and errors are those of `trained`.
  """
  own = trained(task, learning_rate=learning_rate, num_epochs=num_epochs)
  return start + own.params - own.basis @ (own.gains * (own.basis.T @ start))


def task_basis(task: Regression, basis: np.ndarray) -> np.ndarray:
  """Returns K `[p, n + d]`: `basis` `[p, n]` first, then what W adds to it."""
  rest = task.features - basis @ (basis.T @ task.features)
  # Once more, for what rounding left of it.
  rest -= basis @ (basis.T @ rest)
  return np.concatenate([basis, np.linalg.qr(rest)[0]], axis=1)


def haar_frame(
    rng: np.random.Generator, num_features: int, num_columns: int
) -> np.ndarray:
  """Returns the first columns of a Haar rotation, `[p, num_columns]`.

  `G L'^-1` of a Gaussian G with `G'G = L L'`: Gram-Schmidt with positive norms.
  """
  gaussian = rng.standard_normal((num_features, num_columns))
  lower = np.linalg.cholesky(gaussian.T @ gaussian)
  return gaussian @ np.linalg.inv(lower).T


def permuted_frame(rng: np.random.Generator, basis: np.ndarray) -> np.ndarray:
  """Returns `O K` for a random permutation O: K with its rows permuted."""
  return basis[rng.permutation(len(basis))]


def turned(
    task: Regression, basis: np.ndarray, frame: np.ndarray
) -> Regression:
  """Returns task B, `X_B = X_A O'` and `W_B = O W`, from `frame = O K`."""
  turn = basis @ frame.T  # K K' O', which is O' for all that K spans
  return Regression(
      task.inputs @ turn, task.targets, turn.T @ task.features, task.theta
  )


def measured_risks(
    task: Regression,
    first: Trained,
    frames: Iterable[np.ndarray],
    rules: Sequence[Rule],
) -> np.ndarray:
  """Returns the risks of every rule, draw by draw, `[draws, rules, 2]`.

  Args:
    task: A.
    first: A trained; B is trained for as long.
    frames: `O K` of each draw, with K of `task_basis(task, first.basis)`.
    rules: what to make of the two task vectors.

  Returns:
    The risk on A and on B.
  """
  num_examples = len(first.gains)
  basis = task_basis(task, first.basis)
  inside = first.basis.T @ first.params  # Q'b
  features = basis.T @ task.features
  found = []
  # A draw is many small products: threads would wait longer than they work.
  with threadpoolctl.threadpool_limits(1, user_api='blas'):
    for frame in frames:
      rows = frame[:, :num_examples]  # O Q
      after = first.gains * (rows.T @ first.params)  # what B undoes of A
      vectors = {True: rows @ (inside - after), False: rows @ inside}
      params = np.stack(
          [
              rule.first * first.params + rule.second * vectors[rule.sequential]
              for rule in rules
          ]
      )
      other = task._replace(features=frame @ features)
      found.append(np.stack([risk(task, params), risk(other, params)], axis=-1))
  return np.stack(found)
