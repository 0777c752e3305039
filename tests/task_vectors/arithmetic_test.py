import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.task_vectors import arithmetic
from tests.merging import cases


def tree(seed):
  rng = np.random.default_rng(seed)
  return {
      'layer': {
          'kernel': rng.normal(size=(3, 2)).astype(np.float32),
          'bias': rng.normal(size=2).astype(np.float32),
      }
  }


def test_merging_one_task_with_coefficient_one_gives_back_its_parameters():
  base, finetuned = tree(0), tree(1)
  vector = arithmetic.task_vector(finetuned, base)
  merged = arithmetic.merge(base, {'a': vector}, {'a': 1.0})
  for name in ('kernel', 'bias'):
    np.testing.assert_allclose(
        merged['layer'][name], finetuned['layer'][name], rtol=1e-6
    )


def test_merge_is_the_base_plus_the_weighted_sum_of_all_vectors():
  base, a, b = tree(0), tree(1), tree(2)
  merged = arithmetic.merge(base, {'a': a, 'b': b}, {'a': 0.3, 'b': -2.0})
  expected = base['layer']['kernel'] + (
      0.3 * a['layer']['kernel'] - 2.0 * b['layer']['kernel']
  )
  np.testing.assert_allclose(merged['layer']['kernel'], expected, rtol=1e-6)


def test_adding_and_then_negating_a_task_vector_returns_to_the_base():
  base, vector = tree(0), tree(1)
  there = arithmetic.merge(base, {'a': vector}, {'a': 0.7})
  back = arithmetic.merge(there, {'a': vector}, {'a': -0.7})
  np.testing.assert_allclose(
      back['layer']['bias'], base['layer']['bias'], atol=1e-6
  )


def test_an_analogy_is_c_plus_b_minus_a():
  base = tree(0)
  a, b, c = tree(1), tree(2), tree(3)
  answer = arithmetic.merge(
      base, {'c': c, 'b': b, 'a': a}, {'c': 1.0, 'b': 1.0, 'a': -1.0}
  )
  expected = base['layer']['kernel'] + (
      c['layer']['kernel'] + b['layer']['kernel'] - a['layer']['kernel']
  )
  np.testing.assert_allclose(answer['layer']['kernel'], expected, rtol=1e-5)


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_sum_and_merge_equal_numpys(kind, num_tasks, x64):
  vectors = cases.task_vectors(num_tasks, kind)
  (base,) = cases.task_vectors(1, seed=1).values()
  alphas = np.random.default_rng(2).normal(size=num_tasks)
  scaling = dict(zip(vectors, alphas, strict=True))
  expected = alphas @ cases.flats(vectors)
  cases.assert_close(arithmetic.weighted_sum(vectors, scaling), expected)
  cases.assert_close(
      arithmetic.merge(base, vectors, scaling), cases.flat(base) + expected
  )


@pytest.mark.parametrize('number', [float, np.float64])
def test_leaves_keep_their_dtypes_and_integers_are_not_merged(number):
  base = {
      'half': np.zeros(1, ml_dtypes.bfloat16),
      'n': np.array([3, 4]),
      'on': np.array(True),
  }
  finetuned = {
      'half': np.ones(1, ml_dtypes.bfloat16),
      'n': np.array([5, 9]),
      'on': np.array(False),
  }
  vector = arithmetic.task_vector(finetuned, base)
  # 256 + 1 is 256 in bfloat16: seven times, if the sum were kept in it.
  scaling = {'a': number(256)} | dict.fromkeys('bcdefgh', number(1))
  vectors = dict.fromkeys(scaling, vector)
  total = arithmetic.weighted_sum(vectors, scaling)
  merged = arithmetic.merge(base, vectors, scaling)
  for tree_ in (vector, total, merged):
    assert tree_['half'].dtype == jnp.bfloat16
    assert tree_['n'].dtype == jnp.asarray(base['n']).dtype
    assert tree_['on'].dtype == bool
  for tree_ in (total, merged):
    assert float(tree_['half'][0]) == float(jnp.bfloat16(263))
  np.testing.assert_array_equal(vector['n'], [0, 0])
  np.testing.assert_array_equal(total['n'], [0, 0])
  np.testing.assert_array_equal(merged['n'], [3, 4])
  assert merged['on'] and not total['on']


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda t: t['layer'].pop('bias'), 'layer/bias: absent'),
        (
            lambda t: t['layer'].update(extra=np.zeros(1)),
            r'layer/extra: shape \(1,\)',
        ),
        (
            lambda t: t['layer'].update(kernel=np.zeros((2, 3))),
            r'layer/kernel: shape \(2, 3\).*shape \(3, 2\)',
        ),
    ],
)
def test_trees_that_differ_are_refused_and_the_leaf_is_named(change, said):
  other = tree(1)
  change(other)
  with pytest.raises(ValueError, match=said):
    arithmetic.task_vector(other, tree(0))
  with pytest.raises(ValueError, match='layer/'):
    arithmetic.merge(tree(0), {'a': tree(1), 'b': other}, {'a': 1, 'b': 1})
  with pytest.raises(ValueError, match='layer/'):
    arithmetic.merge(tree(0), {'b': other}, {'b': 1.0})


def test_every_task_vector_needs_its_own_coefficient():
  with pytest.raises(ValueError, match=r"\['a'\].*\['a', 'b'\]"):
    arithmetic.weighted_sum({'a': tree(0)}, {'a': 1.0, 'b': 1.0})
  with pytest.raises(ValueError, match='at least one'):
    arithmetic.weighted_sum({}, {})


@pytest.mark.parametrize('as_array', [np.asarray, jnp.asarray])
def test_an_edit_keeps_the_dtypes_of_the_base_and_its_integers(as_array):
  base = {
      'f': as_array(np.array([1, 2], np.float32)),
      'h': as_array(np.array([1, 2], jnp.bfloat16)),
      'i': as_array(np.array([3, 4], np.int32)),
  }
  vector = {
      'f': as_array(np.array([0.5, -1], np.float32)),
      'h': as_array(np.array([0.5, -1], jnp.bfloat16)),
      'i': as_array(np.array([0, 0], np.int32)),
  }
  for scaling in (0.3, np.float64(0.3), jnp.asarray(0.3)):
    edited = arithmetic.edit(base, vector, scaling)
    assert {k: v.dtype for k, v in edited.items()} == {
        k: v.dtype for k, v in base.items()
    }
    np.testing.assert_allclose(edited['f'], [1.15, 1.7], rtol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(edited['h'], np.float32),
        np.array([1.15, 1.7], jnp.bfloat16).astype(np.float32),
    )
    np.testing.assert_array_equal(edited['i'], [3, 4])
