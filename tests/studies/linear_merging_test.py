"""Interference of task vectors of linear teachers, against Monte Carlo."""

import itertools

import numpy as np
import pytest

from taskvec_jax.merging import regmean
from taskvec_jax.studies import linear_merging
from taskvec_jax.studies import linear_teachers

_D = 12


def draw_inputs(rng, counts):
  return [rng.normal(size=(count, _D)) for count in counts]


def test_addition_leaves_training_exact_where_projections_are_orthogonal():
  rng = np.random.default_rng(1)
  differences = rng.normal(size=(2, _D))
  rows = np.eye(_D)
  seen_axes = np.zeros(_D)
  seen_axes[:3] = 1  # task 0's examples span the first three axes
  for second, is_exact in ((rows[3:6], True), (rows[2:6], False)):
    risks = linear_merging.merged_risks(
        differences, [rows[:3], second], np.ones(2), seen_axes
    )
    assert (risks[0] < 1e-20) == is_exact


def test_the_expected_risk_is_the_mean_over_inputs_for_any_tasks():
  rng = np.random.default_rng(2)
  differences = rng.normal(size=(3, _D))
  scaling, counts = np.array([0.7, 0.4, -0.3]), (3, 4, 6)
  draws = np.array(
      [
          linear_merging.merged_risks(
              differences, draw_inputs(rng, counts), scaling, np.ones(_D)
          )
          for _ in range(1500)
      ]
  )
  law = linear_merging.expected_risks(
      differences @ differences.T, np.array(counts) / _D, scaling
  )
  errors = draws.std(axis=0) / np.sqrt(len(draws))
  assert np.all(np.abs(draws.mean(axis=0) - law) < 4 * errors)
  assert np.all(errors < 0.02 * law)


def test_an_overlap_is_the_inner_product_of_two_projections():
  inputs = draw_inputs(np.random.default_rng(8), (3, 5, 4))
  projections = [np.linalg.pinv(x) @ x for x in inputs]
  wanted = [
      [
          np.trace(p @ q) / np.sqrt(np.trace(p) * np.trace(q))
          for q in projections
      ]
      for p in projections
  ]
  np.testing.assert_allclose(
      linear_merging.overlaps(inputs), wanted, rtol=1e-12
  )


def test_the_expected_overlap_is_exact_over_all_sets_of_axes():
  # Their projections average to (n/d) I exactly, as those of random rows do.
  first = np.random.default_rng(9).normal(size=(2, 6))
  found = [
      linear_merging.overlaps([first, np.eye(6)[list(axes)]])
      for axes in itertools.combinations(range(6), 3)
  ]
  wanted = linear_merging.expected_overlaps(np.array([2, 3]) / 6)
  np.testing.assert_allclose(np.mean(found, axis=0), wanted, rtol=1e-12)


def test_interference_and_overlap_have_their_means_over_gaussian_inputs():
  rng = np.random.default_rng(10)
  differences = rng.normal(size=(3, _D))
  scaling, counts = np.array([0.7, 0.4, -0.3]), (3, 4, 6)
  coverage = np.array(counts) / _D
  overlaps, sums = [], []
  for _ in range(1500):
    inputs = draw_inputs(rng, counts)
    overlaps.append(linear_merging.overlaps(inputs)[np.triu_indices(3, 1)])
    taus = np.stack(
        [
            linear_teachers.seen(linear_teachers.row_space(x), delta)
            for x, delta in zip(inputs, differences, strict=True)
        ]
    )
    sums.append(linear_merging.interference(taus @ taus.T, scaling))
  law = linear_merging.expected_overlaps(coverage)[np.triu_indices(3, 1)]
  errors = np.std(overlaps, axis=0) / np.sqrt(len(overlaps))
  assert np.all(np.abs(np.mean(overlaps, axis=0) - law) < 4 * errors)
  assert np.all(errors < 0.02 * law)
  gram = np.outer(coverage, coverage) * (differences @ differences.T)
  wanted = linear_merging.interference(gram, scaling)
  error = np.std(sums) / np.sqrt(len(sums))
  assert abs(np.mean(sums) - wanted) < 4 * error < 0.5 * abs(wanted)


def test_interference_is_what_pairs_add_to_the_risk_of_every_task():
  rng = np.random.default_rng(11)
  differences, inputs = rng.normal(size=(3, _D)), draw_inputs(rng, (3, 4, 6))
  scaling = np.array([0.7, 0.4, -0.3])
  bases = [linear_teachers.row_space(x) for x in inputs]
  taus = np.stack(list(map(linear_teachers.seen, bases, differences)))
  # Without the pairs each vector meets the teacher alone.
  alone = [
      delta @ delta
      + np.sum(scaling**2 * np.sum(taus**2, axis=1))
      - 2 * scaling @ taus @ delta
      for delta in differences
  ]
  risks = linear_merging.merged_risks(differences, inputs, scaling, np.ones(_D))
  added = linear_merging.interference(taus @ taus.T, scaling)
  np.testing.assert_allclose(risks - alone, added, rtol=1e-11)


