"""The world of the paper's figure: closed forms against draws."""

import jax
import numpy as np
import pytest
from sklearn import linear_model

from taskvec_jax.studies import sparse_regression

_SIZES = dict(num_problems=2, num_features=12, num_useful=3, noise=0.2)


def test_population_r2_is_that_of_many_draws():
  problems = sparse_regression.problems(0, num_examples=200_000, **_SIZES)
  rng = np.random.default_rng(1)
  w = problems.coefficients + 0.1 * rng.normal(size=(2, 12))
  rest = problems.targets - np.einsum('pnm,pm->pn', problems.factors, w)
  measured = 1 - np.square(rest).mean(1) / np.square(problems.targets).mean(1)
  np.testing.assert_allclose(
      sparse_regression.population_r2(w, problems.coefficients, noise=0.2),
      measured,
      atol=5e-3,
  )
  assert (np.count_nonzero(problems.coefficients, axis=1) == 3).all()


def test_more_examples_begin_with_the_fewer():
  few, many = (
      sparse_regression.problems(3, num_examples=n, **_SIZES) for n in (5, 9)
  )
  np.testing.assert_array_equal(few.factors, many.factors[:, :5])
  # Targets go through a sum, whose order may depend on the shape.
  np.testing.assert_allclose(few.targets, many.targets[:, :5], rtol=1e-12)
  np.testing.assert_array_equal(few.coefficients, many.coefficients)


def test_cross_validation_chooses_as_scikit_learn_does():
  problems = sparse_regression.problems(0, num_examples=20, **_SIZES)
  shares = np.array([0.5, 0.1, 0.02])
  with jax.enable_x64(True):
    found = sparse_regression.cross_validated(
        problems.factors,
        problems.targets,
        shares,
        num_folds=4,
        sparse=True,
        tolerance=1e-10,
        max_sweeps=5000,
    )
  for x, y, w in zip(problems.factors, problems.targets, found, strict=True):
    fits, errors = [], []
    for share in shares:

      def fit(x, y, share=share):
        alpha = share * np.abs(x.T @ y).max() / len(y)
        return (
            linear_model.Lasso(alpha, fit_intercept=False, tol=1e-10)
            .fit(x, y)
            .coef_
        )

      folds = np.arange(20) % 4
      errors.append(
          sum(
              np.square(
                  y[folds == k]
                  - x[folds == k] @ fit(x[folds != k], y[folds != k])
              ).sum()
              for k in range(4)
          )
      )
      fits.append(fit(x, y))
    np.testing.assert_allclose(w, fits[int(np.argmin(errors))], atol=1e-6)


def test_ridge_does_not_see_a_rotation_and_the_lasso_does():
  problems = sparse_regression.problems(0, num_examples=20, **_SIZES)
  turned = problems.factors @ problems.rotations.transpose(0, 2, 1)
  with jax.enable_x64(True):
    for sparse in (False, True):
      plain, rotated = (
          sparse_regression.cross_validated(
              x,
              problems.targets,
              np.array([0.5, 0.1, 0.02]),
              num_folds=4,
              sparse=sparse,
              tolerance=1e-10,
              max_sweeps=5000,
          )
          for x in (problems.factors, turned)
      )
      back = np.einsum('pk,pkm->pm', rotated, problems.rotations)
      apart = np.abs(back - plain).max()
      assert (apart < 1e-10) == (not sparse)


@pytest.mark.parametrize('num_examples', [100, 400])
def test_the_law_of_ridge_is_what_large_problems_do(num_examples):
  num_features, noise = 200, 0.5
  rng = np.random.default_rng(0)
  risks = []
  for _ in range(20):
    x = rng.normal(size=(num_examples, num_features))
    w = rng.normal(size=num_features)
    w /= np.linalg.norm(w)
    y = x @ w + noise * rng.normal(size=num_examples)
    penalty = noise**2 * num_features / num_examples
    gram = x.T @ x / num_examples + penalty * np.eye(num_features)
    found = np.linalg.solve(gram, x.T @ y / num_examples)
    risks.append(np.square(found - w).sum())
  law = sparse_regression.ridge_risk(
      num_examples, num_features=num_features, noise=noise
  )
  error = np.std(risks, ddof=1) / np.sqrt(len(risks))
  assert abs(np.mean(risks) - law) < 3 * error + 0.01 * law


def test_sizes_without_sense_are_refused():
  with pytest.raises(ValueError, match='1 to num_features = 12 but is 13'):
    sparse_regression.problems(
        0, num_examples=4, **{**_SIZES, 'num_useful': 13}
    )
  with pytest.raises(ValueError, match='5 examples do not come in 2 equal'):
    sparse_regression.cross_validated(
        np.ones((1, 5, 2)),
        np.ones((1, 5)),
        np.ones(1),
        num_folds=2,
        sparse=True,
    )
