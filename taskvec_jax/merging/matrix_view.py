"""The matrix that a leaf is, for methods that take singular values.

A singular value belongs to a matrix, and which matrix a kernel is has to be
said. Here it is the linear map from inputs to outputs, `[n_in, n_out]`:

  leaf                                    stored as             seen as
  two axes, unless named bias             [a, b]                [a, b]
  convolution or patch kernel             [p, p, C, d]          [p p C, d]
  kernel of query, key, value, per head   [d, heads, head]      [d, heads head]
  another kernel of three axes or more    [..., d]              [prod, d]
  vectors, scalars, biases, all else      -                     no matrix

So models.vit's query, key, value and out kernels `[d, d]` are four matrices,
position embeddings `[L, d]` are one, and Flax's own attention, whose kernels
have an axis of heads, has the same four matrices as models.vit. Kernels of
published PyTorch weights are `[n_out, n_in]`: transposed, which the methods
commute with. But the reference implementations know matrices of two axes only:
they average convolutions, and see CLIP's fused query-key-value weight, `[3 d,
d]`, as ONE matrix, so results on those weights differ. Tensors of more axes
that are not named kernel, as in PyTorch, are averaged here too.

What is no matrix is averaged over the tasks, as the reference implementations
do; scaling applies to it all the same.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import averaging
from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import spectra
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

_PER_HEAD = ('query', 'key', 'value')


class Ranks(NamedTuple):
  """Numerical ranks of one matrix."""

  full: int  # min(n_in, n_out)
  tasks: dict[str, int]  # task name -> rank of Delta_t
  total: int  # rank of sum_t Delta_t


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
  """Returns (n_in, n_out) of the leaf's matrix, or None if it is none.

  Args:
    name: the leaf's path, keys joined by '/'.
    shape: of one task vector's leaf.
  """
  *parents, last = name.split('/')
  if last == 'bias' or len(shape) < 2 or 0 in shape:
    return None
  if len(shape) == 2:
    return shape[0], shape[1]
  if last != 'kernel':
    return None
  if len(shape) == 3 and parents and parents[-1] in _PER_HEAD:
    return shape[0], shape[1] * shape[2]
  return math.prod(shape[:-1]), shape[-1]


def merged(
    matrix_fn: Callable[[Sequence[parking.Parked], float], parking.Parked],
    task_vectors: Mapping[str, Params],
    *,
    rank_tolerance: float | None = None,
) -> Params:
  """Returns `matrix_fn` of each matrix and the mean of all other leaves.

  Args:
    matrix_fn: (T matrices `[n_in, n_out]`, rank tolerance) -> `[n_in, n_out]`.
    task_vectors: task name -> `tau_t`.
    rank_tolerance: None for the default of each leaf's dtype.
  """
  tolerances = numerical_rank.tolerances(task_vectors, rank_tolerance)

  def merged_leaf(name: str, stack: Array) -> Array:
    shape = stack.shape[1:]
    view = matrix_shape(name, shape)
    if view is None:
      return averaging.mean(stack)
    matrices = [
        parking.Memory(np.asarray(leaf).reshape(view)) for leaf in stack
    ]
    return matrix_fn(matrices, tolerances[name])().reshape(shape)

  return leaves.merged(merged_leaf, task_vectors)


def ranks(
    task_vectors: Mapping[str, Params], *, rank_tolerance: float | None = None
) -> dict[str, Ranks]:
  """Returns leaf name -> numerical ranks, of the leaves that are matrices.

  Args:
    task_vectors: task name -> `tau_t`.
    rank_tolerance: in [0, 1); None for the default of each leaf's dtype.

  Raises:
    ValueError: no task, trees that differ, or a tolerance out of its range.
  """
  checks.check_task_vectors(task_vectors)
  numerical_rank.check_tolerance(rank_tolerance)
  found = {}
  tolerances = numerical_rank.tolerances(task_vectors, rank_tolerance)
  for name, stack in leaves.stacks(task_vectors):
    view = matrix_shape(name, stack.shape[1:])
    if view is None:
      continue
    tolerance = tolerances[name]
    matrices = list(map(parking.Memory, np.asarray(stack).reshape(-1, *view)))
    found[name] = Ranks(
        full=min(view),
        tasks={
            task: spectra.rank(matrix, tolerance=tolerance)
            for task, matrix in zip(task_vectors, matrices, strict=True)
        },
        total=spectra.rank(
            spectra.added(matrices, parking.in_memory), tolerance=tolerance
        ),
    )
  return found
