"""AdaMerging beside entropies, gradients and Adam by hand in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import adamerging
from taskvec_jax.merging import learned_coefficients
from taskvec_jax.merging import ties
from taskvec_jax.task_vectors import arithmetic
from tests import problems
from tests.merging import learned_coefficients_test as learned_test

pytestmark = pytest.mark.usefixtures('x64')


def vectors(num_tasks=3):
  return {
      task: jax.tree.map(
          lambda p: 0.3 * np.asarray(p), problems.base_params(1 + i)
      )
      for i, task in enumerate('abcdefgh'[:num_tasks])
  }


def logits(task, params):
  inputs, _, head = problems.examples(task)
  for name in sorted(params):
    inputs = jnp.tanh(inputs @ params[name]['kernel'] + params[name]['bias'])
  return inputs @ head


def entropy_sum(params, step, gain=1.0):
  """The sum over tasks of the mean entropy of a batch of 8 of 24 inputs."""
  start = 8 * (step % 3)
  return sum(
      jnp.mean(
          jax.lax.dynamic_slice_in_dim(
              adamerging.entropy(gain * logits(task, params)), start, 8
          )
      )
      for task in problems.SCALING
  )


def test_the_entropy_is_that_of_the_softmax_and_padding_adds_nothing():
  x = np.random.default_rng(0).normal(size=(5, 4))
  p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
  expected = -(p * np.log(p)).sum(1)
  np.testing.assert_allclose(adamerging.entropy(x), expected, rtol=1e-13)
  padded = np.concatenate([x, np.full((5, 3), -1e4)], axis=1)
  np.testing.assert_allclose(adamerging.entropy(padded), expected, rtol=1e-13)
  np.testing.assert_allclose(
      adamerging.entropy(np.zeros((1, 7))), [np.log(7)], rtol=1e-13
  )


def test_the_task_wise_gradient_is_the_sum_of_the_layer_wise_ones():
  base, taus = problems.base_params(), vectors()

  def entropy(params):
    return jnp.mean(adamerging.entropy(logits('a', params)))

  def objective(coefficients):
    merged = learned_coefficients.weighted(taus, coefficients)
    return entropy(arithmetic.edit(base, merged))

  by_task = dict.fromkeys(taus, 0.3)
  by_tensor = {task: jax.tree.map(lambda _: 0.3, base) for task in taus}
  gradient_fn = jax.jit(jax.grad(objective))
  whole, parts = gradient_fn(by_task), gradient_fn(by_tensor)
  merged = arithmetic.merge(base, taus, by_task)
  gradient = jax.jit(jax.grad(entropy))(merged)
  for task, tau in taus.items():
    products = jax.tree.map(lambda g, v: np.sum(g * v), gradient, tau)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14),
        parts[task],
        products,
    )
    total = sum(float(p) for p in jax.tree.leaves(parts[task]))
    assert float(whole[task]) == pytest.approx(total, rel=1e-12)


def test_the_clamp_has_gradient_one_inside_and_zero_outside():
  points = jnp.array([-0.1, 0.0, 0.4, 1.0, 1.1])
  values = learned_coefficients.clamp(points)
  slopes = jax.jit(jax.vmap(jax.grad(learned_coefficients.clamp)))(points)
  np.testing.assert_array_equal(values, [0.0, 0.0, 0.4, 1.0, 1.0])
  np.testing.assert_array_equal(slopes, [0.0, 1.0, 1.0, 1.0, 0.0])


def with_gain(params, gain, steps, dtype):
  gain = jnp.asarray(gain, dtype)
  return {**params, 'a gain': gain, 'steps': jnp.asarray(steps)}


def gained_entropy(params, step):
  """`entropy_sum` of a network whose outputs are scaled by its own gain."""
  gain = params['a gain'].astype(float)
  layers = {name: params[name] for name in problems.base_params()}
  return entropy_sum(layers, step, gain)


def seen_by_hand(leaf, vectors, coefficients):
  """Returns a tensor as the model sees it, in the steps that dtypes round."""
  if leaf.dtype == int:
    return leaf
  wide = np.promote_types(leaf.dtype, np.float32)
  total = sum(
      c.astype(wide) * v.astype(wide)
      for c, v in zip(coefficients, vectors, strict=True)
  )
  total = total.astype(leaf.dtype).astype(wide)
  return (leaf.astype(wide) + total).astype(leaf.dtype)


def gained_entropy_by_hand(leaves, step):
  """Returns `gained_entropy` and its gradient, one array a leaf."""
  gain, b_0, k_0, b_1, k_1, steps = (leaf.astype(float) for leaf in leaves)
  total, gradients = 0.0, [0.0] * 5
  for task in problems.SCALING:
    x, _, head = map(np.asarray, problems.examples(task))
    x = x[8 * (step % 3) :][:8]
    h_0 = np.tanh(x @ k_0 + b_0)
    h_1 = np.tanh(h_0 @ k_1 + b_1)
    out = h_1 @ head
    p = np.exp(gain * out)
    p /= p.sum(1, keepdims=True)
    entropies = -(p * np.log(p)).sum(1, keepdims=True)
    total += entropies.mean()
    d_z = -p * (np.log(p) + entropies) / 8
    d_1 = gain * d_z @ head.T * (1 - h_1**2)
    d_0 = d_1 @ k_1.T * (1 - h_0**2)
    parts = (d_z * out).sum(), d_0.sum(0), x.T @ d_0, d_1.sum(0), h_0.T @ d_1
    gradients = [g + part for g, part in zip(gradients, parts, strict=True)]
  return total, [*gradients, np.zeros_like(steps)]


@pytest.mark.parametrize('layer_wise', [False, True])
@pytest.mark.parametrize(
    ('num_tasks', 'dtype'),
    [(1, float), (2, float), (8, float), (2, jnp.bfloat16)],
)
def test_the_coefficients_are_those_of_adam_on_the_entropy_by_hand(
    num_tasks, dtype, layer_wise
):
  base = with_gain(problems.base_params(), 1.25, [3, 4], dtype)
  taus = {
      task: with_gain(tau, 0.5 - 0.125 * i, [1, i], dtype)
      for i, (task, tau) in enumerate(vectors(num_tasks).items())
  }
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(base)]
  rows = [[np.asarray(v) for v in jax.tree.leaves(t)] for t in taus.values()]
  steps = itertools.count()

  def gradient_fn(coefficients):  # [tasks, tensors], or [tasks, 1]
    bounded = np.clip(coefficients, 0, 1)
    seen = np.broadcast_to(bounded, (num_tasks, len(leaves)))
    merged = [
        seen_by_hand(leaf, column, seen[:, j])
        for j, (leaf, *column) in enumerate(zip(leaves, *rows, strict=True))
    ]
    entropy, gradients = gained_entropy_by_hand(merged, next(steps))
    products = np.array(
        [
            [
                np.sum(np.asarray(g).astype(v.dtype).astype(float) * v)
                for g, v in zip(gradients, row, strict=True)
            ]
            for row in rows
        ]
    )
    if not layer_wise:
      products = products.sum(axis=1, keepdims=True)
    return entropy, np.where(bounded == coefficients, products, 0.0)

  numbers = {'learning_rate': 0.02, 'num_steps': 20}
  start = np.full((num_tasks, len(leaves) if layer_wise else 1), 0.3)
  expected, entropies = learned_test.adam(gradient_fn, start, **numbers)
  if num_tasks == 8:
    assert expected.min() < 0  # the clamp was met
  merged = adamerging.adamerging(
      base, taus, gained_entropy, layer_wise=layer_wise, **numbers
  )
  ours = [jax.tree.leaves(merged.coefficients[task]) for task in taus]
  bounded = np.clip(expected, 0, 1)
  np.testing.assert_allclose(ours, bounded, rtol=1e-8, atol=1e-10)
  np.testing.assert_allclose(merged.losses, entropies, rtol=1e-8)


@pytest.mark.parametrize('layer_wise', [False, True])
def test_learning_lowers_the_entropy_with_coefficients_from_0_to_1(layer_wise):
  merged = adamerging.adamerging(
      problems.base_params(),
      vectors(),
      entropy_sum,
      layer_wise=layer_wise,
      learning_rate=0.05,
      num_steps=60,
  )
  learned = np.array([float(c) for c in jax.tree.leaves(merged.coefficients)])
  assert len(learned) == (12 if layer_wise else 3)
  assert learned.min() >= 0 and learned.max() <= 1
  assert (learned == 0).any() or (learned == 1).any()  # the clamp was met
  # Batches come round every three steps.
  assert merged.losses[-3:].sum() < merged.losses[:3].sum()


@pytest.mark.parametrize('num_tasks', [1, 8])
def test_without_steps_it_is_task_arithmetic_with_the_initial_coefficient(
    num_tasks,
):
  base, taus = problems.base_params(), vectors(num_tasks)
  merged = adamerging.adamerging(base, taus, entropy_sum, num_steps=0)
  expected = arithmetic.weighted_sum(taus, dict.fromkeys(taus, 0.3))
  left = problems.norm(problems.sub(merged.task_vector, expected))
  assert left < 1e-14 * problems.norm(expected)


def test_plus_plus_with_coefficients_of_one_is_ties_with_a_sum():
  base, taus = problems.base_params(), vectors()
  survivors = ties.survivors(taus, density=0.3)
  merged = adamerging.adamerging(
      base, survivors, entropy_sum, initial=1.0, num_steps=0
  )
  expected = ties.ties(taus, density=0.3, merge='dis-sum')
  left = problems.norm(problems.sub(merged.task_vector, expected))
  assert left < 1e-14 * problems.norm(expected)
  assert problems.norm(expected) > 0


def test_arguments_without_sense_are_refused():
  def untouched(params, step):
    raise AssertionError('an entropy was computed')

  base, taus = problems.base_params(), vectors()
  with pytest.raises(ValueError, match='initial .* but is 1.5'):
    adamerging.adamerging(base, taus, untouched, initial=1.5)
  with pytest.raises(ValueError, match='at least one'):
    adamerging.adamerging(base, {}, untouched)
