"""Limits and risks of finetuned linear teachers, against direct computation."""

import math

import numpy as np
import pytest
from scipy import integrate

from taskvec_jax.studies import linear_teachers

_D, _N = 12, 4


def problem(seed=0):
  rng = np.random.default_rng(seed)
  source, target = rng.normal(size=(2, _D))
  return source, target, rng.normal(size=(_N, _D))


def projection(inputs):
  """The textbook's `X' (X X')^-1 X`."""
  return inputs.T @ np.linalg.solve(inputs @ inputs.T, inputs)


def test_the_basis_spans_the_rows_and_drops_what_repeats():
  _, target, inputs = problem()
  basis = linear_teachers.row_space(inputs)
  np.testing.assert_allclose(basis @ basis.T, projection(inputs), atol=1e-12)
  np.testing.assert_allclose(
      linear_teachers.seen(basis, target), projection(inputs) @ target
  )
  repeated = np.concatenate([inputs, inputs[:2]])
  assert linear_teachers.row_space(repeated).shape == (_D, _N)


def test_one_layer_ends_at_the_interpolator_nearest_to_the_source():
  source, target, inputs = problem()
  found = linear_teachers.finetuned(source, target, inputs, num_layers=1)
  nearest = source + np.linalg.pinv(inputs) @ (inputs @ (target - source))
  np.testing.assert_allclose(found, nearest, atol=1e-12)
  covariance = np.linspace(0.1, 2, _D)
  np.testing.assert_allclose(
      linear_teachers.finetuned_risk(source, target, inputs, covariance),
      linear_teachers.risk(nearest, target, covariance),
      rtol=1e-10,
  )


@pytest.mark.parametrize('num_layers', [2, 3, 7])
@pytest.mark.parametrize('size', [0.3, 2.0])
def test_the_end_to_end_flow_ends_at_the_formula(num_layers, size):
  source, target, inputs = problem(1)
  target = size * target
  gram = inputs.T @ inputs / _N

  def velocity(_, beta):  # (S2.2)
    g = gram @ (beta - target)
    norm = np.linalg.norm(beta)
    along = (num_layers - 1) * beta * (beta @ g) / norm**2
    return -(norm ** (2 - 2 / num_layers)) * (g + along)

  end = integrate.solve_ivp(
      velocity, (0, 60), source, method='DOP853', rtol=1e-10, atol=1e-12
  ).y[:, -1]
  found = linear_teachers.finetuned(
      source, target, inputs, num_layers=num_layers
  )
  np.testing.assert_allclose(found, end, atol=1e-7 * np.linalg.norm(end))


def test_more_layers_go_to_the_limit_that_forgets_the_sources_length():
  source, target, inputs = problem(2)
  ends = [
      linear_teachers.finetuned(scale * source, target, inputs, num_layers=many)
      for many in (10**6, math.inf)
      for scale in (0.1, 10.0)
  ]
  np.testing.assert_allclose(ends[2], ends[3], rtol=1e-12)
  np.testing.assert_allclose(ends[0], ends[2], rtol=1e-4)
  one, other = (
      linear_teachers.finetuned(scale * source, target, inputs, num_layers=1)
      for scale in (0.1, 10.0)
  )
  assert np.linalg.norm(one - other) > 1


