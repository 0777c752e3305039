"""How many examples does a sparse predictor need? The paper's synthetic figure.

Features z `[m]` are independent standard normals, a task needs l of them,

  y = w*'z + s noise,   |w*| = 1, w* with l entries that are not zero,

and a predictor is fitted to n examples of y and either z itself
(disentangled) or Q z with a random rotation Q (entangled), by the lasso or by
ridge, each with the penalty that cross-validation chooses. For normal z the
quality of a predictor w has a closed form, so nothing is tested on samples:

  R^2 = 1 - ( |w - w*|^2 + s^2 ) / ( 1 + s^2 ),

with `Q'w` for w if it is entangled.

Two things can be said beforehand. Ridge does not see a rotation: its two
curves are one, to rounding. And for m, n -> infinity its risk with the best
penalty follows a law of random matrices (`ridge_risk`), which does not know l.

The paper's generator is not public, only a plot of its results: n = 25 to 150,
l/m = 5, 20 and 80 %. m, the noise, the rotation and the choice of penalties are
therefore this project's.

Source: Lachapelle et al., arXiv:2211.14666; for the law of ridge Dobriban and
Wager, arXiv:1507.03003, checked against draws by a test.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.studies import sparse_predictors


class Problems(NamedTuple):
  """P regression problems of one size."""

  factors: np.ndarray  # z, [P, n, m]
  targets: np.ndarray  # y, [P, n]
  coefficients: np.ndarray  # w*, [P, m]
  rotations: np.ndarray  # Q, [P, m, m]


def rotation(rng: np.random.Generator, dimension: int) -> np.ndarray:
  """Returns an orthogonal matrix `[dimension, dimension]`, Haar distributed."""
  q, r = np.linalg.qr(rng.normal(size=(dimension, dimension)))
  return q * np.sign(np.diag(r))


def problems(
    seed: int,
    *,
    num_problems: int,
    num_examples: int,
    num_features: int,
    num_useful: int,
    noise: float,
) -> Problems:
  """Returns problems, of one seed and more examples an extension of fewer.

  Args:
    seed: of everything.
    num_problems: P.
    num_examples: n.
    num_features: m.
    num_useful: l, of 1 to m.
    noise: s.

  Raises:
    ValueError: there are more useful features than features, or none.
  """
  if not 1 <= num_useful <= num_features:
    raise ValueError(
        f'num_useful must be 1 to num_features = {num_features} but is'
        f' {num_useful}.'
    )
  found = []
  for index in range(num_problems):
    rng = np.random.default_rng([seed, index, num_useful])
    w = np.zeros(num_features)
    w[rng.permutation(num_features)[:num_useful]] = rng.normal(size=num_useful)
    w /= np.linalg.norm(w)
    q = rotation(rng, num_features)
    # Row after row: n + 1 examples begin with the n.
    drawn = rng.normal(size=(num_examples, num_features + 1))
    z = drawn[:, :-1]
    found.append((z, z @ w + noise * drawn[:, -1], w, q))
  return Problems(*(np.stack(parts) for parts in zip(*found, strict=True)))


def cross_validated(
    features: np.ndarray,
    targets: np.ndarray,
    shares: np.ndarray,
    *,
    num_folds: int,
    sparse: bool,
    tolerance: float = 1e-3,
    max_sweeps: int = 200,
) -> np.ndarray:
  """Returns the predictors `[P, m]`, their penalty chosen by cross-validation.

  Run it in float64, `jax.enable_x64`: many features, few examples.

  Args:
    features: `[P, n, m]`.
    targets: `[P, n]`.
    shares: of `l1_penalty` or `l2_penalty`, falling, `[S]`.
    num_folds: which divide n; the examples have no order.
    sparse: the lasso, else ridge.
    tolerance: of the lasso's solver.
    max_sweeps: of it.

  Raises:
    ValueError: the folds do not divide n.
  """
  num_problems, num_examples, _ = features.shape
  if num_examples % num_folds or num_folds < 2:
    raise ValueError(
        f'{num_examples} examples do not come in {num_folds} equal folds of two'
        ' or more.'
    )
  folds = np.arange(num_examples) % num_folds
  options = {'tolerance': tolerance, 'max_sweeps': max_sweeps}
  errors = np.zeros((num_problems, len(shares)))
  for fold in range(num_folds):
    there, out = folds != fold, folds == fold
    w = _paths(
        features[:, there], targets[:, there], shares, sparse=sparse, **options
    )
    predicted = np.einsum('pnm,psm->psn', features[:, out], w)
    errors += np.square(predicted - targets[:, None, out]).sum(axis=-1)
  best = errors.argmin(axis=1)
  w = _paths(features, targets, shares, sparse=sparse, **options)
  return w[np.arange(num_problems), best]


def population_r2(
    found: np.ndarray, truth: np.ndarray, *, noise: float
) -> np.ndarray:
  """Returns R^2 on all of the population, `[P]`; see above.

  Args:
    found: predictors of z, `[P, m]`.
    truth: w*, `[P, m]`.
    noise: s.
  """
  risk = np.square(found - truth).sum(axis=-1)
  return 1 - (risk + noise**2) / (1 + noise**2)


def ridge_risk(num_examples, *, num_features: int, noise: float):
  """Returns the limit of |w - w*|^2 for ridge with the best lambda.

  For independent features of variance 1, |w*| = 1 and g = m / n, with the best
  lambda = s^2 g,

    |w - w*|^2 -> s^2 g v(lambda),
    v(lambda) = ( sqrt((1 - g + lambda)^2 + 4 g lambda) - (1 - g + lambda) )
                / (2 g lambda),

  the Stieltjes transform of the law of Marchenko and Pastur.

  Args:
    num_examples: n, a number or an array.
    num_features: m.
    noise: s, positive.
  """
  aspect = num_features / np.asarray(num_examples, float)
  penalty = noise**2 * aspect
  rest = 1 - aspect + penalty
  root = np.sqrt(rest**2 + 4 * aspect * penalty)
  return noise**2 * (root - rest) / (2 * penalty)


@functools.partial(jax.jit, static_argnames=('tolerance', 'max_sweeps'))
def _lasso_paths(grams, correlations, shares, *, tolerance, max_sweeps):
  def one(gram, correlation):
    penalties = sparse_predictors.l1_penalty(correlation, shares)
    return sparse_predictors.lasso_path(
        gram, correlation, penalties, tolerance=tolerance, max_sweeps=max_sweeps
    )

  return jax.vmap(one)(grams, correlations)


@jax.jit
def _ridge_paths(grams, correlations, shares):
  def one(gram, correlation):
    penalties = sparse_predictors.l2_penalty(gram, shares)
    return sparse_predictors.ridge_path(gram, correlation, penalties)

  return jax.vmap(one)(grams, correlations)


def _paths(features, targets, shares, *, sparse, tolerance, max_sweeps):
  """Returns w `[P, S, m]` for every share."""
  # On the host: the compiled programs then see one shape for every n.
  num_examples = features.shape[1]
  grams = features.transpose(0, 2, 1) @ features / num_examples
  correlations = np.einsum('pnm,pn->pm', features, targets) / num_examples
  if sparse:
    found = _lasso_paths(
        grams, correlations, shares, tolerance=tolerance, max_sweeps=max_sweeps
    )
  else:
    found = _ridge_paths(grams, correlations, shares)
  return np.asarray(found)