def test_the_expected_risk_is_the_sum_of_the_equation():
  rng = np.random.default_rng(3)
  vectors = rng.normal(size=(4, 6))
  d = vectors @ vectors.T
  m, a = rng.uniform(size=(2, 4))
  tasks = range(4)
  wanted = [
      (1 - (2 * a[i] - a[i] ** 2) * m[i]) * d[i, i]
      + sum(a[t] ** 2 * m[t] * d[t, t] for t in tasks if t != i)
      + sum(
          a[s] * a[t] * m[s] * m[t] * d[s, t]
          for s in tasks
          for t in tasks
          if len({s, t, i}) == 3
      )
      - 2
      * (1 - a[i] * m[i])
      * sum(a[t] * m[t] * d[i, t] for t in tasks if t != i)
      for i in tasks
  ]
  np.testing.assert_allclose(linear_merging.expected_risks(d, m, a), wanted)


@pytest.mark.parametrize('num_tasks', [2, 5])
@pytest.mark.parametrize('coverage', [0.05, 0.3, 1.0])
@pytest.mark.parametrize('cosine', [0.0, 0.6, 1.0])
def test_the_best_scaling_is_the_lowest_point_of_the_expected_risk(
    num_tasks, coverage, cosine
):
  gram = cosine + (1 - cosine) * np.eye(num_tasks)

  def risk(alpha):
    return linear_merging.expected_risks(
        gram, np.full(num_tasks, coverage), np.full(num_tasks, alpha)
    ).mean()

  at_0, at_half, at_1 = risk(0), risk(0.5), risk(1)
  square = 2 * (at_0 + at_1 - 2 * at_half)
  lowest = -(at_1 - at_0 - square) / (2 * square)
  best = linear_merging.best_scaling(num_tasks, coverage, cosine)
  assert best == pytest.approx(lowest)
  wins = linear_merging.addition_beats_averaging(num_tasks, coverage, cosine)
  assert wins == (at_1 < risk(1 / num_tasks))
  room = 2 - (num_tasks + 1) * coverage
  assert wins == (room > 0 and cosine > 1 / room)  # (S2.10) as it stands


# Fewer rows than inputs need a ridge, which costs digits.
@pytest.mark.parametrize(
    ('counts', 'ridge', 'digits'), [((2, 3, 4), 1e-8, 6), ((5, 6, 7), 0.0, 10)]
)
def test_regmean_of_linear_task_vectors_is_multitask_training(
    counts, ridge, digits
):
  rng = np.random.default_rng(4)
  differences = rng.normal(size=(3, _D))
  inputs = draw_inputs(rng, counts)
  vectors = {
      f'{t}': {
          'kernel': linear_teachers.seen(
              linear_teachers.row_space(x), differences[t]
          )[:, None]
      }
      for t, x in enumerate(inputs)
  }
  grams = {f'{t}': {'kernel': x.T @ x / len(x)} for t, x in enumerate(inputs)}
  merged = regmean.regmean(vectors, grams, off_diagonal=1.0, ridge=ridge)
  limit = linear_merging.multitask_limit(differences, inputs)
  np.testing.assert_allclose(merged['kernel'][:, 0], limit, atol=10**-digits)
  gradient = sum(
      g['kernel'] @ (limit - delta)
      for g, delta in zip(grams.values(), differences, strict=True)
  )
  np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_equicorrelated_vectors_are_unit_vectors_of_one_cosine():
  vectors = linear_merging.equicorrelated(
      np.random.default_rng(5), num_tasks=4, dimension=6, cosine=0.3
  )
  np.testing.assert_allclose(
      vectors @ vectors.T, 0.3 + 0.7 * np.eye(4), atol=1e-12
  )
  with pytest.raises(ValueError, match='num_tasks below dimension'):
    linear_merging.equicorrelated(
        np.random.default_rng(5), num_tasks=6, dimension=6, cosine=0.3
    )


def test_tasks_without_inputs_or_coefficients_are_refused():
  with pytest.raises(ValueError, match='There are 2 differences'):
    linear_merging.merged_risks(
        np.ones((2, 3)), [np.ones((1, 3))], np.ones(2), np.ones(3)
    )
