"""The lasso, its derivative on the support, and ridge, against dense truths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

from taskvec_jax.studies import sparse_predictors

_TIGHT = {'tolerance': 1e-14, 'max_sweeps': 20_000}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _problem(seed=0, num_examples=25, num_features=8):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(num_examples, num_features))
  w = rng.normal(size=num_features) * (np.arange(num_features) < 3)
  return features, features @ w + 0.3 * rng.normal(size=num_examples)


@pytest.mark.parametrize('share', [0.9, 0.3, 0.05])
def test_the_lasso_is_scikit_learns(share):
  features, targets = _problem()
  gram, correlation = sparse_predictors.moments(features, targets)
  penalty = sparse_predictors.l1_penalty(correlation, share)
  found = sparse_predictors.lasso(gram, correlation, penalty, **_TIGHT)
  theirs = linear_model.Lasso(
      alpha=float(penalty), fit_intercept=False, tol=1e-14, max_iter=100_000
  ).fit(features, targets)
  np.testing.assert_allclose(found, theirs.coef_, atol=1e-9)
  off = sparse_predictors.violation(gram, correlation, penalty, found)
  assert off <= 1e-14
  # A coefficient more or less is seen.
  moved = found.at[0].add(0.01)
  assert sparse_predictors.violation(gram, correlation, penalty, moved) > 1e-3


def test_a_share_of_one_is_the_least_penalty_that_leaves_nothing():
  features, targets = _problem()
  moments = sparse_predictors.moments(features, targets)
  for share, number in ((1.0, 0), (0.99, 1)):
    penalty = sparse_predictors.l1_penalty(moments[1], share)
    w = sparse_predictors.lasso(*moments, penalty)
    assert np.count_nonzero(w) == number


def test_ridge_is_scikit_learns_and_its_path_is_ridge():
  features, targets = _problem()
  gram, correlation = sparse_predictors.moments(features, targets)
  penalties = np.array([1.0, 0.01])
  path = sparse_predictors.ridge_path(gram, correlation, penalties)
  for penalty, w in zip(penalties, path, strict=True):
    theirs = linear_model.Ridge(
        alpha=penalty * len(targets), fit_intercept=False
    ).fit(features, targets)
    np.testing.assert_allclose(w, theirs.coef_, rtol=1e-8)
    np.testing.assert_allclose(
        sparse_predictors.ridge(gram, correlation, penalty), w, rtol=1e-8
    )


def test_predictions_do_not_know_the_scale_of_the_features():
  features, targets = _problem()

  def predictions(features, sparse):
    gram, correlation = sparse_predictors.moments(features, targets)
    if sparse:
      penalty = sparse_predictors.l1_penalty(correlation, 0.2)
      return features @ sparse_predictors.lasso(
          gram, correlation, penalty, **_TIGHT
      )
    penalty = sparse_predictors.l2_penalty(gram, 0.2)
    return features @ sparse_predictors.ridge(gram, correlation, penalty)

  for sparse in (True, False):
    np.testing.assert_allclose(
        predictions(features, sparse),
        predictions(7 * features, sparse),
        atol=1e-10,
    )


def test_a_warm_path_ends_where_cold_starts_do():
  features, targets = _problem(num_examples=6)  # fewer examples than features
  gram, correlation = sparse_predictors.moments(features, targets)
  penalties = sparse_predictors.l1_penalty(
      correlation, jnp.array([0.5, 0.2, 0.1])
  )
  path = sparse_predictors.lasso_path(gram, correlation, penalties, **_TIGHT)
  for penalty, w in zip(penalties, path, strict=True):
    np.testing.assert_allclose(
        w,
        sparse_predictors.lasso(gram, correlation, penalty, **_TIGHT),
        atol=1e-8,
    )


@pytest.fixture(scope='module')
def outer():
  """The outer loss of trained linear features, with the penalty given."""

  def loss(theta, penalty, inputs, targets):
    features = inputs @ theta
    gram, correlation = sparse_predictors.moments(features, targets)
    w = sparse_predictors.lasso(gram, correlation, penalty, **_TIGHT)
    return sparse_predictors.loss(features, targets, w)

  return loss


def test_the_implicit_gradient_is_that_of_finite_differences(outer):
  value = jax.jit(outer)
  slopes = jax.jit(jax.grad(outer, argnums=(0, 1, 2, 3)))
  step = 1e-6
  for seed in range(3):
    inputs, targets = _problem(seed)
    rng = np.random.default_rng([seed, 1])
    theta = rng.normal(size=(8, 5))
    _, correlation = sparse_predictors.moments(inputs @ theta, targets)
    at = theta, sparse_predictors.l1_penalty(correlation, 0.2), inputs, targets
    gradient = slopes(*at)
    # Along each argument alone, in a random direction.
    for index, part in enumerate(gradient):
      direction = rng.normal(size=np.shape(at[index]))
      sides = [
          value(*at[:index], at[index] + by * direction, *at[index + 1 :])
          for by in (step, -step)
      ]
      expected = (sides[0] - sides[1]) / (2 * step)
      found = np.vdot(part, direction)
      assert found == pytest.approx(float(expected), rel=1e-5)


def test_both_modes_of_the_derivative_agree():
  gram, correlation = sparse_predictors.moments(*_problem())

  def w(penalty):
    return sparse_predictors.lasso(gram, correlation, penalty, **_TIGHT)

  penalty = sparse_predictors.l1_penalty(correlation, 0.2)
  forward = jax.jacfwd(w)(penalty)
  np.testing.assert_allclose(forward, jax.jacrev(w)(penalty), atol=1e-12)
  assert np.all((np.asarray(forward) == 0) == (np.asarray(w(penalty)) == 0))


def test_unrolled_sweeps_converge_to_the_implicit_derivative():
  gram, correlation = sparse_predictors.moments(*_problem())
  penalty = sparse_predictors.l1_penalty(correlation, 0.2)
  start = jnp.zeros_like(correlation)

  def way(penalty):
    return sparse_predictors.sweeps(gram, correlation, penalty, start, num=60)

  unrolled = jax.jacfwd(way)(penalty)
  w = sparse_predictors.lasso(gram, correlation, penalty, **_TIGHT)
  exact = sparse_predictors.support_solve(gram, w, -jnp.sign(w))
  errors = np.linalg.norm(unrolled - exact, axis=1)
  assert errors[0] > 1e-3
  assert errors[-1] < 1e-10


def test_no_derivative_is_taken_of_the_largest_penalty():
  features, targets = _problem()
  share, eps = 0.2, 1e-6
  gradient = jax.grad(
      lambda f: sparse_predictors.outer_loss(
          f, targets, share=share, sparse=True
      )
  )(features)
  _, correlation = sparse_predictors.moments(features, targets)
  held = float(sparse_predictors.l1_penalty(correlation, share))

  def loss(features):
    moments = sparse_predictors.moments(features, targets)
    w = sparse_predictors.lasso(*moments, held, **_TIGHT)
    return float(sparse_predictors.loss(features, targets, w))

  direction = np.random.default_rng(1).normal(size=features.shape)
  expected = loss(features + eps * direction) - loss(features - eps * direction)
  found = float(np.vdot(gradient, direction))
  assert found == pytest.approx(expected / (2 * eps), rel=1e-4)
