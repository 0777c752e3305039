"""The exact mean forgetting, against rotations drawn and multiplied out."""

import math

import numpy as np
import pytest

from taskvec_jax.studies import expected_forgetting
from taskvec_jax.studies import forgetting

SIZES = {'num_features': 30, 'num_examples': 8, 'num_latent': 3, 'gamma': 0.5}
RULES = (
    forgetting.SEQUENCE,
    forgetting.ADDITION,
    forgetting.Rule(0.0, 1.0, True),
    forgetting.Rule(-0.4, 1.3, True),
    forgetting.Rule(0.5, -0.7, False),
)
# Converged, one step, a few steps.
LENGTHS = ((None, None), (0.02, 1), (0.02, 7))


def problem(seed=0, **changes):
  rng = np.random.default_rng(seed)
  return forgetting.draw(rng, **{**SIZES, **changes}), rng


def dense_rotation(rng, p):
  """A Haar rotation by another way than the package's: QR, signs mended."""
  q, r = np.linalg.qr(rng.standard_normal((p, p)))
  return q * np.sign(np.diag(r))


def descend(inputs, targets, start, learning_rate, num_epochs):
  params = start
  for _ in range(num_epochs):
    error = inputs @ params - targets
    params = params - learning_rate * inputs.T @ error / len(targets)
  return params


def dense_end(task, inputs, start, learning_rate, num_epochs):
  """Trains `inputs` from `start`, with no basis and no eigenvalue."""
  if learning_rate is None:
    missed = task.targets - inputs @ start
    return start + np.linalg.pinv(inputs) @ missed
  return descend(inputs, task.targets, start, learning_rate, num_epochs)


def dense_risk(task, rotation, params):
  """E (y - x'v)^2 by covariances, x turned."""
  features = rotation @ task.features
  sigma = features @ features.T + np.eye(len(features))
  return (
      task.theta @ task.theta
      - 2 * params @ features @ task.theta
      + params @ sigma @ params
  )


@pytest.mark.parametrize(('learning_rate', 'num_epochs'), LENGTHS)
def test_a_drawn_frame_is_the_rotation_multiplied_out(
    learning_rate, num_epochs
):
  task, rng = problem()
  rotation = dense_rotation(rng, 30)
  first = forgetting.trained(
      task, learning_rate=learning_rate, num_epochs=num_epochs
  )
  basis = forgetting.task_basis(task, first.basis)
  frame = rotation @ basis
  risks = forgetting.measured_risks(task, first, [frame], RULES)
  zero = np.zeros(30)
  turned = task.inputs @ rotation.T
  numbers = (learning_rate, num_epochs)
  a = dense_end(task, task.inputs, zero, *numbers)
  beside = dense_end(task, turned, zero, *numbers)
  after = dense_end(task, turned, a, *numbers) - a
  for rule, (on_a, on_b) in zip(RULES, risks[0], strict=True):
    params = rule.first * a + rule.second * (
        after if rule.sequential else beside
    )
    assert on_a == pytest.approx(dense_risk(task, np.eye(30), params), rel=1e-9)
    assert on_b == pytest.approx(dense_risk(task, rotation, params), rel=1e-9)
  # And task B itself, which gradient descent is given.
  other = forgetting.turned(task, basis, frame)
  np.testing.assert_allclose(other.inputs, turned, atol=1e-10)
  np.testing.assert_allclose(
      other.features, rotation @ task.features, atol=1e-10
  )
  np.testing.assert_allclose(
      forgetting.trained_from(
          a, other, learning_rate=learning_rate, num_epochs=num_epochs
      ),
      a + after,
      atol=1e-10,
  )


@pytest.mark.parametrize(('learning_rate', 'num_epochs'), LENGTHS)
def test_exact_means_are_within_3_standard_errors_of_2000_dense_rotations(
    learning_rate, num_epochs
):
  task, rng = problem(seed=1, num_features=14, num_examples=6)
  first = forgetting.trained(
      task, learning_rate=learning_rate, num_epochs=num_epochs
  )
  basis = forgetting.task_basis(task, first.basis)
  frames = (dense_rotation(rng, 14) @ basis for _ in range(2000))
  risks = forgetting.measured_risks(task, first, frames, RULES)
  errors = risks.std(0, ddof=1) / math.sqrt(len(risks))
  exact = np.array(
      [expected_forgetting.expected_risks(task, first, rule) for rule in RULES]
  )
  np.testing.assert_array_less(np.abs(risks.mean(0) - exact), 3 * errors)


