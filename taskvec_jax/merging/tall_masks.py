"""TALL masks and consensus: which coordinates of a merge belong to whom.

With `tau_MTL` the merged task vector, the sum of all or TIES' (dis-sum, density
0.2), task t's own coordinates are

  m_t = 1 [ |tau_t| > lambda_t |tau_MTL - tau_t| ],

strictly. `m_t tau_MTL` is nearly task t's model again, at one bit a coordinate
and task on top of one merged model. What few tasks claim harms the others:

  consensus   tau_m = 1 [ sum_t m_t >= k ] tau_MTL,                k = 2.

k = 0 keeps all of `tau_MTL` and k > T nothing. The paper chooses lambda_t in
0.2, 0.3, ..., 0.6 for each task by validation accuracy (`localize`) and the
scaling in [0, 1] after it; without validation data 0.6 is in use, the default
here. Where a task and the merge are both 0 the mask is 0. With one task the
merge is the task, and masks are 1 wherever it is not 0. Integer leaves have
masks of 0.

Cost: a pass over the task vectors; `localize` one score a task and lambda.
`pack` stores a mask at one bit a coordinate. The leaf functions take slices.

Source: Wang et al., "Localizing Task Information for Improved Model Merging and
Compression", arXiv:2405.07813.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

LAMBDAS = (0.2, 0.3, 0.4, 0.5, 0.6)


class Localization(NamedTuple):
  """What `localize` chose."""

  lambdas: dict[str, float]  # task name -> lambda_t
  masks: dict[str, Params]  # task name -> m_t, trees of bool
  scores: dict[str, tuple[float, ...]]  # task name -> one score a lambda


def tall_masks(
    task_vectors: Mapping[str, Params],
    *,
    lambdas: Mapping[str, float] | None = None,
    merged: Params | None = None,
) -> dict[str, Params]:
  """Returns task name -> `m_t`, a tree of bool like the task vector.

  Args:
    task_vectors: task name -> `tau_t`.
    lambdas: task name -> `lambda_t`, not negative; None for 0.6 everywhere.
    merged: `tau_MTL`; None for the sum.

  Raises:
    ValueError: no task, trees or tasks that differ, or a negative lambda.
  """
  lambdas, merged = _checked(task_vectors, lambdas, merged)
  return {
      task: _mask(vector, merged, lambdas[task])
      for task, vector in task_vectors.items()
  }


def localize(
    task_vectors: Mapping[str, Params],
    score_fn: Callable[[str, Params], float],
    *,
    lambdas: Sequence[float] = LAMBDAS,
    merged: Params | None = None,
) -> Localization:
  """Returns each task's best `lambda_t` and its mask.

  Args:
    task_vectors: task name -> `tau_t`.
    score_fn: (task, `m_t tau_MTL`) -> how good `theta_0 + m_t tau_MTL` is at
      the task on validation data; of equal scores the first lambda wins.
    lambdas: candidates.
    merged: `tau_MTL`; None for the sum.

  Raises:
    ValueError: as `tall_masks`, or no candidates.
    FloatingPointError: a score that is not a number, with task and lambda.
  """
  if not lambdas:
    raise ValueError('There are no lambdas to choose from; give at least one.')
  for value in lambdas:
    each = dict.fromkeys(task_vectors, value)
    _, tau_mtl = _checked(task_vectors, each, merged)
  chosen, masks, scores = {}, {}, {}
  for task, vector in task_vectors.items():
    best = -math.inf
    scores[task] = ()
    for value in lambdas:
      mask = _mask(vector, tau_mtl, value)
      score = float(score_fn(task, localized(tau_mtl, mask)))
      if math.isnan(score):
        raise FloatingPointError(
            f'The score of {task} at lambda {value} is not a number.'
        )
      scores[task] += (score,)
      if task not in chosen or score > best:
        best, chosen[task], masks[task] = score, value, mask
  return Localization(chosen, masks, scores)


def localized(merged: Params, mask: Params) -> Params:
  """Returns `m_t tau_MTL`."""

  def keep_leaf(leaf, keep):
    xp = leaves.namespace(leaf, keep)
    return xp.where(keep, leaf, xp.zeros_like(leaf))

  return jax.tree.map(keep_leaf, merged, mask)


def consensus(
    task_vectors: Mapping[str, Params],
    *,
    min_tasks: int = 2,
    lambdas: Mapping[str, float] | None = None,
    merged: Params | None = None,
) -> Params:
  """Returns `tau_MTL` where at least `min_tasks` masks are 1, else 0.

  Args:
    task_vectors: task name -> `tau_t`.
    min_tasks: k, not negative.
    lambdas: task name -> `lambda_t`, not negative; None for 0.6 everywhere.
    merged: `tau_MTL`; None for the sum.

  Raises:
    ValueError: as `tall_masks`, or a negative k.
  """
  if min_tasks < 0:
    raise ValueError(f'min_tasks must not be negative but is {min_tasks}.')
  lambdas, merged = _checked(task_vectors, lambdas, merged)
  column = np.asarray([lambdas[task] for task in task_vectors])
  whole = leaves.floating(merged)
  return leaves.merged(
      lambda name, stack: agreed(
          stack, whole[name], lambdas=column, min_tasks=min_tasks
      ),
      task_vectors,
  )


def leaf_mask(vector: Array, merged: Array, lambda_t: float) -> Array:
  """Returns `m_t`, bool, of a tensor or a slice of one."""
  xp = leaves.namespace(vector, merged)
  return xp.abs(vector) > lambda_t * xp.abs(merged - vector)


def agreed(
    stack: Array, merged: Array, *, lambdas: Array, min_tasks: int
) -> Array:
  """Returns consensus of `stack [T, ...]`, a tensor or a slice of one.

  Args:
    stack: `tau_t`.
    merged: `tau_MTL`, `[...]`.
    lambdas: `lambda_t`, `[T]`.
    min_tasks: k.
  """
  votes = sum(
      leaf_mask(vector, merged, float(value)).astype(np.int32)
      for vector, value in zip(stack, lambdas, strict=True)
  )
  xp = leaves.namespace(stack, merged)
  return xp.where(votes >= min_tasks, merged, xp.zeros_like(merged))


def pack(mask: Params) -> Params:
  """Returns a tree of uint8 `[ceil(n / 8)]`, eight coordinates a byte.

  The first coordinate is the highest bit; the last byte ends in zeros.
  """
  return jax.tree.map(lambda leaf: np.packbits(np.asarray(leaf)), mask)


def unpack(packed: Params, like: Params) -> Params:
  """Returns the mask that `pack` packed, of bool, in the shapes of `like`.

  Raises:
    ValueError: a packed leaf that is not as long as its shape asks for.
  """

  def unpack_leaf(path, leaf, reference):
    shape = np.shape(reference)
    size = math.prod(shape)
    if leaf.shape != (-(-size // 8),):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      raise ValueError(
          f'The packed mask of leaf {name} has shape {leaf.shape}, but shape'
          f' {shape} needs {-(-size // 8)} bytes.'
      )
    return np.unpackbits(leaf, count=size).astype(bool).reshape(shape)

  return jax.tree_util.tree_map_with_path(unpack_leaf, packed, like)


def _mask(vector: Params, merged: Params, lambda_t: float) -> Params:
  def mask_leaf(leaf, whole):
    if not leaves.is_floating(leaves.asarray(leaf).dtype):
      return leaves.namespace(leaf).zeros(np.shape(leaf), bool)
    return leaf_mask(leaves.widened(leaf), leaves.widened(whole), lambda_t)

  return jax.tree.map(mask_leaf, vector, merged)


def _checked(
    task_vectors: Mapping[str, Params],
    lambdas: Mapping[str, float] | None,
    merged: Params | None,
) -> tuple[Mapping[str, float], Params]:
  """Returns (`lambda_t` of each task, `tau_MTL`)."""
  checks.check_task_vectors(task_vectors)
  if lambdas is None:
    lambdas = dict.fromkeys(task_vectors, LAMBDAS[-1])
  checks.check_tasks('lambdas', lambdas, task_vectors)
  for task, value in lambdas.items():
    if not (value >= 0 and math.isfinite(value)):
      raise ValueError(
          f'lambda must be finite and not negative but is {value} for {task}.'
      )
  if merged is None:
    return lambdas, leaves.total(task_vectors)
  first_task, first = next(iter(task_vectors.items()))
  arithmetic.check_same_tree(merged, first, 'merged', first_task)
  return lambdas, merged
