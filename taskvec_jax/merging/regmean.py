"""RegMean: the kernel whose outputs are nearest to all tasks' own outputs.

  min_W sum_t | X_t W - X_t W_t |^2
  W = ( sum_t G_t )^-1 sum_t G_t W_t,   G_t = X_t' X_t  `[n_in, n_in]`,

for every linear map by itself, with `X_t` `[rows, n_in]` the inputs that the
map sees in task t's own model; whatever is not the kernel of a linear map
(biases, layer norms, tokens) is averaged. A Gram matrix stands in for the data,
which never leaves its owner.

Fewer rows than inputs, or an input that is always zero, make the sum singular,
where published codes take a plain inverse. Here every task's matrix becomes

  G_t <- a G_t + (1 - a) diag(G_t) + ridge s I,   s = mean_t tr(G_t) / n_in,

its off-diagonal shrunk by the paper's factor a, 0.9 (MergeLM: 1.0; 0.1 for
T5), and a ridge in units of the mean square of an input. A ridge of this form
pulls towards the AVERAGE of the tasks, not towards zero: it adds to each task
the rows sqrt(ridge s) I, fitted to its own kernel. One task, or equal tasks,
are returned as they are for every ridge, and where nothing is seen the result
is the average.

With `G_t` a sum of rows a task counts by its number of rows, as in the paper;
divided by them (MergeLM) tasks count alike. The merge takes either.

The matrix view of a kernel is `[-1, n_out]`: its last axis is the output. Gram
matrices are collected by intercepting every module that owns a `kernel` whose
other axes multiply to the last axis of its input: Flax's Dense, and this
package's Keys and PatchEmbedding. Maps that share an input (key, value) each
have a copy of its matrix; of a vision transformer's last block, queries and MLP
see the class token alone, and so do their matrices.

Cost: a forward pass of each task's model on its data; a solve of n_in^3 a
kernel, in float64 on the host.

Source: Jin et al., "Dataless knowledge fusion by merging weights of language
models", arXiv:2212.09849.
"""

from collections.abc import Mapping
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.merging import averaging
from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def gram_sums(
    module: nn.Module,
    params: Params,
    inputs: Array,
    mask: Array | None = None,
) -> dict[str, Array]:
  """Returns `X' X` of every linear map on one batch; traceable.

  Sums over examples, and over tokens where there are several an example: what
  `full_batch.exact_mean` adds up over batches and devices.

  Args:
    module: any linen module that takes `inputs` alone.
    params: `theta_t`.
    inputs: `[n, ...]`.
    mask: bool `[n]`, False where the example is padding; None for all.

  Returns:
    'path/kernel' -> `[n_in, n_in]`, the path as in the parameters.

  Raises:
    ValueError: with a mask, a map's input does not have n as its first axis.
  """
  sums: dict[str, Array] = {}

  def intercept(next_fn, args, kwargs, context):
    name = '/'.join((*context.module.path, 'kernel'))
    if context.method_name == '__call__' and _is_linear(context.module, args):
      gram = _gram(leaves.widened(args[0]), mask, name)
      sums[name] = sums[name] + gram if name in sums else gram
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(intercept):
    module.apply({'params': params}, inputs)
  return sums


