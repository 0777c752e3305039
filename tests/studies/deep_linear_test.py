"""Balanced networks: their flow, their descent, their merges, in float64."""

import jax
import numpy as np
import pytest

from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_flow
from taskvec_jax.studies import linear_merging
from taskvec_jax.studies import linear_teachers
from taskvec_jax.task_vectors import arithmetic

pytestmark = pytest.mark.usefixtures('x64')

_SIZES, _COSINES = (0.5, 2.0, 1.5), (0.5, 1.0, -0.5)


def draw(num_draws=1, seed=0):
  return deep_linear.draw_problems(
      np.random.default_rng(seed),
      sizes=_SIZES,
      cosines=_COSINES,
      dimension=10,
      num_examples=2,
      num_draws=num_draws,
  )


def start(problems, num_layers, *, step=1.0, width=3):
  params = deep_linear.balanced_params(
      problems.source, num_layers=num_layers, width=width, seed=1
  )
  weights = step * deep_linear.time_units(problems, num_layers=num_layers)
  fn = deep_linear.value_and_grad_fn(
      problems, weights, num_layers=num_layers, width=width
  )
  return params, weights, fn


def relative(found, wanted):
  return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(
      wanted, axis=-1
  )


@pytest.mark.parametrize('num_layers', [1, 2, 5])
def test_a_balanced_start_is_balanced_and_is_its_teacher(num_layers):
  source = draw().source * 3
  params = deep_linear.balanced_params(
      source, num_layers=num_layers, width=4, seed=0
  )
  np.testing.assert_allclose(deep_linear.end_to_end(params), source)
  assert params[f'layer_{num_layers - 1}']['kernel'].shape[-1] == 1
  if num_layers > 1:
    assert deep_linear.imbalance(params) < 1e-14
    params['layer_0']['kernel'] *= 2
    assert deep_linear.imbalance(params) > 0.1


def test_draws_have_the_size_and_cosine_of_their_kind_and_share_inputs():
  problems = draw(num_draws=2)
  assert problems.inputs.shape == (6, 2, 10)
  np.testing.assert_allclose(
      np.linalg.norm(problems.target, axis=-1), _SIZES * 2
  )
  cosines = np.sum(problems.source * problems.target, axis=-1) / (_SIZES * 2)
  np.testing.assert_allclose(cosines, _COSINES * 2, atol=1e-12)
  assert np.array_equal(problems.inputs[0], problems.inputs[2])
  assert not np.array_equal(problems.inputs[0], problems.inputs[3])


def test_the_gradient_is_that_of_the_weighted_squares():
  problems = draw()
  params, weights, fn = start(problems, 3)
  loss, gradient = fn(params)

  def written_out(params):
    product = 1.0
    for index in range(3):
      kernel = params[f'layer_{index}']['kernel']
      product = kernel if index == 0 else product @ kernel
    errors = np.einsum('pnd,pd->pn', problems.inputs, problems.target)
    errors = (problems.inputs @ product)[..., 0] - errors
    return (weights * (errors**2).sum(-1)).sum() / 4

  wanted, wanted_gradient = jax.value_and_grad(written_out)(
      jax.tree.map(jax.numpy.asarray, params)
  )
  np.testing.assert_allclose(loss, wanted, rtol=1e-12)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12),
      gradient,
      wanted_gradient,
  )


@pytest.mark.parametrize('num_layers', [2, 7])
def test_the_flow_of_the_layers_ends_at_the_formula(num_layers):
  problems = draw()
  params, _, fn = start(problems, num_layers)
  end = linear_flow.gradient_flow(params, fn, tolerance=1e-9)
  limits = deep_linear.limits(problems, num_layers=num_layers)
  assert relative(deep_linear.end_to_end(end), limits).max() < 1e-7
  assert deep_linear.imbalance(end) < 1e-7


