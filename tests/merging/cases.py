"""Task vectors that the tests of merging share, and how to look at them.

One structure and set of shapes for all, so that little is compiled: a matrix,
a vector, a tensor of one element and a scalar.
"""

import jax
import numpy as np

_SHAPES = {
    'dense': {'bias': (3,), 'kernel': (4, 3)},
    'one': (1,),
    'scale': (),
}
SIZE = 3 + 12 + 1 + 1

KINDS = ('normal', 'ties', 'sparse', 'zeros')
NUM_TASKS = (1, 2, 8)


def task_vectors(num_tasks, kind='normal', seed=0):
  """Returns task name -> a tree in float64.

  Kinds: 'normal' has distinct magnitudes; 'ties' small integers, which tie in
  magnitude and cancel in sums; 'sparse' the same, mostly zeros, its last task
  all zeros; 'zeros' nothing else.
  """
  rng = np.random.default_rng([seed, num_tasks, KINDS.index(kind)])

  def draw(shape):
    if kind == 'normal':
      return rng.normal(size=shape)
    values = rng.integers(-2, 3, size=shape).astype(np.float64)
    if kind == 'ties':
      return values
    if kind == 'sparse':
      return values * (rng.uniform(size=shape) < 0.3)
    return 0.0 * values

  names = [f'task {index}' for index in range(num_tasks)]
  trees = {
      name: jax.tree.map(
          lambda shape: np.asarray(draw(shape)),
          _SHAPES,
          is_leaf=lambda node: isinstance(node, tuple),
      )
      for name in names
  }
  if kind == 'sparse':
    last = names[-1]
    trees[last] = jax.tree.map(np.zeros_like, trees[last])
  return trees


def leaves_of(tree):
  """Returns the leaves as flat arrays, one a tensor."""
  return [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)]


def flat(tree):
  """Returns all coordinates in one vector."""
  return np.concatenate(leaves_of(tree))


def flats(task_vectors):
  """Returns one row of all coordinates a task, `[T, d]`."""
  return np.stack([flat(vector) for vector in task_vectors.values()])


def assert_close(tree, expected, rtol=1e-12):
  """Asserts that two flat vectors agree, relative to the largest entry."""
  expected = np.asarray(expected)
  atol = rtol * max(np.abs(expected).max(initial=0.0), 1e-300)
  np.testing.assert_allclose(flat(tree), expected, rtol=rtol, atol=atol)


def relative_change(changed, reference):
  """Returns |changed - reference| / |reference| of two arrays."""
  changed, reference = np.asarray(changed), np.asarray(reference)
  return np.linalg.norm(changed - reference) / np.linalg.norm(reference)
