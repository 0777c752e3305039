import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import fisher
from taskvec_jax.merging import uncertainty_gradient
from taskvec_jax.task_vectors import arithmetic


def problem(num_tasks):
  """Returns (curvatures, minima) of diagonal quadratics around a base of 0."""
  rng = np.random.default_rng(num_tasks)
  names = [f'task_{t}' for t in range(num_tasks)]
  curvatures = {t: {'x': rng.uniform(0.1, 3, size=4)} for t in names}
  minima = {t: rng.normal(size=4) for t in names}
  return curvatures, minima


@pytest.mark.parametrize('num_tasks', [1, 2, 8])
def test_of_regularised_quadratics_it_is_the_multitask_optimum(x64, num_tasks):
  """argmin sum_t alpha_t L_t + x' H_0 x / 2, from each task's own argmin."""
  curvatures, minima = problem(num_tasks)
  prior = np.array([0.5, 1.0, 2.0, 0.1])
  taus = {
      t: {'x': curvatures[t]['x'] * minima[t] / (prior + curvatures[t]['x'])}
      for t in minima
  }
  scaling = {t: 0.3 + 0.2 * i for i, t in enumerate(minima)}
  ours = uncertainty_gradient.uncertainty_gradient(
      taus, curvatures, {'x': prior}, scaling
  )
  pull = sum(scaling[t] * curvatures[t]['x'] * minima[t] for t in minima)
  total = prior + sum(scaling[t] * curvatures[t]['x'] for t in minima)
  np.testing.assert_allclose(ours['x'], pull / total, rtol=1e-12)


def test_a_strong_prior_gives_task_arithmetic_and_none_gives_fisher_merging(
    x64,
):
  curvatures, minima = problem(3)
  taus = {t: {'x': m} for t, m in minima.items()}
  scaling = {'task_0': 0.2, 'task_1': 0.5, 'task_2': 0.9}
  merge = uncertainty_gradient.uncertainty_gradient
  strong = merge(taus, curvatures, {'x': np.full(4, 1e9)}, scaling)
  expected = arithmetic.weighted_sum(taus, scaling)['x']
  np.testing.assert_allclose(strong['x'], expected, rtol=1e-7)
  none = merge(taus, curvatures, {'x': np.zeros(4)}, scaling)
  expected = fisher.fisher(taus, curvatures, weights=scaling)['x']
  np.testing.assert_allclose(none['x'], expected, rtol=1e-12)
  blind = jax.tree.map(np.zeros_like, curvatures)
  flat = merge(taus, blind, {'x': np.zeros(4)}, scaling)
  np.testing.assert_allclose(
      flat['x'], arithmetic.weighted_sum(taus, scaling)['x'], rtol=1e-14
  )


def test_one_task_with_coefficient_one_is_kept_and_integers_are_zero():
  tau = {'x': jnp.ones(2, jnp.bfloat16), 'n': jnp.array([4])}
  diagonal = {'x': jnp.array([2.0, 0.0]), 'n': jnp.zeros(1)}
  ours = uncertainty_gradient.uncertainty_gradient(
      {'a': tau}, {'a': diagonal}, diagonal, {'a': 1.0}
  )
  assert ours['x'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(ours['x'].astype(float), [1.0, 1.0])
  np.testing.assert_array_equal(ours['n'], [0])


def test_arguments_without_sense_are_refused():
  curvatures, minima = problem(2)
  taus = {t: {'x': m} for t, m in minima.items()}
  merge = uncertainty_gradient.uncertainty_gradient
  prior, scaling = {'x': np.ones(4)}, dict.fromkeys(taus, 1.0)
  with pytest.raises(ValueError, match='negative but is .*-1.0'):
    merge(taus, curvatures, prior, {**scaling, 'task_0': -1.0})
  with pytest.raises(ValueError, match='scaling has'):
    merge(taus, curvatures, prior, {'task_0': 1.0})
  with pytest.raises(ValueError, match='a Fisher'):
    merge(taus, curvatures, {'x': np.ones(3)}, scaling)
