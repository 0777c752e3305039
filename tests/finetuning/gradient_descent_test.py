import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import multitask
from taskvec_jax.task_vectors import arithmetic
from tests import problems


def quadratic(params):
  return jax.value_and_grad(lambda p: 0.5 * jnp.sum(p['x'] ** 2))(params)


def test_descent_on_a_quadratic_contracts_by_one_minus_eta_an_epoch():
  base = {'x': jnp.array([3.0, -1.0])}
  points = [
      params['x']
      for params, _ in gradient_descent.trajectory(
          base, quadratic, learning_rate=0.25, num_epochs=4
      )
  ]
  expected = [0.75 ** (e + 1) * base['x'] for e in range(4)]
  np.testing.assert_allclose(points, expected, rtol=1e-6)


def test_one_epoch_is_minus_eta_times_the_gradient(x64):
  base = problems.base_params()
  fn = problems.value_and_grad_fns()['a']
  ((params, info),) = gradient_descent.trajectory(
      base, fn, learning_rate=0.1, num_epochs=1
  )
  loss, gradient = fn(base)
  step = problems.sub(params, base)
  expected = jax.tree.map(lambda g: -0.1 * g, gradient)
  assert problems.norm(problems.sub(step, expected)) < 1e-15
  assert info.epoch == 1
  assert info.loss == pytest.approx(float(loss), rel=1e-15)
  assert info.gradient_norm == pytest.approx(problems.norm(gradient), rel=1e-14)


def test_going_on_from_any_point_gives_the_same_trajectory(x64):
  fn = problems.value_and_grad_fns()['a']
  whole = list(
      gradient_descent.trajectory(
          problems.base_params(), fn, learning_rate=0.1, num_epochs=5
      )
  )
  rest = list(
      gradient_descent.trajectory(
          whole[1][0], fn, learning_rate=0.1, num_epochs=5, num_done=2
      )
  )
  assert [info for _, info in rest] == [info for _, info in whole[2:]]
  assert problems.norm(problems.sub(rest[-1][0], whole[-1][0])) == 0


def test_a_diverging_run_yields_what_it_has_and_names_the_epoch():
  def explode(params):
    loss = 0.5 * jnp.sum(params['x'] ** 2)
    return loss, {'x': 1e20 * params['x']}

  run = gradient_descent.trajectory(
      {'x': jnp.ones(1)}, explode, learning_rate=1.0, num_epochs=9
  )
  done = []
  with pytest.raises(FloatingPointError, match='inf in epoch 2'):
    for _, info in run:
      done.append(info.epoch)
  assert done == [1]
  with pytest.raises(FloatingPointError, match='nan in epoch 7'):
    gradient_descent.check_finite(float('nan'), 7)


@pytest.mark.parametrize(
    ('numbers', 'said'),
    [
        ({'learning_rate': 0.0, 'num_epochs': 1}, '0.0'),
        ({'learning_rate': -1.0, 'num_epochs': 1}, '-1.0'),
        ({'learning_rate': float('inf'), 'num_epochs': 1}, 'inf'),
        ({'learning_rate': 0.1, 'num_epochs': 0}, 'is 0'),
    ],
)
def test_numbers_without_sense_are_refused_by_the_call_itself(numbers, said):
  with pytest.raises(ValueError, match=said):
    gradient_descent.trajectory({'x': jnp.ones(1)}, quadratic, **numbers)


def test_the_multitask_gradient_is_that_of_the_weighted_sum_of_losses(x64):
  base = problems.base_params()
  fn = multitask.multitask_value_and_grad(
      problems.value_and_grad_fns(), problems.SCALING
  )
  loss, gradient = fn(base)

  def joint(params):
    return sum(
        alpha * problems.mean_loss(task)(params)
        for task, alpha in problems.SCALING.items()
    )

  expected_loss, expected = jax.jit(jax.value_and_grad(joint))(base)
  assert float(loss) == pytest.approx(float(expected_loss), rel=1e-14)
  difference = problems.norm(problems.sub(gradient, expected))
  assert difference < 1e-14 * problems.norm(expected)


def test_multitask_tasks_must_be_those_of_the_coefficients():
  with pytest.raises(ValueError, match=r"\['a'\].*\['b'\]"):
    multitask.multitask_value_and_grad({'a': quadratic}, {'b': 1.0})


def test_alternating_one_epoch_and_merging_is_multitask_descent(x64):
  """(2.3): n rounds of ATM are n steps of multitask training."""
  fns, eta = problems.value_and_grad_fns(), 0.3
  merged = problems.base_params()
  for _ in range(5):
    vectors = {}
    for task, fn in fns.items():
      ((params, _),) = gradient_descent.trajectory(
          merged, fn, learning_rate=eta, num_epochs=1
      )
      vectors[task] = arithmetic.task_vector(params, merged)
    merged = arithmetic.merge(merged, vectors, problems.SCALING)
  objective = multitask.multitask_value_and_grad(fns, problems.SCALING)
  *_, (expected, _) = gradient_descent.trajectory(
      problems.base_params(), objective, learning_rate=eta, num_epochs=5
  )
  for ours, theirs in zip(
      jax.tree.leaves(merged), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5 * 4 * 2.3e-16 * 3)
