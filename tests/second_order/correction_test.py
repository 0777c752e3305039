"""The expansion and linear response against dense references and rates."""

import itertools

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.finetuning import multitask
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic
from tests import problems

pytestmark = pytest.mark.usefixtures('x64')
SCALING = problems.SCALING


def batches_by_step(num_steps):
  rng = np.random.default_rng(5)
  return [rng.permutation(24)[:6] for _ in range(num_steps)]


def gap_and_predictions(num_steps, eta, *, minibatches):
  """Returns (gap, eta^2 C, Delta) of the small problem."""
  base = problems.base_params()
  indices = batches_by_step(num_steps) if minibatches else [None] * num_steps
  plain = [problems.value_and_grad_fns(chosen) for chosen in indices]
  curved = [problems.grad_and_hvp_fns(chosen) for chosen in indices]
  vectors = {
      task: problems.sub(
          problems.descend(base, [fns[task] for fns in plain], eta), base
      )
      for task in SCALING
  }
  merged = arithmetic.merge(base, vectors, SCALING)
  objectives = [
      multitask.multitask_value_and_grad(fns, SCALING) for fns in plain
  ]
  trained = problems.descend(base, objectives, eta)
  *_, second = correction.corrections(base, curved, SCALING, learning_rate=eta)
  *_, linear = response.responses(base, curved, SCALING, learning_rate=eta)
  gap = problems.sub(merged, trained)
  return (
      gap,
      jax.tree.map(lambda c: eta**2 * c, second.correction),
      linear.response,
  )


@pytest.mark.parametrize(
    ('num_steps', 'minibatches'),
    [(2, False), (3, False), (5, False), (2, True), (3, True), (5, True)],
)
def test_the_gap_has_order_two_and_both_residuals_have_order_three(
    num_steps, minibatches
):
  etas = [1e-3 / 2**i for i in range(3)]
  gaps, corrected, responded = [], [], []
  for eta in etas:
    gap, second, linear = gap_and_predictions(
        num_steps, eta, minibatches=minibatches
    )
    gaps.append(problems.norm(gap))
    corrected.append(problems.norm(problems.sub(gap, second)))
    responded.append(problems.norm(problems.sub(gap, linear)))
  np.testing.assert_allclose(problems.slopes(gaps), 2, atol=0.05)
  np.testing.assert_allclose(problems.slopes(corrected), 3, atol=0.07)
  np.testing.assert_allclose(problems.slopes(responded), 3, atol=0.07)


def dense_path(num_epochs, eta):
  """Returns theta_MT^(e), g_t and H_t along it, with dense Hessians."""
  flat, _ = flatten_util.ravel_pytree(problems.base_params())
  fns = problems.grad_and_hessian_fns()
  path = []
  for _ in range(num_epochs):
    found = {t: fn(flat) for t, fn in fns.items()}
    gradients, hessians = ({t: found[t][i] for t in found} for i in range(2))
    path.append((flat, gradients, hessians))
    flat = flat - eta * sum(SCALING[t] * g for t, g in gradients.items())
  return path


def test_the_correction_equals_the_formula_with_dense_hessians():
  eta, num_epochs = 0.3, 4
  path = dense_path(num_epochs, eta)
  expected = 0
  for task, alpha in SCALING.items():
    for e in range(1, num_epochs):
      drift = sum(
          sum(SCALING[s] * g[s] for s in SCALING) - g[task]
          for _, g, _ in path[:e]
      )
      expected = expected - alpha * path[e][2][task] @ drift
  ours = correction.second_order_correction(
      problems.base_params(),
      problems.grad_and_hvp_fns(),
      SCALING,
      learning_rate=eta,
      num_epochs=num_epochs,
  )
  ours, _ = flatten_util.ravel_pytree(ours)
  assert np.linalg.norm(ours - expected) < 1e-10 * np.linalg.norm(expected)


def test_linear_response_equals_the_formula_with_dense_hessians():
  eta, num_epochs = 0.3, 4
  path = dense_path(num_epochs, eta)
  expected = 0
  for task, alpha in SCALING.items():
    drift = jnp.zeros_like(path[0][0])
    for e in range(num_epochs):
      _, g, h = path[e]
      expected = expected - eta * alpha * h[task] @ drift
      r = sum(SCALING[s] * g[s] for s in SCALING) - g[task]
      drift = drift + eta * r - eta * h[task] @ drift
  ours = response.linear_response(
      problems.base_params(),
      problems.grad_and_hvp_fns(),
      SCALING,
      learning_rate=eta,
      num_epochs=num_epochs,
  )
  ours, _ = flatten_util.ravel_pytree(ours)
  assert np.linalg.norm(ours - expected) < 1e-12 * np.linalg.norm(expected)