@pytest.mark.parametrize('p', [12, 16, 30, 60, 120])
def test_the_forgetting_is_within_3_standard_errors_at_five_values_of_p(p):
  task, rng = problem(seed=p, num_features=p)
  first = forgetting.trained(task)
  frames = (forgetting.haar_frame(rng, p, 11) for _ in range(2000))
  risks = forgetting.measured_risks(task, first, frames, [forgetting.SEQUENCE])[
      :, 0, 0
  ]
  exact, _ = expected_forgetting.expected_risks(
      task, first, forgetting.SEQUENCE
  )
  error = risks.std(ddof=1) / math.sqrt(len(risks))
  assert abs(risks.mean() - exact) < 3 * error


def test_in_one_feature_more_than_examples_the_mean_is_the_integral():
  # p = 2, n = 1: a rotation is an angle (a reflection gives the same tau), and
  # the mean an integral over the circle.
  rng = np.random.default_rng(3)
  task = forgetting.Regression(
      rng.normal(size=(1, 2)),
      rng.normal(size=1),
      rng.normal(size=(2, 1)),
      rng.normal(size=1),
  )
  first = forgetting.trained(task)
  values = []
  for angle in np.arange(720) * (2 * np.pi / 720):
    cos, sin = np.cos(angle), np.sin(angle)
    for flip in (1, -1):
      rotation = np.array([[cos, -sin], [sin, cos]]) @ np.diag([1, flip])
      a = first.params
      end = dense_end(task, task.inputs @ rotation.T, a, None, None)
      values.append(
          (
              dense_risk(task, np.eye(2), end),
              dense_risk(task, rotation, end),
          )
      )
  # Trapezoid sums of trigonometric polynomials are exact.
  np.testing.assert_allclose(
      expected_forgetting.expected_risks(task, first, forgetting.SEQUENCE),
      np.mean(values, axis=0),
      rtol=1e-12,
  )


def test_the_general_mean_is_the_formula_written_with_a_projection():
  task, _ = problem(seed=4)
  n, p, d, gamma = 8, 30, 3, 0.5
  first = forgetting.trained(task)
  b = first.params
  r2 = b @ b
  signal = task.features.T @ b
  pi = signal @ signal / (p * gamma)  # |P_W b|^2
  c = r2**2 * (1 / p + n * (n + 2) / (p * (p + 2)))
  across = r2 * (1 + n / p) - c / r2
  sigma = task.features @ task.features.T + np.eye(p)
  best = np.linalg.solve(sigma, task.features @ task.theta)
  gap = (
      p * gamma * (c * pi / r2**2 + across * (d - pi / r2) / (p - 1))
      + r2 * (1 + n / p)
      - 2 * n / p * b @ sigma @ (b - best)
  )
  after, _ = expected_forgetting.expected_risks(
      task, first, forgetting.SEQUENCE
  )
  assert after - forgetting.risk(task, b) == pytest.approx(gap, rel=1e-10)
  # The sum forgets r^2 (1 + gamma d), on either task.
  sums = expected_forgetting.expected_risks(task, first, forgetting.ADDITION)
  own = forgetting.risk(task, b)
  np.testing.assert_allclose(
      np.subtract(sums, own), r2 * (1 + gamma * d), rtol=1e-10
  )


def test_the_least_risk_is_that_of_the_best_linear_predictor():
  task, rng = problem(seed=5)
  sigma = task.features @ task.features.T + np.eye(30)
  best = np.linalg.solve(sigma, task.features @ task.theta)
  null = task.theta @ task.theta
  assert forgetting.risk(task, best) == pytest.approx(null / (30 * 0.5 + 1))
  assert forgetting.risk(task, np.zeros(30)) == pytest.approx(null)
  # And it is the mean squared error of examples drawn by the model.
  v = rng.standard_normal(30) / 10
  z = rng.standard_normal((100_000, 3))
  x = z @ task.features.T + rng.standard_normal((100_000, 30))
  squares = (z @ task.theta - x @ v) ** 2
  assert forgetting.risk(task, v) == pytest.approx(
      squares.mean(), abs=4 * squares.std() / math.sqrt(100_000)
  )