def regmean(
    task_vectors: Mapping[str, Params],
    grams: Mapping[str, Mapping[str, Array]],
    *,
    off_diagonal: float = 0.9,
    ridge: float = 1e-4,
) -> Params:
  """Returns `( sum_t G_t )^-1 sum_t G_t tau_t` for kernels, else the average.

  Args:
    task_vectors: task name -> `tau_t`.
    grams: task name -> ('path/kernel' -> `G_t`), of `gram_sums` added up; for
      each task the same kernels. A kernel without one is averaged.
    off_diagonal: a, from 0 (each input by itself) to 1.
    ridge: in units of s, not negative; with 0 a singular sum is refused.

  Returns:
    A tree like one task vector, of NumPy arrays where it was solved for.

  Raises:
    ValueError: tasks, trees, kernels or shapes differ, a number is out of
      range, or a sum is singular.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_tasks('grams', grams, task_vectors)
  if not 0 <= off_diagonal <= 1 or not ridge >= 0:
    raise ValueError(
        'off_diagonal must be from 0 to 1 and ridge not negative, but they are'
        f' {off_diagonal} and {ridge}.'
    )
  _check_grams(next(iter(task_vectors.values())), grams)
  by_task = {
      task: leaves.named(vector) for task, vector in task_vectors.items()
  }

  def merge(name):
    parts = [vector[name] for vector in by_task.values()]
    if name not in next(iter(grams.values())):
      return averaging.average({t: v[name] for t, v in by_task.items()})
    matrices = [np.asarray(grams[t][name], np.float64) for t in by_task]
    return _solve(
        [np.asarray(part) for part in parts],
        _regularised(matrices, off_diagonal, ridge),
        name,
        has_ridge=ridge > 0,
    )

  structure = jax.tree.structure(next(iter(task_vectors.values())))
  names = next(iter(by_task.values()))
  return jax.tree.unflatten(structure, [merge(name) for name in names])


def _is_linear(module: nn.Module, args: tuple[Any, ...]) -> bool:
  if not args or not module.has_variable('params', 'kernel'):
    return False
  kernel = module.get_variable('params', 'kernel')
  shape, size = np.shape(kernel), np.shape(args[0])
  return len(shape) > 1 and bool(size) and size[-1] == math.prod(shape[:-1])


def _gram(inputs: Array, mask: Array | None, name: str) -> Array:
  if mask is not None:
    if inputs.shape[0] != len(mask):
      raise ValueError(
          f'The input of {name} has {inputs.shape[0]} entries on its first axis'
          f' but the mask has {len(mask)}; a mask needs the examples there.'
      )
    keep = mask.reshape(mask.shape + (1,) * (inputs.ndim - 1))
    inputs = jnp.where(keep, inputs, 0)
  rows = inputs.reshape((-1, inputs.shape[-1]))
  return rows.T @ rows


def _regularised(
    matrices: list[np.ndarray], off_diagonal: float, ridge: float
) -> list[np.ndarray]:
  size = len(matrices[0])
  unit = float(np.mean([np.trace(matrix) / size for matrix in matrices]))
  # Nothing was seen by any task: any ridge gives the average.
  level = ridge * unit if unit > 0 else 1.0
  return [
      off_diagonal * matrix
      + (1 - off_diagonal) * np.diag(np.diag(matrix))
      + level * np.eye(size)
      for matrix in matrices
  ]


def _solve(
    parts: list[np.ndarray],
    matrices: list[np.ndarray],
    name: str,
    *,
    has_ridge: bool,
) -> np.ndarray:
  total = np.sum(matrices, axis=0)
  right = np.sum(
      [
          matrix @ part.astype(np.float64).reshape((len(matrix), -1))
          for matrix, part in zip(matrices, parts, strict=True)
      ],
      axis=0,
  )
  rank = len(total)
  if not has_ridge:  # with one it is positive definite
    rank = np.linalg.matrix_rank(total, hermitian=True)
  if rank < len(total):
    raise ValueError(
        f'The Gram matrices of {name} add up to a singular matrix; give a ridge'
        ' above 0.'
    )
  solution = np.linalg.solve(total, right)
  return solution.reshape(parts[0].shape).astype(parts[0].dtype)


def _check_grams(
    vector: Params, grams: Mapping[str, Mapping[str, Array]]
) -> None:
  shapes = {name: np.shape(leaf) for name, leaf in leaves.named(vector).items()}
  (first_task, first), *_ = grams.items()
  for task, matrices in grams.items():
    if set(matrices) != set(first):
      raise ValueError(
          f'grams of {task} have kernels {sorted(matrices)} but those of'
          f' {first_task} have {sorted(first)}; collect them on one module.'
      )
    for name, matrix in matrices.items():
      if name not in shapes:
        raise ValueError(
            f'grams has a kernel {name} but the task vectors have'
            f' {sorted(shapes)}.'
        )
      size = math.prod(shapes[name][:-1])
      if np.shape(matrix) != (size, size):
        raise ValueError(
            f'The Gram matrix of {name} must be {(size, size)}, since its'
            f' kernel is {shapes[name]}, but is {np.shape(matrix)} in {task}.'
        )
