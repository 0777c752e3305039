"""GradFix: a task vector from elsewhere, masked by the signs of gradients here.

A task vector of another base still helps where it points down this base's own
loss. With `s = sgn(-g)` voted over the gradients of a few examples at this
base,

  normal   m tau,  m = 1 [ sgn tau = s ]     keep what agrees
  force    |tau| s                           turn the rest round
  random   |tau| times random signs          what chance alone would do

`s` is the sign of a vote, `sgn sum_n sgn(-g_n)` ('majority', one vote an
example or a batch), or of the mean gradient ('mean'). With the true gradient g
of the loss, `g . (m tau) = - sum m |g| |tau| <= 0` and the same for 'force':
descent to first order, which a wrong vote breaks. A sign of 0, from an exact
tie or a parameter without effect, agrees only with a coordinate of 0: 'normal'
and 'force' give 0 there.

The reference implementation's soft masks are left out; its random mode draws
from the global generator, this one from the seed and the leaf's name.

Cost: the gradients, and a pass over the parameters for each.

Source: Rinaldi et al., "Gradient-Sign Masking for Task Vector Transport Across
Pre-Trained Models", arXiv:2510.09658.
"""

from collections.abc import Iterable
import math
import operator

import jax
import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import draws
from taskvec_jax.merging import leaves
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

MODES = ('normal', 'force', 'random')
VOTES = ('majority', 'mean')


def grad_sign(
    task_vector: Params,
    signs: Params,
    *,
    mode: str = 'normal',
    seed: int = 0,
) -> Params:
  """Returns the masked task vector; merge masked ones by any other method.

  Args:
    task_vector: `tau`, of another base.
    signs: `s`, a tree like it with entries -1, 0 or 1; of `descent_signs`.
    mode: 'normal', 'force' or 'random' (which reads the shapes of `signs`
      only).
    seed: of the random mode.

  Raises:
    ValueError: trees that differ, an unknown mode, or a seed that is no
      integer.
  """
  checks.check_choice('mode', mode, MODES)
  checks.check_seed(seed)
  arithmetic.check_same_tree(signs, task_vector, 'signs', 'the task vector')
  by_name = leaves.named(signs)
  return leaves.transformed(
      lambda name, leaf: _masked(
          name, leaf, by_name[name], mode=mode, seed=seed
      ),
      task_vector,
  )


def descent_signs(
    gradients: Iterable[Params], *, vote: str = 'majority'
) -> Params:
  """Returns `s`, the voted sign of minus the gradient, a tree of int8.

  Args:
    gradients: at the base, one an example or a batch; read one by one, so a
      generator keeps a single one in memory. Under 'mean' all count alike.
    vote: 'majority' or 'mean'.

  Raises:
    ValueError: no gradient, trees that differ, or an unknown vote.
  """
  checks.check_choice('vote', vote, VOTES)
  # Wide enough to count: in bfloat16, 256 + 1 is 256.
  ballot_fn = _sign if vote == 'majority' else _widened
  total = None
  for index, gradient in enumerate(gradients):
    ballot = jax.tree.map(ballot_fn, gradient)
    if total is None:
      total = ballot
    else:
      arithmetic.check_same_tree(
          ballot, total, f'gradient {index + 1}', 'the first gradient'
      )
      total = jax.tree.map(operator.add, total, ballot)
  if total is None:
    raise ValueError('There are no gradients to vote; give at least one.')
  return jax.tree.map(
      lambda leaf: -leaves.namespace(leaf).sign(leaf).astype(np.int8), total
  )


def _masked(
    name: str, values: Array, signs: Array, *, mode: str, seed: int
) -> Array:
  """Returns the masked tensor; its name is for the random mode."""
  xp = leaves.namespace(values)
  if mode == 'random':
    size = math.prod(np.shape(values))
    draw = draws.bits(seed, 'grad_sign', name, start=0, stop=size)
    signs = np.where(draw % 2 == 1, 1, -1).reshape(np.shape(values))
  signs = xp.asarray(signs).astype(values.dtype)
  if mode == 'normal':
    return xp.where(xp.sign(values) == signs, values, 0)
  return xp.abs(values) * signs


def _sign(leaf: Array) -> Array:
  leaf = _widened(leaf)
  return leaves.namespace(leaf).sign(leaf).astype(np.int32)


def _widened(leaf: Array) -> Array:
  leaf = leaves.asarray(leaf)
  if leaves.is_floating(leaf.dtype):
    return leaves.widened(leaf)
  return leaves.namespace(leaf).zeros(leaf.shape, np.int32)
