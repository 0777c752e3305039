import jax
import numpy as np
import pytest

from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from tests.merging import cases


def mask_oracle(row, merged, value):
  return [abs(x) > value * abs(m - x) for x, m in zip(row, merged, strict=True)]


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_masks_and_consensus_are_votes_on_each_coordinate(num_tasks, kind):
  vectors = cases.task_vectors(num_tasks, kind)
  rows = cases.flats(vectors)
  # 1 makes ties between both sides of the comparison, on integers.
  lambdas = {t: [1.0, 0.2, 0.6][i % 3] for i, t in enumerate(vectors)}
  for merged in (None, ties.ties(vectors, merge='dis-sum')):
    whole = rows.sum(axis=0) if merged is None else cases.flat(merged)
    expected = [
        mask_oracle(row, whole, value)
        for row, value in zip(rows, lambdas.values(), strict=True)
    ]
    masks = tall_masks.tall_masks(vectors, lambdas=lambdas, merged=merged)
    np.testing.assert_array_equal(cases.flats(masks), expected)
    assert cases.flats(masks).dtype == bool
    for min_tasks in (0, 1, 2, num_tasks + 1):
      agreed = tall_masks.consensus(
          vectors, min_tasks=min_tasks, lambdas=lambdas, merged=merged
      )
      votes = [sum(column) for column in zip(*expected, strict=True)]
      cases.assert_close(
          agreed,
          [
              m if v >= min_tasks else 0.0
              for m, v in zip(whole, votes, strict=True)
          ],
      )


def test_one_task_claims_all_that_it_moved():
  vectors = cases.task_vectors(1, 'sparse', seed=1)
  vectors['task 0']['dense']['kernel'][0, 0] = 1.0
  masks = tall_masks.tall_masks(vectors)['task 0']
  np.testing.assert_array_equal(
      cases.flat(masks), cases.flat(vectors['task 0']) != 0
  )


def test_each_task_gets_the_lambda_that_its_own_score_prefers():
  vectors = cases.task_vectors(2)
  wanted = {'task 0': 0.3, 'task 1': 0.6}
  by_value = {
      value: tall_masks.tall_masks(
          vectors, lambdas=dict.fromkeys(vectors, value)
      )
      for value in tall_masks.LAMBDAS
  }
  whole = cases.flats(vectors).sum(axis=0)
  targets = {
      task: whole * cases.flat(by_value[wanted[task]][task]) for task in vectors
  }

  def score_fn(task, vector):
    return -float(np.sum((cases.flat(vector) - targets[task]) ** 2))

  found = tall_masks.localize(vectors, score_fn)
  for task in vectors:
    scores = found.scores[task]
    assert len(scores) == 5
    assert max(scores) == 0.0
    # The first of equal scores.
    assert found.lambdas[task] == tall_masks.LAMBDAS[scores.index(0.0)]
    np.testing.assert_array_equal(
        whole * cases.flat(found.masks[task]), targets[task]
    )


def test_packed_masks_take_a_bit_a_coordinate_and_come_back():
  vectors = cases.task_vectors(8)
  for mask in tall_masks.tall_masks(vectors).values():
    packed = tall_masks.pack(mask)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(packed)]
    assert sizes == [1, 2, 1, 1]  # of 3, 12, 1 and 1 coordinates
    back = tall_masks.unpack(packed, like=vectors['task 0'])
    assert back['dense']['kernel'].shape == (4, 3)
    np.testing.assert_array_equal(cases.flat(back), cases.flat(mask))
  with pytest.raises(ValueError, match=r'dense/bias has shape \(1,\)'):
    tall_masks.unpack(
        packed,
        like={
            **vectors['task 0'],
            'dense': {'bias': np.zeros(9), 'kernel': np.zeros((4, 3))},
        },
    )


def test_slices_agree_as_the_whole_does():
  vectors = cases.task_vectors(8)
  rows = cases.flats(vectors)
  whole = sum(rows)  # one after the other, as the method adds
  numbers = {'lambdas': np.full(8, 0.4), 'min_tasks': 2}
  sliced = [
      tall_masks.agreed(rows[:, part], whole[part], **numbers)
      for part in (slice(0, 5), slice(5, None))
  ]
  agreed = tall_masks.consensus(vectors, lambdas=dict.fromkeys(vectors, 0.4))
  np.testing.assert_array_equal(np.concatenate(sliced), cases.flat(agreed))


@pytest.mark.parametrize(
    ('numbers', 'said'),
    [
        ({'lambdas': {'task 0': 0.2}}, r"\['task 0', 'task 1'\]"),
        (
            {'lambdas': {'task 0': 0.2, 'task 1': -1.0}},
            'not negative but is -1.0 for task 1',
        ),
        ({'min_tasks': -1}, 'min_tasks must not be negative but is -1'),
        ({'merged': {'x': np.zeros(3)}}, 'dense/bias: absent in merged'),
    ],
)
def test_wrong_numbers_and_trees_are_refused(numbers, said):
  with pytest.raises(ValueError, match=said):
    tall_masks.consensus(cases.task_vectors(2), **numbers)


def test_localizing_needs_candidates_and_scores_that_are_numbers():
  vectors = cases.task_vectors(2)
  with pytest.raises(ValueError, match='no lambdas'):
    tall_masks.localize(vectors, lambda task, vector: 0.0, lambdas=())
  with pytest.raises(ValueError, match='but is -0.5 for task 0'):
    tall_masks.localize(vectors, lambda task, vector: 0.0, lambdas=(-0.5,))
  with pytest.raises(FloatingPointError, match='task 0 at lambda 0.2'):
    tall_masks.localize(vectors, lambda task, vector: float('nan'))
