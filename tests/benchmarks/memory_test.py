import jax
import jax.numpy as jnp
import pytest

from benchmarks import memory
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response


def quadratics(num_tasks):
  """Returns parameters of 3 leaves and tasks whose pass makes two trees."""
  params = {f'layer_{i}': jnp.arange(64.0) for i in range(3)}
  grad_and_hvp_fn = jax.jit(
      lambda p, v: (jax.tree.map(jnp.sin, p), jax.tree.map(jnp.cos, v))
  )
  return params, {f'task_{i}': grad_and_hvp_fn for i in range(num_tasks)}


@pytest.mark.parametrize('num_tasks', [2, 5, 9])
@pytest.mark.parametrize(
    'second_order_fn',
    [correction.second_order_correction, response.linear_response],
)
def test_a_second_order_term_holds_at_most_T_plus_7_copies(
    second_order_fn, num_tasks
):
  params, fns = quadratics(num_tasks)
  copies = memory.peak_array_copies(second_order_fn, params, fns, num_epochs=4)
  # T drifts, theta_0, theta_MT, C and the multitask gradient are needed.
  # A pass adds two trees, and each step of the arithmetic one.
  assert num_tasks + 4 <= copies <= num_tasks + 7 < num_tasks + memory.ALLOWED


def test_the_count_sees_every_copy_that_is_kept():
  params, fns = quadratics(2)
  held = []

  def hoard(base_params, fns, scaling, *, learning_rate, num_epochs):
    del scaling, learning_rate
    for _ in range(num_epochs):
      held.append(fns['task_0'](base_params, base_params))
    return base_params

  copies = memory.peak_array_copies(hoard, params, fns, num_epochs=6)
  assert copies == pytest.approx(1 + 2 * 6)


def test_the_count_sees_a_copy_that_lives_within_one_tree_operation():
  params, fns = quadratics(2)

  def double(base_params, fns, scaling, *, learning_rate, num_epochs):
    del fns, scaling, learning_rate
    doubled = base_params
    for _ in range(num_epochs):
      doubled = memory.tree.add(doubled, doubled)  # the old one, then the new
    return doubled

  copies = memory.peak_array_copies(double, params, fns, num_epochs=4)
  assert copies == pytest.approx(3)


def test_data_that_was_alive_before_is_not_counted():
  params, fns = quadratics(3)
  alone = memory.peak_array_copies(
      correction.second_order_correction, params, fns
  )
  data = jnp.ones(10_000)
  beside = memory.peak_array_copies(
      correction.second_order_correction, params, fns
  )
  assert data.size == 10_000
  assert beside == pytest.approx(alone)


def test_either_count_above_the_bar_fails():
  peak = memory.Peak('linear_response', 'ffn', 2, 1, 1000, 10.0, 9.0)
  assert memory.passes(peak)
  assert not memory.passes(peak._replace(arrays=10.1))
  assert not memory.passes(peak._replace(resident=10.1))