def test_the_base_form_is_the_dense_formula_and_the_limit_of_the_path_form():
  _, gradients, hessians = dense_path(1, 0.1)[0]
  total = sum(SCALING[s] * gradients[s] for s in SCALING)
  expected = -10 * sum(
      SCALING[t] * hessians[t] @ (total - gradients[t]) for t in SCALING
  )
  arguments = (problems.base_params(), problems.grad_and_hvp_fns(), SCALING)
  ours, _ = flatten_util.ravel_pytree(
      correction.base_correction(*arguments, num_epochs=5)
  )
  assert np.linalg.norm(ours - expected) < 1e-12 * np.linalg.norm(expected)
  distances = []
  for eta in (2e-3, 1e-3, 5e-4):
    path, _ = flatten_util.ravel_pytree(
        correction.second_order_correction(
            *arguments, learning_rate=eta, num_epochs=5
        )
    )
    distances.append(np.linalg.norm(path - ours))
  np.testing.assert_allclose(problems.slopes(distances), 1, atol=0.05)


def test_one_epoch_has_no_gap_and_no_correction():
  gap, second, linear = gap_and_predictions(1, 0.5, minibatches=False)
  assert problems.norm(gap) < 1e-15
  assert problems.norm(second) == 0
  assert problems.norm(linear) == 0


@pytest.mark.parametrize('predict', ['correction', 'response'])
def test_one_task_with_coefficient_one_has_no_gap_at_any_k(predict):
  fns = {'a': problems.grad_and_hvp_fns()['a']}
  fn = {
      'correction': correction.second_order_correction,
      'response': response.linear_response,
  }[predict]
  out = fn(
      problems.base_params(), fns, {'a': 1.0}, learning_rate=0.5, num_epochs=6
  )
  assert problems.norm(out) < 1e-14


def test_identical_tasks_with_coefficients_one_over_t_have_no_gap():
  fn = problems.grad_and_hvp_fns()['a']
  names = ('x', 'y', 'z')
  out = response.linear_response(
      problems.base_params(),
      dict.fromkeys(names, fn),
      dict.fromkeys(names, 1 / 3),
      learning_rate=0.5,
      num_epochs=6,
  )
  assert problems.norm(out) < 1e-14


def quadratics():
  """Two quadratic tasks of different curvature: everything in closed form."""
  rng = np.random.default_rng(0)
  roots = {t: rng.normal(size=(4, 4)) for t in 'ab'}
  matrices = {t: r @ r.T / 4 + 0.1 * np.eye(4) for t, r in roots.items()}
  minima = {t: rng.normal(size=4) for t in 'ab'}
  fns = {
      t: (
          lambda p, v, t=t: (
              {'x': matrices[t] @ (p['x'] - minima[t])},
              {'x': matrices[t] @ v['x']},
          )
      )
      for t in 'ab'
  }
  return matrices, minima, fns


@pytest.mark.parametrize('num_epochs', [2, 7, 40])
def test_linear_response_is_exact_for_quadratics_at_any_step(num_epochs):
  matrices, minima, fns = quadratics()
  scaling = {'a': 0.8, 'b': 0.5}
  largest = max(np.linalg.eigvalsh(m)[-1] for m in matrices.values())
  eta = 1.9 / largest
  base = np.ones(4)
  merged = base + sum(
      scaling[t]
      * (
          minima[t]
          + np.linalg.matrix_power(np.eye(4) - eta * matrices[t], num_epochs)
          @ (base - minima[t])
          - base
      )
      for t in 'ab'
  )
  trained = base
  for _ in range(num_epochs):
    trained = trained - eta * sum(
        scaling[t] * matrices[t] @ (trained - minima[t]) for t in 'ab'
    )
  arguments = ({'x': jnp.asarray(base)}, fns, scaling)
  numbers = {'learning_rate': eta, 'num_epochs': num_epochs}
  ours = response.linear_response(*arguments, **numbers)['x']
  np.testing.assert_allclose(ours, merged - trained, rtol=1e-11, atol=1e-12)
  second = correction.second_order_correction(*arguments, **numbers)['x']
  if num_epochs == 2:  # Delta_2 = eta^2 C_2 for every loss
    np.testing.assert_allclose(eta**2 * second, ours, rtol=1e-12)
  else:  # the expansion is not exact: this test can tell them apart
    error = np.linalg.norm(eta**2 * second - ours)
    assert error > 0.1 * np.linalg.norm(ours)


