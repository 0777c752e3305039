"""What training objectives add, against expectations; EWC against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.studies import continual_merging
from taskvec_jax.studies import quadratic_tasks
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Params

pytestmark = pytest.mark.usefixtures('x64')

NUMBERS = dict(epsilon=0.5, probability=0.3)
MATRIX = np.array([[3.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 1.0]])
MINIMUM = np.array([1.0, -2.0, 0.5])
# NumPy's: arrays of JAX made here would be float32.
PREVIOUS: Params = {'a': np.array([0.3, 0.1]), 'b': np.array([-0.4])}
PARAMS: Params = {'a': np.array([1.2, -1.0]), 'b': np.array([0.1])}


def flat(params):
  return jnp.concatenate([params['a'], params['b']])


def loss_fn(params, batch=None):
  del batch
  away = flat(params) - MINIMUM
  return 0.5 * away @ MATRIX @ away


def over_draws(objective, *data, num_draws=20_000):
  """Returns losses `[n]` and gradients `[n, 3]`, a draw each."""
  keys = jax.random.split(jax.random.key(3), num_draws)
  bound = jax.tree_util.Partial(objective, jax.tree_util.Partial(loss_fn))

  @jax.jit
  def run(keys):
    return jax.vmap(lambda key: bound(*data, PARAMS, (None, key)))(keys)

  losses, gradients = run(keys)
  return np.asarray(losses), np.concatenate(
      [gradients['a'], gradients['b']], axis=1
  )


def assert_mean(draws, expected):
  """Within four standard errors."""
  error = draws.std(0) / np.sqrt(len(draws))
  np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 4 * error)


def test_descent_on_the_perturbed_quadratic_stops_short_on_the_same_line():
  expected_fn = perturb_and_merge.perturbed_loss(loss_fn, PREVIOUS, **NUMBERS)
  *_, (params, _) = gradient_descent.trajectory(
      PREVIOUS,
      jax.jit(jax.value_and_grad(expected_fn)),
      learning_rate=0.4,
      num_epochs=100,
  )
  factor = continual_merging.shortening(**NUMBERS)
  assert factor == pytest.approx(1 / 1.15, rel=1e-14)
  start = flat(PREVIOUS)
  np.testing.assert_allclose(
      flat(params) - start, factor * (MINIMUM - start), atol=1e-12
  )


def test_a_draw_of_perturbed_training_is_unbiased():
  objective = continual_merging.perturbed_objective(**NUMBERS)
  losses, gradients = over_draws(objective, PREVIOUS)
  expected_fn = perturb_and_merge.perturbed_loss(loss_fn, PREVIOUS, **NUMBERS)
  value, gradient = jax.value_and_grad(expected_fn)(PARAMS)
  assert_mean(losses, float(value))
  assert_mean(gradients, np.asarray(flat(gradient)))


def test_noise_adds_the_mean_curvature_and_no_force():
  objective = continual_merging.noise_objective(**NUMBERS)
  losses, gradients = over_draws(objective, PREVIOUS)
  length = float(jnp.sum((flat(PARAMS) - flat(PREVIOUS)) ** 2))
  added = 0.3 * 0.5**2 * length * np.trace(MATRIX) / 3
  assert_mean(losses, float(loss_fn(PARAMS)) + added)
  assert_mean(gradients, MATRIX @ (np.asarray(flat(PARAMS)) - MINIMUM))


def test_noise_has_the_mean_square_length_of_delta():
  delta = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([4.0])}
  keys = jax.random.split(jax.random.key(0), 5_000)
  draws = jax.vmap(
      lambda key: flat(continual_merging.gaussian_like(key, delta))
  )(keys)
  assert_mean(np.sum(np.asarray(draws) ** 2, axis=1), 25.0)
  np.testing.assert_allclose(np.cov(draws.T), 25 / 3 * np.eye(3), atol=0.7)


def test_ewc_has_the_gradient_of_all_earlier_tasks_quadratics():
  rng = np.random.default_rng(0)

  def draw():
    return {'a': jnp.array(rng.random(2)), 'b': jnp.array(rng.random(1))}

  earlier = [(draw(), draw()) for _ in range(3)]  # F_i, theta*_i
  anchor = continual_merging.no_anchor(PARAMS)
  for fisher, optimum in earlier:
    anchor = continual_merging.add_to_anchor(anchor, fisher, optimum)

  def whole(params):
    penalty = sum(
        flat(f) @ (flat(params) - flat(p)) ** 2 / 2 for f, p in earlier
    )
    return loss_fn(params) + 7.0 * penalty

  objective = continual_merging.anchored_objective
  found = [
      objective(loss_fn, anchor, 7.0, params, (None, None))
      for params in (PARAMS, PREVIOUS)
  ]
  for (_, gradient), params in zip(found, (PARAMS, PREVIOUS), strict=True):
    np.testing.assert_allclose(
        flat(gradient), flat(jax.grad(whole)(params)), rtol=1e-12
    )
  # The constant that the value lacks is one and the same everywhere.
  np.testing.assert_allclose(
      found[0][0] - found[1][0], whole(PARAMS) - whole(PREVIOUS), rtol=1e-12
  )


def test_a_running_mean_is_the_mean_and_the_last_model_is_the_last():
  ends = {
      t: {'x': np.random.default_rng(i).random(3)} for i, t in enumerate('abcd')
  }
  starts = []

  def train_fn(task, previous, seen):
    assert list(seen) == list('abcd'[: len(seen)])
    starts.append(previous)
    return ends[task]

  def run(coefficient_fn):
    base = {'x': np.zeros(3)}
    return list(
        continual_merging.sequence(base, 'abcd', train_fn, coefficient_fn)
    )

  steps = run(continual_merging.running_mean)
  mean = np.mean([end['x'] for end in ends.values()], axis=0)
  np.testing.assert_allclose(steps[-1].merged_params['x'], mean, rtol=1e-12)
  assert [step.alpha for step in steps] == [1, 1 / 2, 1 / 3, 1 / 4]
  for start, before in zip(starts[1:], steps, strict=False):
    np.testing.assert_array_equal(start['x'], before.merged_params['x'])
  last = run(continual_merging.last_model)[-1]
  np.testing.assert_allclose(last.merged_params['x'], ends['d']['x'])


def test_the_empirical_fisher_squares_every_example_by_itself():
  rng = np.random.default_rng(1)
  inputs = rng.normal(size=(4, 3))
  targets = rng.normal(size=4)
  mask = np.array([True, True, False, True])

  def loss_sum(params, batch):
    inputs, targets, mask = batch
    left = inputs @ params['w'] - targets
    return 0.5 * jnp.sum(jnp.where(mask, left**2, 0))

  w = rng.normal(size=3)
  found = continual_merging.empirical_fisher_sum(
      loss_sum, {'w': jnp.array(w)}, (inputs, targets, mask)
  )
  scores = (inputs @ w - targets)[:, None] * inputs
  np.testing.assert_allclose(
      found['w'], np.sum(scores[mask] ** 2, axis=0), rtol=1e-12
  )


@pytest.mark.parametrize('vertex', [0.05, 0.42, 0.5, 0.97])
def test_a_sampled_parabola_has_its_minimum_at_the_vertex(vertex):
  scalings = np.linspace(0, 1, 21)
  losses = 3 * (scalings - vertex) ** 2 + 1
  found = continual_merging.sampled_minimiser(scalings, losses)
  assert found == pytest.approx(vertex, abs=1e-12)


def test_a_sampled_loss_that_is_lowest_at_an_end_is_lowest_there():
  scalings = np.linspace(0, 1, 5)
  assert continual_merging.sampled_minimiser(scalings, scalings) == 0
  assert continual_merging.sampled_minimiser(scalings, -scalings) == 1
  assert continual_merging.sampled_minimiser(scalings, np.ones(5)) == 0


def regressions(num_tasks=3):
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (30, 2, 2, 1)).astype(np.uint8)
  labels = rng.integers(0, 3, 30).astype(np.int32)
  return [
      quadratic_tasks.regression(images, labels, rng.permutation(4))
      for _ in range(num_tasks)
  ]


def mean_loss(task, ridge=0.1):
  batch = batching.Batch(
      np.concatenate([task.inputs, np.ones((2, 5))]),
      np.concatenate([task.labels, np.zeros(2, np.int32)]),
      np.arange(32) < 30,
  )
  return jax.jit(
      lambda kernel: quadratic_tasks.loss_sum(ridge, {'kernel': kernel}, batch)
      / 30
  )


def test_ridge_regression_has_its_minimum_and_curvature_in_closed_form():
  task = regressions()[0]
  loss = mean_loss(task)
  at = quadratic_tasks.minimum(task, num_classes=3, ridge=0.1)
  assert np.abs(jax.grad(loss)(at)).max() < 1e-14
  hessian = jax.hessian(loss)(at)  # [D, C, D, C]
  block = quadratic_tasks.curvature(task, ridge=0.1)
  np.testing.assert_allclose(
      hessian, np.einsum('ij,cd->icjd', block, np.eye(3)), atol=1e-14
  )
  left = np.eye(3)[task.labels] - task.inputs @ at
  expected = np.sum(left**2) / 60 + 0.05 * np.sum(at**2)
  assert float(loss(at)) == pytest.approx(expected, rel=1e-13)


def test_the_joint_minimum_has_no_gradient_of_the_sum():
  tasks = regressions()
  at = quadratic_tasks.joint_minimum(tasks, num_classes=3, ridge=0.1)
  total = sum(jax.grad(mean_loss(task))(at) for task in tasks)
  assert np.abs(total).max() < 1e-14


def test_the_coefficient_is_the_measured_minimiser_of_quadratic_tasks():
  """The bar of the study: 1e-6, by values of the losses alone."""
  tasks = {str(i): task for i, task in enumerate(regressions())}
  losses = {name: mean_loss(task) for name, task in tasks.items()}
  minima = {
      name: {'kernel': quadratic_tasks.minimum(task, num_classes=3, ridge=0.1)}
      for name, task in tasks.items()
  }
  blocks = {
      n: quadratic_tasks.curvature(t, ridge=0.1) for n, t in tasks.items()
  }
  products = {
      name: (lambda v, b=block: {'kernel': b @ v['kernel']})
      for name, block in blocks.items()
  }

  def closed_form(previous, direction, seen):
    alpha = perturb_and_merge.coefficient(
        previous, direction, seen, products, bounded=False
    )
    measured = quadratic_tasks.measured_minimiser(
        lambda s: float(
            sum(
                losses[n](previous['kernel'] + s * direction['kernel'])
                for n in seen
            )
        )
    )
    assert abs(alpha - measured) < 1e-6
    return alpha

  steps = list(
      continual_merging.sequence(
          {'kernel': np.zeros((5, 3))},
          list(tasks),
          lambda task, *_: minima[task],
          closed_form,
      )
  )
  assert len({round(step.alpha, 3) for step in steps}) == 3
