"""Task vectors and their arithmetic, on pytrees.

  tau_t    = theta_t - theta_0                                    (section 1)
  theta_TA = theta_0 + sum_t alpha_t tau_t

Addition, negation and analogies are the same sum with other coefficients:
`{'digits': -1.0}` forgets a task, `{'c': 1.0, 'b': 1.0, 'a': -1.0}` answers
"c is to what as a is to b". All cost one pass over the parameters: the sum of T
task vectors is one compiled program that reads each once, not T programs that
write T sums on the way.

Every leaf keeps its dtype. Leaves below float32 are computed in float32; those
of integers and booleans cannot be merged: their task vector is zero, and a
merge keeps the base's.

Source: Ilharco et al., "Editing models with task arithmetic",
arXiv:2212.04089.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def task_vector(finetuned_params: Params, base_params: Params) -> Params:
  """Returns `tau = theta_t - theta_0`.

  Raises:
    ValueError: the two trees differ in structure or in the shape of a leaf;
      the sentence names the first such leaf.
  """
  check_same_tree(finetuned_params, base_params, 'finetuned', 'base')
  return _difference(finetuned_params, base_params)


def weighted_sum(
    task_vectors: Mapping[str, Params], scaling: Mapping[str, float]
) -> Params:
  """Returns `sum_t alpha_t tau_t`.

  Args:
    task_vectors: task name -> pytree; all of the same structure and shapes.
    scaling: task name -> coefficient `alpha_t`, for exactly the same tasks.

  Raises:
    ValueError: no task at all, or the tasks or the trees differ.
  """
  _check_tasks(task_vectors, scaling)
  first_task, first = next(iter(task_vectors.items()))
  for task, vector in task_vectors.items():
    check_same_tree(vector, first, task, first_task)
  return _weighted_sum(
      list(task_vectors.values()), [scaling[task] for task in task_vectors]
  )


def merge(
    base_params: Params,
    task_vectors: Mapping[str, Params],
    scaling: Mapping[str, float],
) -> Params:
  """Returns `theta_TA = theta_0 + sum_t alpha_t tau_t`, task arithmetic.

  Args:
    base_params: `theta_0`.
    task_vectors: task name -> `tau_t`, trees like `base_params`.
    scaling: task name -> coefficient `alpha_t`.

  Raises:
    ValueError: as `weighted_sum`, or a tree that differs from the base's.
  """
  _check_tasks(task_vectors, scaling)
  for task, vector in task_vectors.items():
    check_same_tree(vector, base_params, task, 'base')
  return _merge(
      base_params,
      list(task_vectors.values()),
      [scaling[task] for task in task_vectors],
  )


def edit(
    base_params: Params, task_vector: Params, scaling: float | Array = 1.0
) -> Params:
  """Returns `theta_0 + scaling tau` in the dtypes of the base.

  For a task vector that is merged already. Leaves below float32 are computed in
  float32, those of integers stay the base's; NumPy arrays stay NumPy's.

  Raises:
    ValueError: a tree that differs from the base's.
  """
  check_same_tree(task_vector, base_params, 'task vector', 'base')

  def one(base, vector):
    base, vector = (
        x if isinstance(x, jax.Array) else np.asarray(x) for x in (base, vector)
    )
    if not jnp.issubdtype(base.dtype, jnp.floating):
      return base
    exact = base.dtype if base.dtype.itemsize >= 4 else np.dtype(np.float32)
    # An array's own dtype would widen the product.
    alpha = (
        scaling.astype(exact)
        if isinstance(scaling, jax.Array)
        else exact.type(scaling)
    )
    edited = alpha * vector.astype(exact, copy=False)
    edited += base.astype(exact, copy=False)  # of NumPy's, in place
    return edited.astype(base.dtype, copy=False)

  return jax.tree.map(one, base_params, task_vector)


def uniform_scaling(tasks, alpha: float | None = None) -> dict[str, float]:
  """Returns the same coefficient for every task; `1/T` if alpha is None."""
  tasks = tuple(tasks)
  return dict.fromkeys(tasks, 1 / len(tasks) if alpha is None else alpha)


def check_same_tree(
    params: Params, reference: Params, name: str, reference_name: str
) -> None:
  """Raises a ValueError that names the first leaf in which two trees differ."""
  shapes, reference_shapes = _shapes(params), _shapes(reference)
  for leaf in [*reference_shapes, *shapes]:
    ours, theirs = shapes.get(leaf), reference_shapes.get(leaf)
    if ours != theirs:
      raise ValueError(
          f'Parameters differ at leaf {leaf}: {_say(ours)} in {name} but'
          f' {_say(theirs)} in {reference_name}; both must come from one'
          ' architecture.'
      )


def _check_tasks(
    task_vectors: Mapping[str, Params], scaling: Mapping[str, float]
) -> None:
  """Raises a ValueError unless there is one coefficient a task."""
  if not task_vectors:
    raise ValueError('There are no task vectors to add; give at least one.')
  if set(task_vectors) != set(scaling):
    raise ValueError(
        f'task_vectors has tasks {sorted(task_vectors)} but scaling has'
        f' {sorted(scaling)}; give one coefficient for each task vector.'
    )


@jax.jit
def _difference(finetuned_params: Params, base_params: Params) -> Params:
  return jax.tree.map(
      lambda theta, base: theta - base
      if _is_merged(theta)
      else jnp.zeros_like(theta),
      finetuned_params,
      base_params,
  )


# Lists, not mappings: names of tasks would be a part of the compiled program.
@jax.jit
def _weighted_sum(task_vectors: list[Params], scaling: list[Array]) -> Params:
  return jax.tree.map(
      lambda *taus: _leaf_sum(taus, scaling).astype(jnp.result_type(taus[0]))
      if _is_merged(taus[0])
      else jnp.zeros_like(taus[0]),
      *task_vectors,
  )


@jax.jit
def _merge(
    base_params: Params, task_vectors: list[Params], scaling: list[Array]
) -> Params:
  def one(base, *taus):
    if not _is_merged(base):
      return base
    total = _leaf_sum(taus, scaling)
    return (base.astype(jnp.result_type(base, total)) + total).astype(
        base.dtype
    )

  return jax.tree.map(one, base_params, *task_vectors)


def _is_merged(leaf) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _leaf_sum(taus: Sequence[Array], scaling: Sequence[Array]) -> Array:
  """Returns `sum_t alpha_t tau_t` of one leaf, in float32 or wider."""
  exact = jnp.promote_types(jnp.result_type(taus[0]), jnp.float32)
  total, *others = (
      jnp.asarray(alpha, exact) * tau.astype(exact)
      for alpha, tau in zip(scaling, taus, strict=True)
  )
  return functools.reduce(operator.add, others, total)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'): np.shape(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def _say(shape: tuple[int, ...] | None) -> str:
  return 'absent' if shape is None else f'shape {shape}'
