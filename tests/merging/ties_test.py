import math

import numpy as np
import pytest

from taskvec_jax.merging import ties
from tests.merging import cases


def kept_by_rank(row, density):
  """The paper's: the floor(K d) largest, and whatever ties with the last."""
  num = math.floor(round(density * len(row), 9))
  by_size = sorted((abs(x) for x in row), reverse=True)
  return [num > 0 and abs(x) >= by_size[num - 1] for x in row]


def kept_by_kthvalue(row, density):
  """The reference implementation's: kthvalue(d - int(d K)), which at K = 1
  does not exist; everything is kept there."""
  k = len(row) - int(len(row) * density)
  if k == 0:
    return [True] * len(row)
  return [abs(x) >= sorted(map(abs, row))[k - 1] for x in row]


def oracle(rows, density, count, tie_break, merge):
  """TIES of `rows` [T, d], one coordinate after the other."""
  keep_fn = {'exact': kept_by_rank, 'reference': kept_by_kthvalue}[count]
  trimmed = [
      [
          x if keep else 0.0
          for x, keep in zip(row, keep_fn(row, density), strict=True)
      ]
      for row in rows
  ]
  columns = list(zip(*trimmed, strict=True))
  masses = [sum(column) for column in columns]
  majority = sum(math.copysign(1, mass) for mass in masses if mass != 0)
  result = []
  for column, mass in zip(columns, masses, strict=True):
    if mass == 0:
      mass = {
          'zero': 0,
          'plus': 1,
          'majority': 1 if majority > 0 else -1,
      }[tie_break]
    if mass > 0:
      agreeing = [x for x in column if x > 0]
    elif mass < 0:
      agreeing = [x for x in column if x < 0]
    else:
      agreeing = []
    if not agreeing:
      result.append(0.0)
    elif merge == 'dis-mean':
      result.append(sum(agreeing) / len(agreeing))
    elif merge == 'dis-sum':
      result.append(sum(agreeing))
    else:
      result.append(max(agreeing, key=abs))
  return result


def expected_of(task_vectors, scope, *numbers):
  if scope == 'global':
    return oracle(cases.flats(task_vectors), *numbers)
  by_leaf = zip(
      *(cases.leaves_of(v) for v in task_vectors.values()), strict=True
  )
  return np.concatenate([oracle(rows, *numbers) for rows in by_leaf])


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
@pytest.mark.parametrize('scope', ties.SCOPES)
def test_ties_is_trim_elect_merge_coordinate_by_coordinate(
    scope, num_tasks, kind
):
  vectors = cases.task_vectors(num_tasks, kind)
  for density in (0.0, 0.2, 0.5, 1.0):
    for count in ties.COUNTS:
      merged = ties.ties(vectors, density=density, scope=scope, count=count)
      expected = expected_of(vectors, scope, density, count, 'zero', 'dis-mean')
      cases.assert_close(merged, expected)


@pytest.mark.parametrize('merge', ties.MERGES)
@pytest.mark.parametrize('tie_break', ties.TIE_BREAKS)
@pytest.mark.parametrize('scope', ties.SCOPES)
def test_signs_that_cancel_are_elected_by_the_named_rule(
    scope, tie_break, merge
):
  num_cancelled = 0
  for seed in range(4):
    vectors = cases.task_vectors(2, 'ties', seed)
    num_cancelled += np.sum(cases.flats(vectors).sum(axis=0) == 0)
    merged = ties.ties(
        vectors, density=1.0, scope=scope, tie_break=tie_break, merge=merge
    )
    expected = expected_of(vectors, scope, 1.0, 'exact', tie_break, merge)
    cases.assert_close(merged, expected)
  assert num_cancelled > 3  # there was something to elect


def test_a_majority_of_zero_elects_minus():
  vectors = {
      'a': {'x': np.array([1.0, 2.0])},
      'b': {'x': -np.array([1.0, 2.0])},
  }
  merged = ties.ties(vectors, density=1.0, tie_break='majority')
  np.testing.assert_array_equal(merged['x'], [-1.0, -2.0])


def test_the_reference_keeps_one_more_than_the_share_and_never_more_than_all():
  assert ties.num_kept(100, density=0.2) == 20
  assert ties.num_kept(100, density=0.2, count='reference') == 21
  assert ties.num_kept(100, density=1.0, count='reference') == 100
  assert ties.num_kept(1, density=0.2) == 0
  assert ties.num_kept(1, density=0.2, count='reference') == 1
  # 0.29 * 100 is below 29 in floats.
  assert ties.num_kept(100, density=0.29) == 29
  assert ties.num_kept(100, density=0.29, count='reference') == 29


def test_what_survives_adds_up_to_dis_sum():
  vectors = cases.task_vectors(8, 'ties')
  numbers = {'density': 0.5, 'tie_break': 'plus'}
  parts = ties.survivors(vectors, **numbers)
  assert list(parts) == list(vectors)
  merged = ties.ties(vectors, **numbers, merge='dis-sum')
  cases.assert_close(merged, cases.flats(parts).sum(axis=0))
  rows, kept = cases.flats(vectors), cases.flats(parts)
  assert np.all((kept == 0) | (kept == rows))


def test_slices_merged_one_by_one_are_the_whole_bit_by_bit():
  rows = cases.flats(cases.task_vectors(8, 'ties')).astype(np.float32)
  rows += cases.flats(cases.task_vectors(8)).astype(np.float32) * 1e-3
  num = ties.num_kept(rows.shape[1], density=0.4)
  thresholds = np.stack([ties.threshold(np.abs(row), num) for row in rows])
  pieces = [rows[:, :5], rows[:, 5:6], rows[:, 6:]]
  majority = sum(ties.sign_sum(ties.trim(p, thresholds)) for p in pieces)
  numbers = {'majority': majority, 'tie_break': 'majority'}
  sliced = [ties.elect(ties.trim(p, thresholds), **numbers) for p in pieces]
  whole = ties.ties(
      {str(index): {'x': row} for index, row in enumerate(rows)},
      density=0.4,
      tie_break='majority',
  )
  assert whole['x'].dtype == np.float32
  np.testing.assert_array_equal(np.concatenate(sliced), whole['x'])


@pytest.mark.parametrize(
    ('numbers', 'said'),
    [
        ({'density': -0.1}, r'density must lie between 0 and 1 but is -0\.1'),
        ({'density': 20}, 'density must lie between 0 and 1 but is 20'),
        ({'density': float('nan')}, 'density must lie'),
        ({'scope': 'layer'}, "one of global, per_tensor but is 'layer'"),
        ({'count': 'most'}, "one of exact, reference but is 'most'"),
        ({'tie_break': 'minus'}, "one of zero, majority, plus but is 'minus'"),
        ({'merge': 'mean'}, "dis-mean, dis-sum, dis-max but is 'mean'"),
    ],
)
def test_numbers_and_names_out_of_range_are_refused(numbers, said):
  with pytest.raises(ValueError, match=said):
    ties.ties(cases.task_vectors(2), **numbers)
