import itertools

import numpy as np
import pytest

from taskvec_jax.merging import leaves
from taskvec_jax.merging import pcgrad
from tests.merging import cases


def surgery(rows, orders):
  """The paper's loop on whole vectors, task i against orders[i] in turn."""
  total = np.zeros_like(rows[0])
  for index, order in enumerate(orders):
    row = rows[index].copy()
    for other in order:
      product = sum(x * y for x, y in zip(row, rows[other], strict=True))
      if product < 0:
        norm = sum(x * x for x in rows[other])
        row = row - product / norm * rows[other]
    total += row
  return total


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_in_the_mappings_order_it_is_gradient_surgery(num_tasks, kind):
  vectors = cases.task_vectors(num_tasks, kind)
  rows = cases.flats(vectors)
  orders = [
      [other for other in range(num_tasks) if other != index]
      for index in range(num_tasks)
  ]
  # Of the largest entry of the result: in others all may cancel.
  cases.assert_close(pcgrad.pcgrad(vectors, seed=None), surgery(rows, orders))


def test_a_seed_takes_the_others_in_some_order_which_it_alone_decides():
  rows = cases.flats(cases.task_vectors(3))
  rows[2] -= 0.8 * (rows[0] + rows[1])  # conflict, so that the order matters
  vectors = {task: {'x': row} for task, row in zip('abc', rows, strict=True)}
  pairs = [
      list(itertools.permutations([o for o in range(3) if o != index]))
      for index in range(3)
  ]
  possible = np.array([surgery(rows, o) for o in itertools.product(*pairs)])
  seen = set()
  for seed in range(12):
    merged = pcgrad.pcgrad(vectors, seed=seed)['x']
    errors = np.abs(possible - merged).max(axis=1)
    assert errors.min() < 1e-12 * np.abs(merged).max()
    seen.add(merged.tobytes())
    turned = pcgrad.pcgrad(dict(reversed(vectors.items())), seed=seed)['x']
    cases.assert_close(turned, merged)
  assert len(seen) > 1


def test_two_opposed_tasks_keep_nothing_and_zeros_conflict_with_nothing():
  row = np.array([1.0, 2.0])
  pair = {'a': {'x': row}, 'b': {'x': -3 * row}}
  np.testing.assert_allclose(pcgrad.pcgrad(pair)['x'], 0.0, atol=1e-15)
  pair = {'a': {'x': row}, 'b': {'x': 0 * row}}
  np.testing.assert_array_equal(pcgrad.pcgrad(pair)['x'], row)


def test_coefficients_come_from_inner_products_which_slices_add_up():
  vectors = cases.task_vectors(8)
  rows = cases.flats(vectors)
  gram = leaves.stack_gram(rows[:, :5]) + leaves.stack_gram(rows[:, 5:])
  weights = pcgrad.coefficients(gram, tuple(vectors), seed=4)
  cases.assert_close(pcgrad.pcgrad(vectors, seed=4), np.dot(weights, rows))