@pytest.mark.parametrize('num_layers', [1, 2, 3.5, 7, 100])
def test_growth_solves_its_equation_at_the_larger_root(num_layers):
  a, b = np.meshgrid([0.0, 1e-9, 0.3, 0.999, 1.0], [0.0, 1e-12, 0.2, 50.0])
  kappa = linear_teachers.growth(a, b, num_layers=num_layers)
  q = a * kappa**2 + b  # (rho / |theta_S|)^2
  power = 1 - 1 / num_layers
  np.testing.assert_allclose(kappa, q ** (power / 2), rtol=1e-9)
  # Never below what the flow cannot cross; at B = 0 exactly there, not at 0.
  assert np.all(q >= a**num_layers * (1 - 1e-9))
  np.testing.assert_allclose(q[0], a[0] ** num_layers, rtol=1e-9)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ((0.5, 0.5, 0.5), 'num_layers must be at least 1 but is 0.5'),
        ((1.5, 0.5, 2), 'unseen_share must be from 0 to 1'),
        ((0.5, -0.5, 2), 'seen_size not negative'),
        ((1.0, 0.5, math.inf), 'infinitely many layers'),
    ],
)
def test_growth_refuses_what_has_no_limit(arguments, sentence):
  with pytest.raises(ValueError, match=sentence):
    linear_teachers.growth(*arguments[:2], num_layers=arguments[2])


def test_a_network_that_starts_at_zero_is_refused_but_one_layer_is_not():
  _, target, inputs = problem()
  zero = np.zeros(_D)
  np.testing.assert_allclose(
      linear_teachers.finetuned(zero, target, inputs, num_layers=1),
      projection(inputs) @ target,
  )
  with pytest.raises(ValueError, match='does not move'):
    linear_teachers.finetuned(zero, target, inputs, num_layers=2)
  with pytest.raises(ValueError, match='must be'):
    linear_teachers.finetuned(zero[1:], target, inputs, num_layers=1)


@pytest.mark.parametrize('num_layers', [1, 7, math.inf])
def test_the_mean_risk_over_inputs_is_that_of_large_dimensions(num_layers):
  d, n, alpha, cosine = 200, 40, 1.5, 0.6
  rng = np.random.default_rng(3)
  source, other = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
  target = alpha * (cosine * source + math.sqrt(1 - cosine**2) * other)
  risks = [
      linear_teachers.risk(
          linear_teachers.finetuned(
              source, target, rng.normal(size=(n, d)), num_layers=num_layers
          ),
          target,
          np.ones(d),
      )
      for _ in range(40)
  ]
  law = linear_teachers.typical_risk(
      n / d, alpha, cosine, num_layers=num_layers
  )
  error = np.std(risks) / math.sqrt(len(risks))
  assert abs(np.mean(risks) - law) < 4 * error
  assert error < 0.03 * law


def test_a_coverage_of_all_or_nothing_is_refused():
  with pytest.raises(ValueError, match='coverage must lie between 0 and 1'):
    linear_teachers.typical_risk(1.0, 1.0, 0.5, num_layers=2)


def test_direction_weights_are_the_mean_risk_of_a_unit_difference():
  d, n = 100, 30
  covariance = np.arange(1, d + 1) ** -0.5
  weights = linear_teachers.direction_weights(covariance, num_examples=n)
  rng = np.random.default_rng(4)
  total = np.zeros(d)
  for _ in range(100):
    basis = linear_teachers.row_space(
        rng.normal(size=(n, d)) * np.sqrt(covariance)
    )
    unseen = np.eye(d) - basis @ basis.T
    total += np.sum(covariance[:, None] * unseen**2, axis=0)
  by_band = (total / 100).reshape((10, -1)).mean(axis=1)
  np.testing.assert_allclose(
      by_band, weights.reshape((10, -1)).mean(axis=1), rtol=0.06
  )
  # Highest where the data resolve the directions, not at either end.
  ridge = linear_teachers.effective_ridge(covariance, num_examples=n)
  at = np.argmin(np.abs(np.log(covariance / ridge)))
  assert 0 < at < d - 1
  assert np.argmax(weights) == pytest.approx(at, abs=1)


def test_direction_weights_of_isotropic_inputs_are_the_unseen_share():
  weights = linear_teachers.direction_weights(np.full(20, 3.0), num_examples=5)
  np.testing.assert_allclose(weights, 3.0 * 0.75)
  with pytest.raises(ValueError, match='num_examples must be from 1 to 19'):
    linear_teachers.direction_weights(np.ones(20), num_examples=20)