def test_no_other_scaling_of_the_sum_has_a_lower_mean_risk():
  task, _ = problem(seed=6)
  first = forgetting.trained(task, learning_rate=0.02, num_epochs=5)

  def mean_risk(alpha):
    rule = forgetting.Rule(alpha, alpha, False)
    return expected_forgetting.expected_risks(task, first, rule)

  best = expected_forgetting.best_scaling(task, first)
  for other in (best - 0.01, best + 0.01, 0.5, 1.0):
    assert np.all(np.array(mean_risk(other)) > mean_risk(best))


def test_a_frame_is_orthonormal_and_a_permutation_is_one():
  task, rng = problem()
  basis = forgetting.task_basis(task, forgetting.trained(task).basis)
  frames = [
      forgetting.haar_frame(rng, 30, 11),
      forgetting.haar_frame(rng, 11, 11),
      forgetting.permuted_frame(rng, basis),
      basis,
  ]
  for frame in frames:
    np.testing.assert_allclose(frame.T @ frame, np.eye(11), atol=1e-10)
  np.testing.assert_array_equal(
      np.sort(frames[2], axis=0), np.sort(basis, axis=0)
  )
  # Entries of a Haar column have mean square 1/p in every row and column.
  many = np.stack([forgetting.haar_frame(rng, 12, 5) for _ in range(2000)])
  np.testing.assert_allclose((many**2).mean(0), 1 / 12, atol=0.012)
  np.testing.assert_allclose(many.mean(0), 0, atol=0.03)


def test_many_steps_end_in_the_solution_of_least_norm():
  task, _ = problem()
  end = forgetting.trained(task, learning_rate=0.02, num_epochs=100_000)
  exact = forgetting.trained(task)
  np.testing.assert_allclose(end.params, exact.params, atol=1e-12)
  np.testing.assert_allclose(
      exact.params, np.linalg.pinv(task.inputs) @ task.targets
  )


# At the smaller ones what is learned of A, m, is well below 1.
@pytest.mark.parametrize('gamma', [0.5, 0.05, 0.02])
def test_the_law_is_the_mean_at_many_features_and_the_bound_lies_above(gamma):
  sizes = dict(num_features=6000, num_examples=100, num_latent=4, gamma=gamma)
  task = forgetting.draw(np.random.default_rng(0), **sizes)
  first = forgetting.trained(task)
  after, _ = expected_forgetting.expected_risks(
      task, first, forgetting.SEQUENCE
  )
  null = task.theta @ task.theta
  gap = (after - forgetting.risk(task, first.params)) / null
  assert gap == pytest.approx(
      expected_forgetting.leading_law(**sizes), rel=0.06
  )
  assert expected_forgetting.bound_applies(**sizes)
  assert (
      gap
      < expected_forgetting.relative_bound(
          num_features=6000, num_examples=100, gamma=gamma
      )
      == pytest.approx(66 * math.sqrt(1 / 60) + 12 / (6000 * gamma))
  )


@pytest.mark.parametrize(
    ('changes', 'applies'),
    [
        ({}, True),
        ({'num_features': 1699}, False),  # below 17 n
        ({'num_latent': 101}, False),  # more hidden features than examples
        ({'gamma': 1 / 1701}, False),  # 1/gamma above p
        ({'gamma': 1 / 1699}, True),
    ],
)
def test_the_bound_is_for_n_at_least_d_and_p_at_least_17_n_and_1_over_gamma(
    changes, applies
):
  sizes = dict(num_features=1700, num_examples=100, num_latent=20, gamma=1.0)
  assert expected_forgetting.bound_applies(**{**sizes, **changes}) is applies


@pytest.mark.parametrize(
    ('call', 'sentence'),
    [
        (
            lambda: problem(num_features=10),
            '10 features are fewer than n [+] d',
        ),
        (lambda: problem(num_latent=0), '0 hidden features'),
        (lambda: problem(gamma=0.0), 'gamma must be positive and finite'),
        (
            lambda: forgetting.trained(problem()[0], num_epochs=3),
            'learning_rate is None and num_epochs is 3',
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(call, sentence):
  with pytest.raises(ValueError, match=sentence):
    call()
