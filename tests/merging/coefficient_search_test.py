import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import coefficient_search
from taskvec_jax.tasks import batching

BASE = {'w': np.array([1.0, -2.0, 0.5]), 'b': np.array(3.0)}
VECTOR = {'w': np.array([0.5, 0.25, -1.0]), 'b': np.array(-2.0)}
SCALINGS = np.linspace(0, 1, 5)


def scores(params):
  return {'sum': jnp.sum(params['w']) ** 2, 'all': params['w'] * params['b']}


def test_the_curve_is_the_score_of_every_candidate_by_itself(x64):
  curve = coefficient_search.curve(scores, BASE, VECTOR, SCALINGS)
  for i, s in enumerate(SCALINGS):
    w, b = BASE['w'] + s * VECTOR['w'], BASE['b'] + s * VECTOR['b']
    np.testing.assert_allclose(curve['sum'][i], w.sum() ** 2, rtol=1e-14)
    np.testing.assert_allclose(curve['all'][i], w * b, rtol=1e-14)


def test_the_number_may_be_any_that_a_traceable_method_takes(x64):
  def above(threshold):
    return jax.tree.map(
        lambda v: jnp.where(jnp.abs(v) >= threshold, v, 0), VECTOR
    )

  curve = coefficient_search.curve_of(
      lambda params: params['w'], BASE, above, np.array([0.0, 0.3, 0.7])
  )
  expected = BASE['w'] + np.array(
      [[0.5, 0.25, -1.0], [0.5, 0, -1.0], [0, 0, -1.0]]
  )
  np.testing.assert_allclose(curve, expected, rtol=1e-15)


def test_a_summed_curve_over_batches_and_devices_is_that_of_all_examples(x64):
  rng = np.random.default_rng(0)
  inputs, labels = rng.normal(size=(13, 3)), np.zeros(13, np.int32)
  batches = batching.make_batches(
      inputs,
      labels,
      batch_size=2,
      num_shards=min(2, full_batch.num_devices()),
  )

  def sum_fn(operands, batch):
    def score_sum(params):
      values = jnp.tanh(batch.inputs @ params['w'] + params['b'])
      return jnp.sum(jnp.where(batch.mask, values, 0))

    return coefficient_search.curve(score_sum, *operands)

  curve = full_batch.exact_mean(sum_fn, (BASE, VECTOR, SCALINGS), batches, 13)
  expected = [
      np.tanh(
          inputs @ (BASE['w'] + s * VECTOR['w']) + BASE['b'] + s * VECTOR['b']
      ).mean()
      for s in SCALINGS
  ]
  np.testing.assert_allclose(curve, expected, rtol=1e-13)


def test_narrow_leaves_stay_narrow_and_integer_leaves_stay_the_bases():
  base = {
      'half': jnp.full(3, 1.5, jnp.bfloat16),
      'count': jnp.arange(3),
      'flag': jnp.array([True, False]),
  }
  vector = {
      'half': jnp.full(3, 0.25, jnp.bfloat16),
      'count': jnp.zeros(3, jnp.int32),
      'flag': jnp.zeros(2, bool),
  }
  seen = []

  def score(params):
    seen.extend(leaf.dtype for leaf in jax.tree.leaves(params))
    return params

  curve = coefficient_search.curve(score, base, vector, SCALINGS)
  assert seen == [leaf.dtype for leaf in jax.tree.leaves(base)]
  np.testing.assert_array_equal(curve['count'], np.tile(np.arange(3), (5, 1)))
  assert float(curve['half'][-1, 0]) == 1.75


def test_of_equal_scores_the_first_value_is_chosen():
  values = [0.0, 0.1, 0.2, 0.3]
  assert coefficient_search.choose(values, [0.5, 0.75, 0.75, 0.25]) == 0.1
  assert coefficient_search.choose([2.0], np.array([-np.inf])) == 2.0


def test_forgetting_stops_where_the_control_task_would_suffer():
  values = [0.0, 0.5, 1.0, 1.5]
  target, control = [0.9, 0.5, 0.3, 0.1], [0.8, 0.79, 0.76, 0.5]

  def choose(minimum):
    return coefficient_search.choose_under_control(
        values, target, control, minimum_control=minimum
    )

  assert choose(0.95 * 0.8) == 1.0
  assert choose(0.0) == 1.5
  assert choose(0.795) == 0.0
  with pytest.raises(ValueError, match='0.81; the best reaches 0.8'):
    choose(0.81)


def test_scores_without_an_order_are_refused():
  with pytest.raises(FloatingPointError, match=r'values \[0.2\]'):
    coefficient_search.choose([0.1, 0.2], [1.0, float('nan')])
  with pytest.raises(ValueError, match='2 values but scores of shape'):
    coefficient_search.choose([0.1, 0.2], [1.0])
  with pytest.raises(ValueError, match='0 values'):
    coefficient_search.choose([], [])
  for candidates in (np.zeros(0), np.float32(1)):
    with pytest.raises(ValueError, match='at least one number'):
      coefficient_search.curve(scores, BASE, VECTOR, candidates)
  with pytest.raises(ValueError, match='leaf b: absent'):
    coefficient_search.curve(scores, BASE, {'w': VECTOR['w']}, SCALINGS)
