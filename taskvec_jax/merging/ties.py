"""TIES: trim, elect a sign, merge what agrees.

With `keep_t` the share `density` of task t's coordinates that is largest in
magnitude, for each coordinate

  trim    v_t   = tau_t  where keep_t, else 0
  elect   gamma = sgn( sum_t v_t )
  merge   tau_m = mean { v_t : sgn v_t = gamma, v_t /= 0 }      ('dis-mean')

or the sum ('dis-sum'), or `gamma` times the largest magnitude ('dis-max'), of
the same entries; 0 where there are none. The paper takes density 0.2,
dis-mean, scaling 1; dis-sum with scaling 0.3 is common elsewhere.

Defaults are the paper's. Where its implementation and others leave it:

* `scope`: magnitudes compete over the whole flat vector ('global'), or within
  each tensor ('per_tensor', as in mergekit). Integer leaves do not count.
* `count`: 'exact' keeps floor(density d) of d coordinates; the reference
  implementation keeps one more ('reference': int(density d) + 1, at most d).
  Both keep all that tie with the last one kept, and a threshold of 0 keeps
  everything, which is harmless: the rest is zero.
* `tie_break`, where the sum is 0: the paper's sgn is 0 and so is the result
  ('zero'). The reference elects the majority of all coordinates' signs
  ('majority': over the scope; a majority of 0 elects minus, as its comparison
  does for dis-mean and dis-sum; its dis-max gives 0 there, this one does not).
  'plus' elects plus, as mergekit does. A coordinate trimmed away in every task
  stays 0 whatever is elected.

Density 0 gives zeros, density 1 trims nothing (the reference reads 1 as 100 %
and then fails, and one of its forks reads it as 1 %). One task gives its
trimmed vector.

Cost: one partial sort of d magnitudes a task and a pass over the task vectors
to merge, another for 'majority'. For tensors too large to hold, the functions
below the first take slices: `num_kept` and the magnitudes give `threshold`,
then `trim`, `sign_sum` (added up, for 'majority') and `elect` go slice by
slice, with the result of the whole.

Source: Yadav et al., "TIES-Merging: Resolving Interference When Merging
Models", arXiv:2306.01708.
"""

from collections.abc import Mapping

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

SCOPES = ('global', 'per_tensor')
COUNTS = ('exact', 'reference')
TIE_BREAKS = ('zero', 'majority', 'plus')
MERGES = ('dis-mean', 'dis-sum', 'dis-max')


def ties(
    task_vectors: Mapping[str, Params],
    *,
    density: float = 0.2,
    scope: str = 'global',
    count: str = 'exact',
    tie_break: str = 'zero',
    merge: str = 'dis-mean',
) -> Params:
  """Returns the merged task vector `tau_m`, a tree like one task vector.

  Args:
    task_vectors: task name -> `tau_t`.
    density: share of coordinates that survive trimming, in [0, 1].
    scope: 'global' or 'per_tensor'.
    count: 'exact' or 'reference'.
    tie_break: 'zero', 'majority' or 'plus'.
    merge: 'dis-mean', 'dis-sum' or 'dis-max'.

  Raises:
    ValueError: no task, trees that differ, or an argument out of its range.
  """
  _check(task_vectors, density, scope, count, tie_break)
  checks.check_choice('merge', merge, MERGES)
  thresholds = _thresholds(task_vectors, density, scope, count)
  majorities = _majorities(task_vectors, thresholds, scope, tie_break)

  def leaf_fn(name, stack):
    return elect(
        trim(stack, thresholds[name]),
        majority=majorities[name],
        tie_break=tie_break,
        merge=merge,
    )

  return leaves.merged(leaf_fn, task_vectors)


def survivors(
    task_vectors: Mapping[str, Params],
    *,
    density: float = 0.2,
    scope: str = 'global',
    count: str = 'exact',
    tie_break: str = 'zero',
) -> dict[str, Params]:
  """Returns task name -> what trimming and the elected sign leave of `tau_t`.

  Their sum is `ties` with 'dis-sum'; AdaMerging++ gives each its own
  coefficients instead. Arguments and errors are those of `ties`.
  """
  _check(task_vectors, density, scope, count, tie_break)
  thresholds = _thresholds(task_vectors, density, scope, count)
  majorities = _majorities(task_vectors, thresholds, scope, tie_break)

  kept = {}
  for name, stack in leaves.stacks(task_vectors):
    trimmed = trim(stack, thresholds[name])
    sign = elected_sign(trimmed, majority=majorities[name], tie_break=tie_break)
    kept[name] = sign * agreeing(trimmed, sign)
  return {
      task: leaves.transformed(
          lambda name, _, index=index: kept[name][index], vector
      )
      for index, (task, vector) in enumerate(task_vectors.items())
  }


def num_kept(size: int, *, density: float, count: str = 'exact') -> int:
  """Returns how many of `size` coordinates trimming keeps, ties aside."""
  if count == 'reference':
    return min(int(size * density) + 1, size)
  return leaves.share(density, size)


