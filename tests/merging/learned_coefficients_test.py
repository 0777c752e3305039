"""Learned coefficients against sums and an Adam written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import learned_coefficients

pytestmark = pytest.mark.usefixtures('x64')
SHAPES = {'a': {'w': (3, 2), 'v': (3, 2)}, 'b': (2,), 's': ()}


def tree(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: rng.normal(size=shape),
      SHAPES,
      is_leaf=lambda x: isinstance(x, tuple),
  )


def vectors(num_tasks):
  return {f'task_{t}': tree(10 + t) for t in range(num_tasks)}


def assert_same(ours, expected, tolerance=1e-12):
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
          a, b, rtol=tolerance, atol=tolerance
      ),
      ours,
      expected,
  )


@pytest.mark.parametrize('num_tasks', [1, 2, 8])
def test_the_merged_vector_is_the_sum_with_a_number_a_task_or_a_tensor(
    num_tasks,
):
  taus = vectors(num_tasks)
  rng = np.random.default_rng(0)
  by_task = {task: rng.normal() for task in taus}
  expected = jax.tree.map(
      lambda *leaves: sum(
          c * leaf for c, leaf in zip(by_task.values(), leaves, strict=True)
      ),
      *taus.values(),
  )
  assert_same(learned_coefficients.weighted(taus, by_task), expected)
  by_tensor = {
      task: jax.tree.map(lambda _: rng.normal(), tau)
      for task, tau in taus.items()
  }
  total = jax.tree.map(np.zeros_like, tree(0))
  for task, tau in taus.items():
    total = jax.tree.map(lambda s, c, v: s + c * v, total, by_tensor[task], tau)
  assert_same(learned_coefficients.weighted(taus, by_tensor), total)


def test_a_partition_gives_each_entry_the_coefficient_of_its_part():
  taus = vectors(2)
  parts = learned_coefficients.partition(tree(0), num_parts=3, seed=1)
  rng = np.random.default_rng(0)
  coefficients = {
      task: jax.tree.map(lambda _: rng.normal(size=3), parts) for task in taus
  }
  ours = learned_coefficients.weighted(taus, coefficients, parts)
  expected = np.zeros((3, 2))
  for i in range(3):
    for j in range(2):
      part = int(parts['a']['w'][i, j])
      expected[i, j] = sum(
          coefficients[t]['a']['w'][part] * taus[t]['a']['w'][i, j]
          for t in taus
      )
  np.testing.assert_allclose(ours['a']['w'], expected, rtol=1e-13)


def test_a_partition_is_shared_by_shape_and_reproducible():
  parts = learned_coefficients.partition(tree(0), num_parts=4, seed=3)
  np.testing.assert_array_equal(parts['a']['w'], parts['a']['v'])
  again = learned_coefficients.partition(tree(1), num_parts=4, seed=3)
  other = learned_coefficients.partition(tree(0), num_parts=4, seed=4)
  np.testing.assert_array_equal(parts['a']['w'], again['a']['w'])
  assert (parts['a']['w'] != other['a']['w']).any()
  big = learned_coefficients.partition(
      {'w': np.zeros((40, 50))}, num_parts=4, seed=0
  )
  counts = np.bincount(np.asarray(big['w']).ravel())
  assert len(counts) == 4 and counts.min() > 400


def adam(gradient_fn, start, *, learning_rate, num_steps):
  """Returns where Adam in NumPy arrives, and the losses on the way."""
  x, losses = np.array(start, float), []
  first, second = np.zeros_like(x), np.zeros_like(x)
  for step in range(1, num_steps + 1):
    loss, g = gradient_fn(x)
    losses.append(loss)
    first = 0.9 * first + 0.1 * g
    second = 0.999 * second + 0.001 * g**2
    x = x - learning_rate * (first / (1 - 0.9**step)) / (
        np.sqrt(second / (1 - 0.999**step)) + 1e-8
    )
  return x, losses


def test_the_coefficients_are_those_of_adam_on_the_quadratic_they_see():
  """With L = |theta - target|^2 / 2 every gradient is <tau_tl, residual_l>."""
  base, target, taus = tree(0), tree(1), vectors(2)
  names = ['w', 'v', 'b', 's']

  def flat(params):
    return {**params['a'], 'b': params['b'], 's': params['s']}

  def gradient_fn(c):  # [tasks, tensors]
    loss, gradient = 0.0, np.zeros_like(c)
    for j, name in enumerate(names):
      columns = [flat(tau)[name] for tau in taus.values()]
      residual = flat(base)[name] - flat(target)[name]
      residual = residual + sum(c[i, j] * col for i, col in enumerate(columns))
      loss += 0.5 * np.sum(residual**2)
      gradient[:, j] = [np.sum(col * residual) for col in columns]
    return loss, gradient

  def loss_fn(params, step):
    del step
    squares = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, target)
    return sum(jax.tree.leaves(squares)) / 2

  expected, losses = adam(
      gradient_fn, np.zeros((2, 4)), learning_rate=0.05, num_steps=20
  )
  learned = learned_coefficients.learned_coefficients(
      base, taus, loss_fn, learning_rate=0.05, num_steps=20
  )
  np.testing.assert_allclose(learned.losses, losses, rtol=1e-12)
  for i, task in enumerate(taus):
    ours = flat(learned.coefficients[task])
    np.testing.assert_allclose(
        [ours[name] for name in names], expected[i], rtol=1e-10
    )
  assert_same(
      learned.task_vector,
      learned_coefficients.weighted(taus, learned.coefficients),
  )
  assert learned.losses[-1] < learned.losses[0]


def test_learning_starts_at_the_base_and_leaves_integers_there():
  base = {'w': jnp.ones(3, jnp.bfloat16), 'n': jnp.arange(3)}
  taus = {'x': {'w': jnp.full(3, 0.5, jnp.bfloat16), 'n': jnp.ones(3, int)}}
  seen = []

  def loss_fn(params, step):
    seen.append((params['w'].dtype, params['n'].dtype))
    return jnp.sum(params['w'].astype(float) * step)

  learned = learned_coefficients.learned_coefficients(
      base,
      taus,
      loss_fn,
      partition=learned_coefficients.partition(base, num_parts=2, seed=0),
      num_steps=3,
  )
  assert seen[0] == (jnp.bfloat16, jnp.arange(3).dtype)
  # Only the sight of the model is narrow, not the sum: 0, 3 and 6 at the base.
  np.testing.assert_allclose(learned.losses[:2], [0.0, 3.0])
  assert learned.task_vector['w'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(learned.task_vector['n'], np.zeros(3))
  still = learned_coefficients.learned_coefficients(
      base, taus, loss_fn, num_steps=0
  )
  assert not np.any(still.task_vector['w'])
  assert still.losses.shape == (0,)


def test_arguments_without_sense_are_refused():
  def untouched(params, step):
    raise AssertionError('a loss was computed')

  base, taus = tree(0), vectors(2)
  learn = learned_coefficients.learned_coefficients
  with pytest.raises(ValueError, match='at least one'):
    learn(base, {}, untouched)
  with pytest.raises(ValueError, match='learning_rate must be positive.*0.0'):
    learn(base, taus, untouched, learning_rate=0.0)
  with pytest.raises(ValueError, match='-1'):
    learn(base, taus, untouched, num_steps=-1)
  with pytest.raises(ValueError, match='b: absent'):
    learn(base, {**taus, 'z': {'a': taus['task_0']['a']}}, untouched)
  with pytest.raises(ValueError, match=r"\['task_0', 'task_1'\] but coeffic"):
    learned_coefficients.learn(
        base,
        taus,
        untouched,
        {'task_0': 0.0},
        learning_rate=0.1,
        num_steps=1,
    )
  with pytest.raises(ValueError, match='num_parts must be at least 1 but is 0'):
    learned_coefficients.partition(base, num_parts=0, seed=0)


def test_a_loss_that_is_not_finite_names_its_step():
  def loss_fn(params, step):
    return jnp.where(step == 2, jnp.nan, jnp.sum(params['b']))

  with pytest.raises(FloatingPointError, match='nan in step 3'):
    learned_coefficients.learned_coefficients(
        tree(0), vectors(1), loss_fn, num_steps=4
    )
