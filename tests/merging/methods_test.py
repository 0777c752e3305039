"""What all data-free methods do alike, whatever they compute."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.merging import averaging
from taskvec_jax.merging import breadcrumbs
from taskvec_jax.merging import dare
from taskvec_jax.merging import grad_sign
from taskvec_jax.merging import iso
from taskvec_jax.merging import leaves
from taskvec_jax.merging import magmax
from taskvec_jax.merging import pcgrad
from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from taskvec_jax.merging import tsv
from tests.merging import cases


def soup(task_vectors):
  return averaging.greedy_soup(
      task_vectors,
      lambda vector: -sum(
          np.sum(np.asarray(leaf, float) ** 2)
          for leaf in jax.tree.leaves(vector)
      ),
  ).task_vector


def masked_by_signs(task_vectors):
  first, *_ = task_vectors.values()
  signs = grad_sign.descent_signs(task_vectors.values())
  return grad_sign.grad_sign(first, signs)


# Names are sentences in a test's report; numbers leave something over.
_METHODS = {
    'average': averaging.average,
    'greedy_soup': soup,
    'model_stock': averaging.model_stock,
    'ties': lambda v: ties.ties(v, density=0.5, tie_break='majority'),
    'ties, per tensor': lambda v: ties.ties(
        v, scope='per_tensor', merge='dis-max', count='reference'
    ),
    'ties, survivors': lambda v: leaves.total(ties.survivors(v)),
    'dare': lambda v: dare.dare(v, drop_rate=0.5),
    'dare_ties': lambda v: dare.dare_ties(v, drop_rate=0.5),
    'breadcrumbs': lambda v: breadcrumbs.breadcrumbs(v, beta=0.3, gamma=0.8),
    'breadcrumbs, by row': lambda v: breadcrumbs.breadcrumbs(
        v, beta=0.5, gamma=0.3, parametrisation='reference'
    ),
    'consensus': tall_masks.consensus,
    'tsv_m': tsv.tsv_m,
    'iso_c': iso.iso_c,
    'iso_cts': lambda v: iso.iso_cts(v, common_fraction=0.4),
    'grad_sign': masked_by_signs,
    'pcgrad': pcgrad.pcgrad,
    'magmax': magmax.magmax,
}
_EVERY = pytest.mark.parametrize('name', _METHODS)


def with_other_dtypes(num_tasks):
  """Returns task vectors with leaves that are narrow, whole or boolean."""
  vectors = cases.task_vectors(num_tasks)
  for index, vector in enumerate(vectors.values()):
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float32):
      vector[f'as {np.dtype(dtype).name}'] = {
          'kernel': vector['dense']['kernel'].astype(dtype)
      }
    vector['count'] = np.array([index + 1, 2])
    vector['flag'] = np.array(True)
  return vectors


@_EVERY
@pytest.mark.parametrize('num_tasks', [1, 2])
def test_each_leaf_keeps_its_dtype_and_integers_are_not_merged(num_tasks, name):
  vectors = with_other_dtypes(num_tasks)
  merged = _METHODS[name](vectors)
  reference = vectors['task 0']
  for leaf, expected in zip(
      jax.tree.leaves(merged), jax.tree.leaves(reference), strict=True
  ):
    assert leaf.dtype == expected.dtype
    assert leaf.shape == expected.shape
  np.testing.assert_array_equal(merged['count'], 0)
  assert not merged['flag']


@_EVERY
def test_narrow_leaves_are_computed_in_float32_and_rounded_once(name):
  rng = np.random.default_rng(0)
  narrow = {
      task: {'kernel': rng.normal(size=(5, 4)).astype(ml_dtypes.bfloat16)}
      for task in 'abc'
  }
  wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), narrow)
  if name in ('tsv_m', 'iso_c', 'iso_cts', 'greedy_soup'):
    # A tolerance of their own, and scores of rounded soups.
    allowed = 2.0**-7
  else:
    allowed = 0.0
  merged = _METHODS[name](narrow)['kernel'].astype(np.float32)
  expected = _METHODS[name](wide)['kernel'].astype(ml_dtypes.bfloat16)
  np.testing.assert_allclose(
      merged, expected.astype(np.float32), atol=allowed, rtol=allowed
  )


@_EVERY
def test_jax_arrays_give_jax_arrays_with_the_values_of_numpys(name, x64):
  # Few leaves: JAX compiles each operation for each shape.
  vectors = {
      task: {
          'dense': {'kernel': vector['dense']['kernel']},
          'narrow': {'kernel': vector['as bfloat16']['kernel']},
          'count': vector['count'],
      }
      for task, vector in with_other_dtypes(2).items()
  }
  merged = _METHODS[name](vectors)
  by_jax = _METHODS[name](jax.tree.map(jnp.asarray, vectors))
  for leaf, expected in zip(
      jax.tree.leaves(by_jax), jax.tree.leaves(merged), strict=True
  ):
    assert isinstance(leaf, jax.Array) and isinstance(expected, np.ndarray)
    assert leaf.dtype == expected.dtype
    floating = leaves.is_floating(leaf.dtype)
    allowed = 8 * float(jnp.finfo(leaf.dtype).eps) if floating else 0.0
    np.testing.assert_allclose(
        np.asarray(leaf, float),
        expected.astype(float),
        rtol=allowed,
        atol=allowed,
    )


@_EVERY
def test_no_task_and_trees_or_dtypes_that_differ_are_refused(name):
  method = _METHODS[name]
  if name != 'grad_sign':  # takes one task vector
    with pytest.raises(ValueError, match='at least one'):
      method({})
  vectors = cases.task_vectors(2)
  del vectors['task 1']['one']
  with pytest.raises(ValueError, match='leaf one: absent in'):
    method(vectors)
  if name != 'grad_sign':  # signs have a dtype of their own
    vectors = cases.task_vectors(2)
    vectors['task 1']['one'] = vectors['task 1']['one'].astype(np.float32)
    with pytest.raises(
        ValueError, match='one is float32 in task 1 but float64'
    ):
      method(vectors)


@_EVERY
def test_inputs_are_left_as_they_were(name):
  vectors = cases.task_vectors(2)
  before = cases.flats(vectors).copy()
  _METHODS[name](vectors)
  np.testing.assert_array_equal(cases.flats(vectors), before)


@pytest.mark.parametrize('name', sorted(set(_METHODS) - {'grad_sign'}))
def test_the_order_of_the_tasks_does_not_matter(name):
  vectors = cases.task_vectors(2)
  turned = dict(reversed(vectors.items()))
  cases.assert_close(
      _METHODS[name](turned), cases.flat(_METHODS[name](vectors)), rtol=1e-12
  )


def test_leaf_functions_can_be_traced():
  stack = np.stack([np.arange(-3.0, 4.0), np.arange(4.0, -3.0, -1.0)])
  stack = stack.astype(np.float32)

  @jax.jit
  def compiled(stack):
    trimmed = ties.trim(stack, np.array([2.0, 2.0], np.float32))
    return (
        ties.elect(trimmed, tie_break='plus'),
        magmax.largest(stack),
        averaging.mean(stack),
    )

  for leaf, expected in zip(
      compiled(stack),
      (
          ties.elect(ties.trim(stack, np.array([2.0, 2.0])), tie_break='plus'),
          magmax.largest(stack),
          averaging.mean(stack),
      ),
      strict=True,
  ):
    np.testing.assert_array_equal(leaf, expected)