def threshold(magnitudes: Array, num: int) -> np.floating:
  """Returns the `num`-th largest of `magnitudes [n]`; infinity for none."""
  magnitudes = np.asarray(magnitudes)
  if num == 0 or magnitudes.size == 0:
    return magnitudes.dtype.type(np.inf)
  index = magnitudes.size - num
  return np.partition(magnitudes, index)[index]


def trim(stack: Array, thresholds: Array) -> Array:
  """Returns `stack [T, ...]`, 0 where `|tau_t|` is below `thresholds [T]`."""
  xp = leaves.namespace(stack)
  column = (-1,) + (1,) * (np.ndim(stack) - 1)
  keep = xp.abs(stack) >= xp.reshape(xp.asarray(thresholds), column)
  return leaves.masked(stack, keep)


def sign_sum(trimmed: Array) -> int:
  """Returns the sum over coordinates of `sgn(sum_t v_t)`.

  Sums of slices add up; the sign of the whole is the elected majority.
  """
  xp = leaves.namespace(trimmed)
  total = leaves.added(trimmed)
  return int(xp.count_nonzero(total > 0)) - int(xp.count_nonzero(total < 0))


def elected_sign(
    trimmed: Array, *, majority: int = 0, tie_break: str = 'zero'
) -> Array:
  """Returns `gamma [...]`, in {-1, 0, 1}, of `trimmed [T, ...]`.

  Args:
    trimmed: `v_t`.
    majority: `sign_sum` over the scope; read if `tie_break` is 'majority'.
    tie_break: 'zero', 'majority' or 'plus'.
  """
  xp = leaves.namespace(trimmed)
  sign = xp.sign(leaves.added(trimmed))
  if tie_break == 'zero':
    return sign
  fallback = 1.0 if tie_break == 'plus' or majority > 0 else -1.0
  return xp.where(sign == 0, fallback, sign)


def agreeing(trimmed: Array, sign: Array) -> Array:
  """Returns `|v_t| [T, ...]` where the sign is `sign [...]`, else 0."""
  return leaves.namespace(trimmed).maximum(trimmed * sign, 0)


def elect(
    trimmed: Array,
    *,
    majority: int = 0,
    tie_break: str = 'zero',
    merge: str = 'dis-mean',
) -> Array:
  """Returns `tau_m [...]` of `trimmed [T, ...]`, a tensor or a slice of one.

  Arguments are those of `elected_sign` and `ties`.
  """
  xp = leaves.namespace(trimmed)
  sign = elected_sign(trimmed, majority=majority, tie_break=tie_break)
  magnitudes = agreeing(trimmed, sign)
  if merge == 'dis-max':
    return sign * xp.max(magnitudes, axis=0)
  total = sign * leaves.added(magnitudes)
  if merge == 'dis-sum':
    return total
  # Counted in floats: NumPy adds up booleans along an axis slowly.
  num_agreeing = leaves.added((magnitudes > 0).astype(total.dtype))
  return total / xp.maximum(num_agreeing, 1)


def _check(task_vectors, density, scope, count, tie_break) -> None:
  checks.check_task_vectors(task_vectors)
  checks.check_fraction('density', density)
  checks.check_choice('scope', scope, SCOPES)
  checks.check_choice('count', count, COUNTS)
  checks.check_choice('tie_break', tie_break, TIE_BREAKS)


def _thresholds(
    task_vectors: Mapping[str, Params], density: float, scope: str, count: str
) -> dict[str, np.ndarray]:
  """Returns leaf name -> thresholds `[T]`."""
  rows = []
  for vector in task_vectors.values():
    magnitudes = {
        name: np.abs(np.asarray(leaf)).ravel()
        for name, leaf in leaves.floating(vector).items()
    }
    if scope == 'per_tensor':
      row = {
          name: _threshold(values, density, count)
          for name, values in magnitudes.items()
      }
    else:
      flat = np.concatenate([np.zeros(0, np.float32), *magnitudes.values()])
      row = dict.fromkeys(magnitudes, _threshold(flat, density, count))
    rows.append(row)
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _threshold(
    magnitudes: np.ndarray, density: float, count: str
) -> np.floating:
  return threshold(
      magnitudes, num_kept(magnitudes.size, density=density, count=count)
  )


def _majorities(
    task_vectors: Mapping[str, Params],
    thresholds: Mapping[str, np.ndarray],
    scope: str,
    tie_break: str,
) -> dict[str, int]:
  """Returns leaf name -> the sum of signs that breaks its ties."""
  if tie_break != 'majority':
    return dict.fromkeys(thresholds, 0)
  sums = {
      name: sign_sum(trim(stack, thresholds[name]))
      for name, stack in leaves.stacks(task_vectors)
  }
  if scope == 'per_tensor':
    return sums
  return dict.fromkeys(sums, sum(sums.values()))
