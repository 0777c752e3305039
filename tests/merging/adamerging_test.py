import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import adamerging
from taskvec_jax.merging import learned_coefficients
from taskvec_jax.merging import ties
from taskvec_jax.task_vectors import arithmetic
from tests import problems

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


def entropy_sum(params, step):
  """The sum over tasks of the mean entropy of a batch of 8 of 24 inputs."""
  start = 8 * (step % 3)
  return sum(
      jnp.mean(
          jax.lax.dynamic_slice_in_dim(
              adamerging.entropy(logits(task, params)), start, 8
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
  np.testing.assert_allclose(adamerging.entropy(np.zeros((1, 7))), np.log(7))


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