def test_descent_is_off_by_the_step_as_predicted_to_second_order():
  problems = draw()
  limits = deep_linear.limits(problems, num_layers=3)
  params, weights, fn = start(problems, 3)
  errors, rests = [], []
  for step in (0.4, 0.2, 0.1):
    end = deep_linear.end_to_end(
        linear_flow.descend(params, fn, step_size=step, tolerance=1e-10)
    )
    predicted = np.stack(
        [
            linear_flow.modified_flow_limit(
                *problem, num_layers=3, step_size=step * weight
            )
            for problem, weight in zip(
                zip(*problems, strict=True), weights, strict=True
            )
        ]
    )
    errors.append(relative(end, limits))
    rests.append(relative(end, predicted))
  np.testing.assert_allclose(np.log2(errors[1] / errors[2]), 1, atol=0.1)
  np.testing.assert_allclose(np.log2(rests[1] / rests[2]), 2, atol=0.2)
  assert np.all(rests[2] < 0.1 * errors[2])


def test_the_reduced_flow_without_a_step_ends_at_the_formula():
  problems = draw()
  for num_layers in (2, 5):
    for problem, limit in zip(
        zip(*problems, strict=True),
        deep_linear.limits(problems, num_layers=num_layers),
        strict=True,
    ):
      end = linear_flow.modified_flow_limit(
          *problem, num_layers=num_layers, step_size=0.0
      )
      np.testing.assert_allclose(end, limit, atol=1e-7)


def test_one_layer_has_no_step_size_error():
  problems = draw()
  params, _, fn = start(problems, 1)
  limits = deep_linear.limits(problems, num_layers=1)
  for step in (1.0, 0.3):
    end = linear_flow.descend(params, fn, step_size=step, tolerance=1e-13)
    assert relative(deep_linear.end_to_end(end), limits).max() < 1e-12


def test_what_does_not_end_says_so():
  problems = draw()
  params, _, fn = start(problems, 2)
  with pytest.raises(FloatingPointError, match='after 3 steps of 0.1'):
    linear_flow.descend(params, fn, step_size=0.1, max_steps=3)
  with pytest.raises(FloatingPointError, match='let it run longer'):
    linear_flow.gradient_flow(params, fn, duration=0.1, max_pieces=1)


def test_merged_networks_are_the_formula_of_their_end_to_end_vectors():
  # Three tasks from one base: the kinds of a draw share their source.
  problems = draw()
  base = deep_linear.balanced_params(
      problems.source, num_layers=3, width=3, seed=1
  )
  # One problem's hidden directions for all, as for finetuning one network.
  base = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 3, axis=0), base)
  _, _, fn = start(problems, 3)
  end = linear_flow.gradient_flow(base, fn, tolerance=1e-9)
  ends = deep_linear.end_to_end(end)

  def one(params, t):
    return jax.tree.map(lambda leaf: leaf[t : t + 1], params)

  scaling = {'a': 0.7, 'b': 0.5, 'c': -0.2}
  vectors = {
      task: arithmetic.task_vector(one(end, t), one(base, t))
      for t, task in enumerate(scaling)
  }
  merged = arithmetic.merge(one(base, 0), vectors, scaling)
  wanted = linear_merging.merged_network(
      problems.source[0], ends, np.array(list(scaling.values())), num_layers=3
  )
  np.testing.assert_allclose(
      deep_linear.end_to_end(merged)[0], wanted, atol=1e-7
  )


def test_a_merge_of_one_layer_is_the_sum_of_projected_differences():
  problems = draw()
  limits = deep_linear.limits(problems, num_layers=1)
  scaling = np.array([0.3, 0.4, 0.5])
  merged = linear_merging.merged_network(
      problems.source[0], limits, scaling, num_layers=1
  )
  basis = linear_teachers.row_space(problems.inputs[0])
  seen = linear_teachers.seen(basis, problems.target - problems.source)
  np.testing.assert_allclose(merged, problems.source[0] + scaling @ seen)


def test_networks_that_do_not_move_are_refused():
  with pytest.raises(ValueError, match='Problem 1 starts at zero'):
    deep_linear.balanced_params(
        np.array([[1.0, 0.0], [0.0, 0.0]]), num_layers=2, width=3, seed=0
    )
  with pytest.raises(ValueError, match='num_layers must be at least 1'):
    deep_linear.balanced_params(np.ones((1, 2)), num_layers=0, width=3, seed=0)
