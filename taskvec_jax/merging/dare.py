"""DARE: drop coordinates of a task vector at random, rescale what is left.

  m ~ Bernoulli(p),   v_t = (1 - m) tau_t / (1 - p),

independently for each task and coordinate, so that E v_t = tau_t and
Var v_t = tau_t^2 p / (1 - p). What is left is then merged by another method:
`dare` adds it up as task arithmetic does, scaling 1/T makes it the average;
`dare_ties` hands it to TIES. The paper drops up to p = 0.9 and more.

A coordinate's draw depends on the seed, the task's name, the leaf's name and
the coordinate's index alone: the other tasks, their order and the slices in
which a tensor is read do not matter, and the same seed gives the same bits.
Draws are 32 bits wide, so p holds to 2^-32. p = 0 changes nothing; p = 1
gives zeros. Integer leaves are zero, as everywhere.

The reference implementation draws from the global generator, rescales only if
asked to, and has p = 0.1 by default: `rescale=False` drops without rescaling.
Its variant that drops the smallest magnitudes instead, without rescaling, is
`ties.trim` tensor by tensor.

Cost: one draw a task and coordinate. `drop` works on slices.

Source: Yu et al., "Language Models are Super Mario: Absorbing Abilities from
Homologous Models as a Free Lunch", arXiv:2311.03099.
"""

from collections.abc import Mapping
import math

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import draws
from taskvec_jax.merging import leaves
from taskvec_jax.merging import ties
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def dare(
    task_vectors: Mapping[str, Params],
    *,
    drop_rate: float = 0.9,
    seed: int = 0,
    rescale: bool = True,
) -> Params:
  """Returns `sum_t v_t`, to be scaled as task arithmetic is.

  Arguments and errors are those of `dropped`.
  """
  vectors = dropped(
      task_vectors, drop_rate=drop_rate, seed=seed, rescale=rescale
  )
  return leaves.total(vectors)


def dare_ties(
    task_vectors: Mapping[str, Params],
    *,
    drop_rate: float = 0.9,
    seed: int = 0,
    rescale: bool = True,
    density: float = 0.2,
    scope: str = 'global',
    count: str = 'exact',
    tie_break: str = 'zero',
    merge: str = 'dis-mean',
) -> Params:
  """Returns `ties.ties` of `v_t`: DARE first, then TIES.

  TIES' density counts coordinates of the whole vector, dropped ones as well:
  beyond 1 - p it trims nothing more. mergekit's dare_ties does not trim, which
  is density 1. Arguments and errors are those of `dropped` and `ties.ties`.
  """
  vectors = dropped(
      task_vectors, drop_rate=drop_rate, seed=seed, rescale=rescale
  )
  return ties.ties(
      vectors,
      density=density,
      scope=scope,
      count=count,
      tie_break=tie_break,
      merge=merge,
  )


def dropped(
    task_vectors: Mapping[str, Params],
    *,
    drop_rate: float = 0.9,
    seed: int = 0,
    rescale: bool = True,
) -> dict[str, Params]:
  """Returns task name -> `v_t`.

  Args:
    task_vectors: task name -> `tau_t`; the names are part of the seed.
    drop_rate: p, in [0, 1].
    seed: any integer.
    rescale: whether to divide by 1 - p.

  Raises:
    ValueError: no task, trees that differ, p outside [0, 1], or a seed that is
      no integer.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_fraction('drop_rate', drop_rate)
  checks.check_seed(seed)
  return {
      task: leaves.transformed(
          lambda name, leaf, task=task: drop(
              leaf,
              drop_rate=drop_rate,
              seed=seed,
              task=task,
              leaf=name,
              rescale=rescale,
          ),
          vector,
      )
      for task, vector in task_vectors.items()
  }


def drop(
    values: Array,
    *,
    drop_rate: float,
    seed: int,
    task: str,
    leaf: str,
    start: int = 0,
    rescale: bool = True,
) -> Array:
  """Returns `v_t` of a tensor, or of a slice of the flat tensor.

  Args:
    values: `tau_t`, any shape.
    drop_rate: p.
    seed: any integer.
    task: the task's name.
    leaf: the tensor's name.
    start: index in the flat tensor of the first of `values`.
    rescale: whether to divide by 1 - p.
  """
  size = math.prod(np.shape(values))
  keep = kept(
      drop_rate, seed=seed, task=task, leaf=leaf, start=start, stop=start + size
  )
  scale = 1 - drop_rate if rescale and drop_rate < 1 else 1.0
  xp = leaves.namespace(values)
  return xp.where(keep.reshape(np.shape(values)), values / scale, 0)


def kept(
    drop_rate: float, *, seed: int, task: str, leaf: str, start: int, stop: int
) -> np.ndarray:
  """Returns whether flat coordinates start..stop survive, bool `[stop-start]`.

  Arguments are those of `drop`.
  """
  if drop_rate == 1:  # 2^32 does not fit into the draws' 32 bits
    return np.zeros(stop - start, bool)
  draw = draws.bits(seed, 'dare', task, leaf, start=start, stop=stop)
  return draw >= np.uint32(drop_rate * 2**32)
