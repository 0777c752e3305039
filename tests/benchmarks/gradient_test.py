import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gradient
from benchmarks import problem
from benchmarks import timing
from taskvec_jax.models import vit


def _products(jaxpr):
  """Returns the operations of all matrix products in a jaxpr."""
  total = 0
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', None)
      if inner is not None:
        total += _products(inner)
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      (out,) = equation.outvars
      total += (
          2
          * math.prod(out.aval.shape)
          * math.prod(left[axis] for axis in contracted)
      )
  return total


@pytest.mark.parametrize('depth', [1, 3])
def test_operations_are_those_of_the_products_in_the_gradient(depth):
  module = vit.ViT(
      patch_size=4, width=12, depth=depth, num_heads=3, mlp_width=20
  )
  task = problem.of_module(module, (12, 12, 2), num_examples=5, batch_size=5)
  batch = jax.tree.map(lambda x: jnp.asarray(x[0, 0]), task.batches)
  gradient_fn = jax.grad(task.loss_sum)
  found = jax.make_jaxpr(gradient_fn)(task.params, batch)
  head = 2 * 2 * 12 * 10  # forward, and the gradient of the features
  expected = gradient.gradient_operations(module, 12, 2) + head
  assert _products(found.jaxpr) == 5 * expected
  found = jax.make_jaxpr(
      lambda params, v: jax.jvp(
          lambda p: gradient_fn(p, batch), (params,), (v,)
      )
  )(task.params, task.direction)
  expected = gradient.second_order_operations(module, 12, 2) + 2 * head
  assert _products(found.jaxpr) == 5 * expected


def test_a_missed_goal_is_named_with_both_numbers():
  def three(value):
    return timing.Quartiles(value, value, value)

  good = gradient.Rate(
      'B/32',
      64,
      16,
      1,
      three(8),
      three(4),
      three(2),
      three(2.2),
      three(1),
      three(0.9),
      three(0.01),
      1e-7,
  )
  assert gradient.missed(good) == []
  bad = good._replace(
      speedup=three(1.5), share=three(0.7), overhead=three(0.08)
  )
  speedup, share, overhead = gradient.missed(bad)
  assert '1.50' in speedup and '1.7' in speedup and '2.20' in speedup
  assert '70%' in share and '85%' in share
  assert '8.0%' in overhead and '5%' in overhead
