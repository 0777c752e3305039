import math

import numpy as np
import pytest

from taskvec_jax.merging import breadcrumbs
from tests.merging import cases


def paper_oracle(rows, beta, gamma):
  """Sum over tasks of one tensor's middle, by sorting."""
  result = np.zeros(len(rows[0]))
  for row in rows:
    size = len(row)
    num_small = math.floor(round(beta * size, 9))
    num_large = math.floor(round((1 - gamma) * size, 9))
    ordered = sorted(abs(x) for x in row)
    masked = ordered[:num_small] + ordered[size - num_large :]
    for index, x in enumerate(row):
      below = num_small and abs(x) <= ordered[num_small - 1]
      above = num_large and abs(x) >= ordered[size - num_large]
      if not below and not above:
        assert abs(x) not in masked
        result[index] += x
  return result


def reference_oracle(tensor, beta, gamma):
  """The reference implementation's rows, one topk after the other."""
  if tensor.ndim == 0:
    return tensor
  result = np.zeros_like(tensor)
  size = tensor.shape[-1]
  for place in np.ndindex(tensor.shape[:-1]):
    row = tensor[place].tolist()
    for keep, share in ((False, gamma), (True, beta)):
      chosen = sorted(range(size), key=lambda i, row=row: -abs(row[i]))
      chosen = chosen[: int(size * share)]
      row = [x if (i in chosen) == keep else 0.0 for i, x in enumerate(row)]
    result[place] = row
  return result


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_breadcrumbs_sum_the_middle_of_each_tensor(num_tasks, kind):
  vectors = cases.task_vectors(num_tasks, kind)
  for beta, gamma in [(0.0, 1.0), (0.5, 0.75), (0.85, 0.993), (0.3, 0.3)]:
    merged = breadcrumbs.breadcrumbs(vectors, beta=beta, gamma=gamma)
    by_leaf = zip(*(cases.leaves_of(v) for v in vectors.values()), strict=True)
    expected = [paper_oracle(rows, beta, gamma) for rows in by_leaf]
    cases.assert_close(merged, np.concatenate(expected))


@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_the_references_parametrisation_masks_within_rows(num_tasks):
  vectors = cases.task_vectors(num_tasks)
  for beta, gamma in [(0.2, 0.1), (0.4, 0.4), (1.0, 0.0), (0.0, 1.0), (1, 1)]:
    merged = breadcrumbs.breadcrumbs(
        vectors, beta=beta, gamma=gamma, parametrisation='reference'
    )
    parts = [
        cases.flat(
            {
                'dense': {
                    name: reference_oracle(leaf, beta, gamma)
                    for name, leaf in vector['dense'].items()
                },
                'one': reference_oracle(vector['one'], beta, gamma),
                'scale': reference_oracle(vector['scale'], beta, gamma),
            }
        )
        for vector in vectors.values()
    ]
    cases.assert_close(merged, np.sum(parts, axis=0))


def test_of_rows_with_equal_magnitudes_the_reference_keeps_its_counts():
  row = {'x': np.array([[1.0, -1.0, 1.0, -1.0, 1.0]])}
  merged = breadcrumbs.breadcrumbs(
      {'a': row}, beta=0.4, gamma=0.2, parametrisation='reference'
  )
  np.testing.assert_array_equal(merged['x'], [[0.0, -1.0, 1.0, 0.0, 0.0]])


def test_nothing_is_left_of_a_vector_of_equal_magnitudes():
  row = {'x': np.array([1.0, -1.0] * 10)}
  assert not np.any(breadcrumbs.breadcrumbs({'a': row})['x'])
  # Unless the shares are too small to mask anything.
  short = {'x': np.array([1.0])}
  assert breadcrumbs.breadcrumbs({'a': short})['x'] == 1.0


def test_the_three_parametrisations_are_the_same_masks():
  # beta = 1 - beta' - gamma', gamma = 1 - gamma', on one row of 100.
  row = {'x': np.random.default_rng(0).normal(size=(1, 100))}
  ours = breadcrumbs.breadcrumbs({'a': row}, beta=0.7, gamma=0.9)
  theirs = breadcrumbs.breadcrumbs(
      {'a': row}, beta=0.2, gamma=0.1, parametrisation='reference'
  )
  assert np.sum(ours['x'] != 0) == 20
  np.testing.assert_array_equal(ours['x'], theirs['x'])


def test_slices_masked_one_by_one_are_the_whole():
  rows = cases.flats(cases.task_vectors(2))
  tails = [breadcrumbs.cuts(np.abs(r), beta=0.3, gamma=0.8) for r in rows]
  low, high = np.array(tails).T
  sliced = [
      sum(breadcrumbs.mask_tails(part, low, high))
      for part in (rows[:, :5], rows[:, 5:])
  ]
  whole = breadcrumbs.breadcrumbs(
      {'a': {'x': rows[0]}, 'b': {'x': rows[1]}}, beta=0.3, gamma=0.8
  )
  np.testing.assert_array_equal(np.concatenate(sliced), whole['x'])


@pytest.mark.parametrize(
    ('numbers', 'said'),
    [
        ({'beta': 1.5}, 'beta must lie between 0 and 1 but is 1.5'),
        ({'gamma': -1.0}, 'gamma must lie between 0 and 1 but is -1'),
        ({'beta': 0.2, 'gamma': 0.1}, "parametrisation='reference'"),
        ({'parametrisation': 'mergekit'}, 'one of paper, reference'),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, said):
  with pytest.raises(ValueError, match=said):
    breadcrumbs.breadcrumbs(cases.task_vectors(2), **numbers)
