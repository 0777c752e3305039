"""The exact diagonal Fisher and its merge, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import fisher

PARAMS = {
    'kernel': np.random.default_rng(0).normal(size=(3, 2)),
    'bias': np.random.default_rng(1).normal(size=2),
}
HEAD = np.random.default_rng(2).normal(size=(2, 3))
INPUTS = np.random.default_rng(3).normal(size=(7, 3))


def logits_fn(params, inputs):
  return jnp.tanh(inputs @ params['kernel'] + params['bias']) @ HEAD


def loops():
  """Returns F by a loop over examples and classes, derivatives by hand."""
  kernel, bias = np.zeros((3, 2)), np.zeros(2)
  for x in INPUTS:
    h = np.tanh(x @ PARAMS['kernel'] + PARAMS['bias'])
    z = h @ HEAD
    p = np.exp(z) / np.exp(z).sum()
    for label in range(3):
      to_z = np.eye(3)[label] - p  # d log p(label) / dz
      to_hidden = (HEAD @ to_z) * (1 - h**2)
      kernel += p[label] * np.outer(x, to_hidden) ** 2
      bias += p[label] * to_hidden**2
  return {'kernel': kernel / len(INPUTS), 'bias': bias / len(INPUTS)}


@pytest.mark.parametrize('chunk_size', [1, 3])
def test_the_fisher_is_the_loop_over_examples_and_classes_at_any_chunk(
    x64, chunk_size
):
  ours = fisher.diagonal_fisher(
      logits_fn, PARAMS, INPUTS, chunk_size=chunk_size
  )
  for name, expected in loops().items():
    np.testing.assert_allclose(ours[name], expected, rtol=1e-12)


def test_masked_sums_of_batches_add_up_to_the_fisher_of_all(x64):
  total = jax.tree.map(np.zeros_like, PARAMS)
  padded = np.concatenate([INPUTS, np.full((1, 3), 50.0)])
  sum_fn = jax.jit(fisher.diagonal_fisher_sum, static_argnums=0)
  for start in (0, 4):
    mask = np.arange(start, start + 4) < 7
    part = sum_fn(logits_fn, PARAMS, padded[start : start + 4], mask)
    total = jax.tree.map(np.add, total, part)
  for name, expected in loops().items():
    np.testing.assert_allclose(total[name] / 7, expected, rtol=1e-12)


def test_narrow_parameters_have_a_wide_fisher_and_integers_none():
  params = {
      'kernel': PARAMS['kernel'].astype(jnp.bfloat16),
      'bias': PARAMS['bias'].astype(np.float32),
      'steps': np.arange(2),
  }
  ours = fisher.diagonal_fisher(
      logits_fn, params, INPUTS.astype(np.float32), chunk_size=4
  )
  assert {leaf.dtype for leaf in ours.values()} == {np.dtype('float32')}
  np.testing.assert_array_equal(ours['steps'], [0, 0])
  for name, expected in loops().items():
    np.testing.assert_allclose(ours[name], expected, rtol=0.1, atol=1e-3)


def trees(num_tasks, seed):
  rng = np.random.default_rng(seed)
  return {
      f'task_{t}': {'w': rng.normal(size=(4, 3)), 's': rng.normal(size=())}
      for t in range(num_tasks)
  }


def fishers(num_tasks):
  return jax.tree.map(lambda x: x**4 * 1e-5, trees(num_tasks, 5))


def oracle(taus, diagonals, weights, floors, *, normalize):
  """The formula in NumPy, on vectors of all entries."""
  above = below = 0
  for task, tau in taus.items():
    diagonal = np.append(diagonals[task]['w'].ravel(), diagonals[task]['s'])
    size = np.linalg.norm(diagonal) if normalize else 1.0
    importance = weights[task] * np.maximum(diagonal, floors[task]) / size
    above = above + importance * np.append(tau['w'].ravel(), tau['s'])
    below = below + importance
  return above / below


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('num_tasks', [1, 2, 8])
@pytest.mark.parametrize('favored', [None, 'task_0'])
def test_the_merge_is_the_weighted_mean_of_every_entry(
    x64, num_tasks, normalize, favored
):
  taus, diagonals = trees(num_tasks, 0), fishers(num_tasks)
  weights = {task: 0.5 + i for i, task in enumerate(taus)}
  ours = fisher.fisher(
      taus, diagonals, weights=weights, favored=favored, normalize=normalize
  )
  floors = {task: 1e-6 if favored in (None, task) else 0 for task in taus}
  expected = oracle(taus, diagonals, weights, floors, normalize=normalize)
  flat = np.append(np.ravel(ours['w']), ours['s'])
  np.testing.assert_allclose(flat, expected, rtol=1e-12)
  if num_tasks == 1:
    np.testing.assert_allclose(ours['w'], taus['task_0']['w'], rtol=1e-14)


def test_where_no_model_is_sure_the_result_is_the_average(x64):
  taus = trees(3, 0)
  zeros = jax.tree.map(np.zeros_like, taus)
  weights = {'task_0': 1.0, 'task_1': 2.0, 'task_2': 5.0}
  expected = sum(weights[t] * taus[t]['w'] for t in taus) / 8
  for floor in (0.0, 1e-6):
    ours = fisher.fisher(
        taus, zeros, weights=weights, floor=floor, normalize=True
    )
    np.testing.assert_allclose(ours['w'], expected, rtol=1e-13)


def test_the_merge_returns_narrow_leaves_narrow_and_integers_as_zero():
  taus = {
      t: {'w': jnp.full(2, v, jnp.bfloat16), 'n': jnp.array([7])}
      for t, v in (('a', 1.0), ('b', 3.0))
  }
  diagonals = {
      t: {'w': jnp.full(2, v), 'n': jnp.zeros(1)}
      for t, v in (('a', 3.0), ('b', 1.0))
  }
  ours = fisher.fisher(taus, diagonals)
  assert ours['w'].dtype == jnp.bfloat16 and ours['n'].dtype == jnp.int32
  np.testing.assert_array_equal(ours['w'].astype(float), [1.5, 1.5])
  np.testing.assert_array_equal(ours['n'], [0])


def test_arguments_without_sense_are_refused():
  taus, diagonals = trees(2, 0), fishers(2)
  merge = fisher.fisher
  with pytest.raises(ValueError, match=r"fishers has \['task_0'\]"):
    merge(taus, {'task_0': diagonals['task_0']})
  with pytest.raises(ValueError, match='leaf s: absent'):
    merge(taus, {**diagonals, 'task_1': {'w': diagonals['task_1']['w']}})
  with pytest.raises(ValueError, match='not be negative, nor all zero'):
    merge(taus, diagonals, weights={'task_0': 0.0, 'task_1': 0.0})
  with pytest.raises(ValueError, match='floor .* -1'):
    merge(taus, diagonals, floor=-1.0)
  with pytest.raises(ValueError, match="favored is 'x'"):
    merge(taus, diagonals, favored='x')
  with pytest.raises(ValueError, match='0 and 16'):
    fisher.diagonal_fisher(logits_fn, PARAMS, INPUTS[:0])
  with pytest.raises(ValueError, match='7 and 0'):
    fisher.diagonal_fisher(logits_fn, PARAMS, INPUTS, chunk_size=0)
