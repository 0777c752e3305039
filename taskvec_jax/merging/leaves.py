"""Task vectors, leaf by leaf.

A merging method sees one leaf of all T task vectors at a time, as a stack
`[T, *shape]`. Here is what all methods do alike with a leaf:

* leaves below float32 (bfloat16, float16, float8) are computed in float32 and
  given back in their own dtype; wider ones keep theirs;
* leaves of integers and booleans cannot be merged: the result is zero there,
  which keeps the base's value;
* a leaf's name is its path, keys joined by '/';
* NumPy arrays give NumPy arrays, computed on the host and without compilation;
  JAX's give JAX's, and the functions of one stack can be traced.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import fractions
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def named(vector: Params) -> dict[str, Array]:
  """Returns leaf name -> leaf, in the tree's order."""
  return {
      _name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(vector)
  }


def floating(vector: Params) -> dict[str, Array]:
  """Returns leaf name -> leaf in the dtype to compute in, floats alone."""
  return {
      name: widened(leaf)
      for name, leaf in named(vector).items()
      if is_floating(asarray(leaf).dtype)
  }


def stacks(
    task_vectors: Mapping[str, Params],
) -> Iterator[tuple[str, Array]]:
  """Yields (name, stack `[T, *shape]`) of each floating-point leaf."""
  by_task = [named(vector) for vector in task_vectors.values()]
  for name, leaf in by_task[0].items():
    if is_floating(asarray(leaf).dtype):
      yield name, _stack([vector[name] for vector in by_task])


def merged(
    leaf_fn: Callable[[str, Array], Array],
    task_vectors: Mapping[str, Params],
) -> Params:
  """Returns the tree of `leaf_fn(name, stack [T, *shape]) -> [*shape]`."""

  def merge_leaf(path, *parts):
    first = asarray(parts[0])
    if not is_floating(first.dtype):
      return namespace(first).zeros_like(first)
    stack = _stack(parts)
    result = leaf_fn(_name(path), stack)
    return namespace(stack).asarray(result).astype(first.dtype)

  return jax.tree_util.tree_map_with_path(merge_leaf, *task_vectors.values())


def transformed(
    leaf_fn: Callable[[str, Array], Array], vector: Params
) -> Params:
  """Returns the tree of `leaf_fn(name, leaf)` of one task vector."""
  return merged(lambda name, stack: leaf_fn(name, stack[0]), {'': vector})


def total(task_vectors: Mapping[str, Params]) -> Params:
  """Returns `sum_t tau_t`, added up in the dtype to compute in."""
  return merged(lambda _, stack: added(stack), task_vectors)


def added(stack: Array | Sequence[Array]) -> Array:
  """Returns the sum over tasks `[...]` of a stack or a slice of one `[T, ...]`.

  One task after the other: NumPy's own sum takes another order for a slice of
  one column than for many, and slices would round differently from the whole.
  """
  return functools.reduce(operator.add, stack)


def masked(values: Array, keep: Array) -> Array:
  """Returns finite `values`, 0 where `keep` is False.

  A product: on the host it takes a tenth of the time of a choice.
  """
  return values * keep.astype(values.dtype)


def gram(task_vectors: Mapping[str, Params]) -> np.ndarray:
  """Returns `tau_s . tau_t` `[T, T]` in float64, over all floating leaves."""
  num_tasks = len(task_vectors)
  return sum(
      (stack_gram(stack) for _, stack in stacks(task_vectors)),
      start=np.zeros((num_tasks, num_tasks)),
  )


def stack_gram(stack: Array) -> np.ndarray:
  """Returns the inner products `[T, T]` of a stack or a slice of one.

  Those of a tensor are the sum of those of its slices.
  """
  flat = np.asarray(stack, np.float64).reshape(len(stack), -1)
  return flat @ flat.T


def widened(leaf: Array) -> Array:
  """Returns a floating-point leaf as float32, or its own dtype if wider."""
  leaf = asarray(leaf)
  if jnp.finfo(leaf.dtype).bits < 32:
    return leaf.astype(np.float32)
  return leaf


def asarray(leaf: Any) -> Array:
  """Returns JAX's arrays as they are and all else as NumPy's."""
  return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def namespace(*arrays: Any) -> Any:
  """Returns jax.numpy if one of the arrays is JAX's, otherwise numpy."""
  if any(isinstance(array, jax.Array) for array in arrays):
    return jnp
  return np


def is_floating(dtype) -> bool:
  """Returns whether leaves of this dtype can be merged."""
  return jnp.issubdtype(dtype, jnp.floating)


def share(fraction: float, size: int) -> int:
  """Returns `floor(fraction size)`, with `fraction` read as its decimals.

  0.29 of 100 are 29, where the product of floats is below 29.
  """
  return int(fractions.Fraction(repr(float(fraction))) * size)


def complement_share(fraction: float, size: int) -> int:
  """Returns `floor((1 - fraction) size)`, read as `share` does."""
  return int((1 - fractions.Fraction(repr(float(fraction)))) * size)


def _stack(parts) -> Array:
  return namespace(*parts).stack([widened(part) for part in parts])


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