def test_the_response_is_the_weighted_drift_plus_what_the_base_moved():
  """Delta_k = sum alpha_t D_t^(k) + (sum alpha_t - 1)(theta_MT - theta_0)."""
  base, fns = problems.base_params(), problems.grad_and_hvp_fns()
  *_, state = response.responses(base, [fns] * 4, SCALING, learning_rate=0.4)
  expected = arithmetic.weighted_sum(state.drift, SCALING)
  excess = sum(SCALING.values()) - 1
  expected = jax.tree.map(
      lambda d, p, b: d + excess * (p - b), expected, state.params, base
  )
  difference = problems.norm(problems.sub(state.response, expected))
  assert difference < 1e-13 * problems.norm(state.response)


def test_the_corrected_merge_is_an_order_closer_to_multitask_training():
  gap, second, _ = gap_and_predictions(3, 1e-3, minibatches=False)
  base = problems.base_params()
  corrected = correction.corrected_merge(
      jax.tree.map(lambda b, g: b + g, base, gap),
      jax.tree.map(lambda c: c / 1e-6, second),
      learning_rate=1e-3,
  )
  left = problems.norm(problems.sub(corrected, base))
  assert left < 0.02 * problems.norm(gap)


def test_the_generators_go_on_from_any_state():
  base, fns = problems.base_params(), [problems.grad_and_hvp_fns()] * 5
  for run in (correction.corrections, response.responses):
    whole = list(run(base, fns, SCALING, learning_rate=0.2))
    rest = list(run(base, fns, SCALING, learning_rate=0.2, state=whole[1]))
    assert [state.step for state in rest] == [3, 4, 5]
    assert problems.norm(problems.sub(rest[-1], whole[-1])) == 0


def test_the_order_of_the_tasks_does_not_matter():
  fns = problems.grad_and_hvp_fns()
  outs = [
      response.linear_response(
          problems.base_params(),
          fns,
          {task: SCALING[task] for task in order},
          learning_rate=0.3,
          num_epochs=4,
      )
      for order in itertools.islice(itertools.permutations(SCALING), 3)
  ]
  for out in outs[1:]:
    difference = problems.norm(problems.sub(out, outs[0]))
    assert difference < 1e-13 * problems.norm(outs[0])


def test_the_indicator_is_zero_for_a_quadratic_and_grows_with_the_drift():
  _, _, curved = quadratics()

  def plain(params):
    return 0.0, curved['a'](params, params)[0]

  point, drift = {'x': jnp.ones(4)}, {'x': jnp.arange(4.0)}
  assert response.indicator(plain, curved['a'], point, drift) < 1e-14
  base = problems.base_params()
  fn, hvp = problems.value_and_grad_fns()['a'], problems.grad_and_hvp_fns()['a']
  _, direction = fn(base)
  values = [
      response.indicator(
          fn, hvp, base, jax.tree.map(lambda d, s=s: s * d, direction)
      )
      for s in (1e-3, 5e-4, 2.5e-4)
  ]
  np.testing.assert_allclose(problems.slopes(values), 1, atol=0.05)
  zeros = jax.tree.map(jnp.zeros_like, base)
  assert np.isnan(response.indicator(fn, hvp, base, zeros))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'scaling': {'a': 1.0}}, r"\['a', 'b', 'c'\] but scaling has \['a'\]"),
        ({'learning_rate': 0.0}, 'positive but is 0.0'),
        ({'num_epochs': 0}, 'at least 1 but is 0'),
    ],
)
def test_arguments_without_sense_are_refused_before_any_work(change, said):
  def untouched(params, v):
    raise AssertionError('a pass over the data was started')

  arguments = {
      'scaling': SCALING,
      'learning_rate': 0.1,
      'num_epochs': 2,
      **change,
  }
  scaling = arguments.pop('scaling')
  fns = dict.fromkeys(SCALING, untouched)
  for fn in (correction.second_order_correction, response.linear_response):
    with pytest.raises(ValueError, match=said):
      fn(problems.base_params(), fns, scaling, **arguments)
