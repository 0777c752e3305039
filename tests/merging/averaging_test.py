import math

import numpy as np
import pytest

from taskvec_jax.merging import averaging
from taskvec_jax.merging import leaves
from tests.merging import cases


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_the_average_is_the_mean_of_each_coordinate(num_tasks, kind):
  vectors = cases.task_vectors(num_tasks, kind)
  expected = [
      sum(col) / num_tasks for col in zip(*cases.flats(vectors), strict=True)
  ]
  cases.assert_close(averaging.average(vectors), expected)


def stock_oracle(rows):
  """Model Stock of one tensor's `rows` [T, n], by its formula."""
  num = len(rows)
  if num == 1:
    return list(rows[0])
  cosines = []
  for i in range(num):
    for j in range(i):
      norms = math.hypot(*rows[i]) * math.hypot(*rows[j])
      product = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
      cosines.append(product / norms if norms else 0.0)
  cosine = max(sum(cosines) / len(cosines), 0.0)
  ratio = num * cosine / (1 + (num - 1) * cosine)
  return [ratio * sum(column) / num for column in zip(*rows, strict=True)]


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_model_stock_shortens_each_tensor_by_its_own_mean_cosine(
    num_tasks, kind
):
  vectors = cases.task_vectors(num_tasks, kind)
  if kind == 'normal':  # agree enough for cosines above 0
    for vector in vectors.values():
      vector['dense']['kernel'] += 1.0
      vector['dense']['bias'] += 2.0
  by_leaf = zip(*(cases.leaves_of(v) for v in vectors.values()), strict=True)
  expected = np.concatenate([stock_oracle(rows) for rows in by_leaf])
  cases.assert_close(averaging.model_stock(vectors), expected)


def test_model_stock_keeps_what_agrees_and_drops_what_does_not():
  row = np.array([1.0, 2.0])
  same = {'a': {'x': row}, 'b': {'x': 3 * row}}
  cases.assert_close(averaging.model_stock(same), 2 * row)
  for other in ([-2.0, 1.0], [-1.0, -2.0], [0.0, 0.0]):  # cosines 0, -1, none
    pair = {'a': {'x': row}, 'b': {'x': np.array(other)}}
    assert not np.any(averaging.model_stock(pair)['x'])


def test_model_stock_needs_only_inner_products_which_slices_add_up():
  rows = cases.flats(cases.task_vectors(8)) + 1.0
  grams = [leaves.stack_gram(part) for part in (rows[:, :7], rows[:, 7:])]
  ratio = averaging.interpolation(grams[0] + grams[1])
  vectors = {str(index): {'x': row} for index, row in enumerate(rows)}
  cases.assert_close(
      averaging.model_stock(vectors), ratio * averaging.mean(rows)
  )


def scores_of(target):
  """Returns a score that is the higher the nearer to `target`."""
  return lambda vector: -float(np.sum((cases.flat(vector) - target) ** 2))


def soup_oracle(rows, score_fn):
  order = sorted(range(len(rows)), key=lambda i: score_fn(rows[i]))[::-1]
  kept = [order[0]]
  for index in order[1:]:
    soup = sum(rows[i] for i in kept) / len(kept)
    candidate = (len(kept) * soup + rows[index]) / (len(kept) + 1)
    if score_fn(candidate) > score_fn(soup):
      kept.append(index)
  return kept


@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_the_greedy_soup_keeps_what_raises_its_score(num_tasks):
  num_kept, num_seeds = 0, 10
  for seed in range(num_seeds):
    vectors = cases.task_vectors(num_tasks, seed=seed)
    rows = cases.flats(vectors)
    share = (seed + 0.5) / num_seeds  # between the average and the first task
    score_fn = scores_of((1 - share) * rows.mean(axis=0) + share * rows[0])
    soup = averaging.greedy_soup(vectors, score_fn)
    kept = soup_oracle(rows, score_fn)
    assert soup.ingredients == tuple(f'task {index}' for index in kept)
    cases.assert_close(soup.task_vector, rows[kept].mean(axis=0))
    assert soup.score == score_fn(soup.task_vector)
    num_kept += len(kept)
  # Some are taken in and some are not.
  assert num_tasks == 1 or num_seeds < num_kept < num_seeds * num_tasks


def test_equal_scores_add_nothing_to_a_soup_and_the_first_of_equals_begins():
  vectors = cases.task_vectors(8)
  soup = averaging.greedy_soup(vectors, lambda vector: 0.5)
  assert soup.ingredients == ('task 0',)


def test_a_score_that_is_not_a_number_names_its_task():
  with pytest.raises(FloatingPointError, match='task 0'):
    averaging.greedy_soup(cases.task_vectors(2), lambda vector: math.nan)
