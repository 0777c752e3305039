"""P&M's coefficient against line searches, its objective against rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from taskvec_jax import tree
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.task_vectors import arithmetic
from tests import problems

pytestmark = pytest.mark.usefixtures('x64')
NAMES = 'abcdefgh'


def quadratics(num_tasks, *, shift=0.1):
  """Returns (base, task vectors to the minima, losses, grad_and_hvp_fns)."""
  rng = np.random.default_rng(0)
  base = rng.normal(size=5)
  roots = {t: rng.normal(size=(5, 5)) for t in NAMES[:num_tasks]}
  matrices = {t: r @ r.T / 5 + shift * np.eye(5) for t, r in roots.items()}
  minima = {t: base + rng.normal(size=5) for t in roots}

  def loss_fn(task):
    def loss(x):
      return 0.5 * (x - minima[task]) @ matrices[task] @ (x - minima[task])

    return loss

  def grad_and_hvp_fn(task):
    def fn(params, v):
      gradient = matrices[task] @ (params['x'] - minima[task])
      return {'x': gradient}, {'x': matrices[task] @ v['x']}

    return fn

  return (
      {'x': base},
      {t: {'x': m - base} for t, m in minima.items()},
      {t: loss_fn(t) for t in minima},
      {t: grad_and_hvp_fn(t) for t in minima},
  )


def merge(num_tasks, **numbers):
  base, taus, losses, fns = quadratics(num_tasks, **numbers)
  products = perturb_and_merge.hessian_product_fns(base, taus, fns)
  merged = perturb_and_merge.perturb_and_merge(taus, products, bounded=False)
  return base['x'], taus, losses, merged


@pytest.mark.parametrize('num_tasks', [2, 8])
def test_every_coefficient_is_that_of_a_line_search_on_the_measured_losses(
    num_tasks,
):
  base, taus, losses, merged = merge(num_tasks)
  names = list(taus)
  params = base + taus['a']['x']
  for t, task in enumerate(names[1:], start=1):
    direction = base + taus[task]['x'] - params

    def rise(alpha, t=t, params=params, direction=direction):
      point = params + alpha * direction
      return sum(losses[i](point) for i in names[: t + 1])

    found = optimize.minimize_scalar(rise, bracket=(0.0, 1.0), tol=1e-12).x
    alpha = merged.coefficients[task]
    assert abs(alpha - found) < 1e-6
    # A parabola through three measured points is the quadratic itself.
    low, middle, high = rise(0.0), rise(0.5), rise(1.0)
    exact = 0.25 * (3 * low - 4 * middle + high) / (low - 2 * middle + high)
    assert abs(alpha - exact) < 1e-9
    params = params + alpha * direction
  np.testing.assert_allclose(base + merged.task_vector['x'], params, rtol=1e-12)


def test_one_task_is_kept_as_it_is():
  _, taus, _, merged = merge(1)
  assert merged.coefficients == {'a': 1.0}
  np.testing.assert_array_equal(merged.task_vector['x'], taus['a']['x'])


def test_tasks_of_equal_curvature_are_averaged():
  """With H_i = I the minimiser along each Delta is 1/2, 1/3, ...: the mean."""
  _, taus, _, _ = quadratics(4)
  same = dict.fromkeys(taus, lambda v: v)
  merged = perturb_and_merge.perturb_and_merge(taus, same)
  np.testing.assert_allclose(
      list(merged.coefficients.values()), [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-13
  )
  mean = np.mean([tau['x'] for tau in taus.values()], axis=0)
  np.testing.assert_allclose(merged.task_vector['x'], mean, rtol=1e-12)


def test_the_true_hessian_of_a_network_is_taken_at_each_tasks_own_optimum():
  base = problems.base_params()
  taus = {
      t: jax.tree.map(lambda p: 0.2 * p, problems.base_params(5 + i))
      for i, t in enumerate('ab')
  }
  fns = problems.grad_and_hvp_fns()
  fns = {t: fns[t] for t in taus}
  products = perturb_and_merge.hessian_product_fns(base, taus, fns)
  direction = problems.sub(taus['b'], taus['a'])
  above = below = 0.0
  for task, tau in taus.items():
    # H Delta as a central difference of gradients, at theta_0 + tau.
    point = arithmetic.edit(base, tau)
    gradients = [
        fns[task](arithmetic.edit(point, direction, s), direction)[0]
        for s in (1e-5, -1e-5)
    ]
    product = jax.tree.map(lambda a, b: (a - b) / 2e-5, *gradients)
    away = problems.sub(taus['a'], tau)
    inner = jax.tree.map(lambda x, y: np.sum(x * y), away, product)
    above -= sum(jax.tree.leaves(inner))
    inner = jax.tree.map(lambda x, y: np.sum(x * y), direction, product)
    below += sum(jax.tree.leaves(inner))
  alpha = perturb_and_merge.coefficient(
      taus['a'], direction, taus, products, bounded=False
  )
  assert alpha == pytest.approx(float(above / below), rel=1e-6)


def test_with_the_fisher_it_is_the_formula_with_a_diagonal():
  rng = np.random.default_rng(2)
  taus = {t: {'w': rng.normal(size=3), 'h': rng.normal(size=2)} for t in 'ab'}
  diagonals = jax.tree.map(np.square, taus)
  products = perturb_and_merge.fisher_product_fns(diagonals)
  merged = perturb_and_merge.perturb_and_merge(taus, products, bounded=False)
  a, b = (np.append(taus[t]['w'], taus[t]['h']) for t in 'ab')
  # (merged - theta*_a) is 0 and (merged - theta*_b) is -Delta.
  expected = np.sum(b**2 * (b - a) ** 2) / np.sum((a**2 + b**2) * (b - a) ** 2)
  assert merged.coefficients['b'] == pytest.approx(expected, rel=1e-13)


def test_a_diagonal_leaves_integers_out():
  diagonal = {'w': jnp.arange(4.0), 'n': jnp.zeros(1)}
  v = {'w': jnp.full(4, 2.0), 'n': jnp.array([5])}
  product = perturb_and_merge.fisher_product_fns({'a': diagonal})['a'](v)
  np.testing.assert_array_equal(product['w'], 2 * diagonal['w'])
  np.testing.assert_array_equal(product['n'], [0])


@pytest.mark.parametrize(
    ('curvatures', 'alpha'),
    [((1.0, 3.0), 0.75), ((-2.0, 1.0), 1.0), ((1.0, -2.0), 0.0)],
)
def test_within_bounds_negative_curvature_leads_to_the_better_end(
    curvatures, alpha
):
  """rise(s) = (h_a s^2 + h_b (1 - s)^2) / 2 for s from task a to task b."""
  taus = {'a': {'x': np.array([0.0])}, 'b': {'x': np.array([1.0])}}
  products = {
      t: (lambda v, h=h: {'x': h * v['x']})
      for t, h in zip('ab', curvatures, strict=True)
  }
  merged = perturb_and_merge.perturb_and_merge(taus, products)
  assert merged.coefficients['b'] == pytest.approx(alpha)
  if sum(curvatures) < 0:
    with pytest.raises(FloatingPointError, match='curvature .* is -1'):
      perturb_and_merge.perturb_and_merge(taus, products, bounded=False)


def test_along_zeros_there_is_nothing_to_gain():
  tau = {'x': np.ones(2), 'half': jnp.ones(2, jnp.bfloat16)}
  same = {'a': tau, 'b': tau}
  products = dict.fromkeys(same, lambda v: v)
  merged = perturb_and_merge.perturb_and_merge(same, products, bounded=False)
  assert merged.coefficients['b'] == 0.0
  np.testing.assert_array_equal(merged.task_vector['x'], np.ones(2))
  assert merged.task_vector['half'].dtype == jnp.bfloat16


def test_the_expected_loss_is_the_penalty_to_fourth_order_in_epsilon():
  previous, params = problems.base_params(), problems.base_params(3)
  loss = jax.jit(problems.mean_loss('a'))
  direction = problems.sub(params, previous)
  _, product = problems.grad_and_hvp_fns()['a'](params, direction)
  curvature = float(tree.vdot(direction, product))
  left, epsilons = [], [0.04, 0.02, 0.01]
  for epsilon in epsilons:
    expected_fn = perturb_and_merge.perturbed_loss(
        loss, previous, epsilon=epsilon, probability=0.2
    )
    penalty = 0.2 * epsilon**2 * curvature
    rise = float(expected_fn(params) - loss(params))
    left.append(abs(rise - penalty))
  np.testing.assert_allclose(problems.slopes(left), 4, atol=0.1)
  assert left[-1] < 0.01 * abs(penalty)  # at the smallest epsilon


def test_the_draws_are_the_three_points_with_their_probabilities():
  previous, params = {'x': jnp.zeros(1)}, {'x': jnp.ones(1)}
  keys = jax.random.split(jax.random.key(0), 4000)

  @jax.jit
  @jax.vmap
  def draw(key):
    return perturb_and_merge.perturbed_params(
        key, params, previous, epsilon=0.5, probability=0.2
    )['x'][0]

  draws = draw(keys)
  points, counts = np.unique(draws, return_counts=True)
  np.testing.assert_array_equal(points, [0.5, 1.0, 1.5])
  # Four deviations of a binomial of 4000.
  np.testing.assert_allclose(counts / 4000, [0.2, 0.6, 0.2], atol=0.031)


def test_for_a_quadratic_the_defaults_add_a_twelfth_of_the_curvature():
  loss_fn = perturb_and_merge.perturbed_loss(
      lambda p: 0.5 * 6.0 * jnp.sum(p['x'] ** 2), {'x': jnp.array([1.0])}
  )
  params = {'x': jnp.array([3.0])}
  expected = 0.5 * 6 * 9 + 6 * 4 / 12
  value, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
  assert float(value) == pytest.approx(expected, rel=1e-14)
  # Delta moves with the parameters: its gradient is part of the objective's.
  slope = float(gradient['x'][0])
  assert slope == pytest.approx(6 * 3 + 2 * 6 * 2 / 12, rel=1e-13)


def test_arguments_without_sense_are_refused():
  _, taus, _, _ = quadratics(2)
  with pytest.raises(ValueError, match=r"product_fns has \['a'\]"):
    perturb_and_merge.perturb_and_merge(taus, {'a': lambda v: v})
  with pytest.raises(ValueError, match='at least one'):
    perturb_and_merge.perturb_and_merge({}, {})
  for numbers in ({'epsilon': -1.0}, {'probability': 0.6}):
    with pytest.raises(ValueError, match='from 0 to 1/2'):
      perturb_and_merge.perturbed_loss(lambda p: 0.0, {}, **numbers)
