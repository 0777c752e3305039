"""What each method needs to know of the whole before it merges a slice.

`prepare_...(survey, numbers)` returns (slice, task vectors) -> merged task
vector, after passes of its own over the task vectors where the method has
numbers of the whole: TIES' thresholds and majority, inner products, cuts by
tensor. A method on matrices merges each whole, when its first slice comes. The
mathematics is that of the methods' own files, on slices.

Global TIES, exactly: two passes find the thresholds (see selection), one adds
up signs if `tie_break` is 'majority', one more merges.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import math
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import averaging
from taskvec_jax.merging import breadcrumbs
from taskvec_jax.merging import dare
from taskvec_jax.merging import leaves
from taskvec_jax.merging import matrix_view
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import pcgrad
from taskvec_jax.merging import selection
from taskvec_jax.merging import streams
from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from taskvec_jax.typing import Array

# (slice, task vectors [T, n]) -> merged task vector [n].
MergeFn = Callable[[streams.Slice, np.ndarray], Array]
Numbers = Mapping[str, Any]
NUM_BYTES_HELD = 2**24  # of magnitudes, for thresholds, at most


class Survey(NamedTuple):
  """What a method may look at before it merges."""

  tasks: tuple[str, ...]  # names, which random draws depend on
  shapes: dict[str, tuple[int, ...]]  # of the floating-point tensors
  dtypes: dict[str, np.dtype]  # of the task vectors: float32 or float64
  stored: dict[str, tuple[np.dtype, ...]]  # in the files, base first
  draw_names: dict[str, str]  # that tied tensors share
  # Starts a pass over these tensors (None: all): slices and vectors [T, n].
  vectors: Callable[..., Iterator[tuple[streams.Slice, np.ndarray]]]
  scratch: pathlib.Path  # a folder for what waits while others are worked on


def prepare_pointwise(
    leaf_fn: Callable[..., Array],
) -> Callable[[Survey, Numbers], MergeFn]:
  """Returns `prepare` of a method that needs a slice and its numbers alone."""

  def prepare(survey: Survey, numbers: Numbers) -> MergeFn:
    del survey
    return lambda _, vectors: leaf_fn(vectors, **_own(numbers))

  return prepare


def _own(numbers: Numbers) -> dict[str, Any]:
  """Returns the numbers without `scaling`, which is everyone's."""
  return {name: value for name, value in numbers.items() if name != 'scaling'}


def consensus_leaf(
    vectors: np.ndarray, *, min_tasks: int, mask_lambda: float
) -> Array:
  """Returns consensus of a slice `[T, n]`, with one lambda for all tasks."""
  return tall_masks.agreed(
      vectors,
      leaves.added(vectors),
      lambdas=np.full(len(vectors), mask_lambda),
      min_tasks=min_tasks,
  )


def prepare_model_stock(survey: Survey, numbers: Numbers) -> MergeFn:
  """Adds up inner products tensor by tensor, in one pass."""
  del numbers
  num_tasks = len(survey.tasks)
  grams = {name: np.zeros((num_tasks, num_tasks)) for name in survey.shapes}
  for item, vectors in survey.vectors():
    grams[item.name] += leaves.stack_gram(vectors)
  shares = {name: averaging.interpolation(g) for name, g in grams.items()}
  return lambda item, vectors: shares[item.name] * averaging.mean(vectors)


def prepare_pcgrad(survey: Survey, numbers: Numbers) -> MergeFn:
  """Adds up inner products of the whole, in one pass."""
  gram = np.zeros((len(survey.tasks), len(survey.tasks)))
  for _, vectors in survey.vectors():
    gram += leaves.stack_gram(vectors)
  weights = pcgrad.coefficients(gram, survey.tasks, seed=numbers['seed'])
  return lambda _, vectors: leaves.added(
      [weight * row for weight, row in zip(weights, vectors, strict=True)]
  )


def prepare_dare(survey: Survey, numbers: Numbers) -> MergeFn:
  """Needs no pass: a slice draws its own random bits."""
  dropped = _dropped_fn(survey, numbers)
  return lambda item, vectors: leaves.added(dropped(item, vectors))


def _dropped_fn(
    survey: Survey, numbers: Numbers
) -> Callable[[streams.Slice, np.ndarray], np.ndarray]:
  """Returns (slice, task vectors) -> what DARE leaves of them, `[T, n]`."""

  def dropped(item: streams.Slice, vectors: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            dare.drop(
                vector,
                drop_rate=numbers['drop_rate'],
                seed=numbers['seed'],
                task=task,
                leaf=survey.draw_names[item.name],
                start=item.start,
                rescale=numbers['rescale'],
            )
            for vector, task in zip(vectors, survey.tasks, strict=True)
        ]
    )

  return dropped


def prepare_dare_ties(survey: Survey, numbers: Numbers) -> MergeFn:
  """Does what TIES does, each time on what DARE leaves."""
  dropped = _dropped_fn(survey, numbers)

  def dropped_vectors(names=None):
    for item, vectors in survey.vectors(names):
      yield item, dropped(item, vectors)

  merge = prepare_ties(survey._replace(vectors=dropped_vectors), numbers)
  return lambda item, vectors: merge(item, dropped(item, vectors))


def prepare_ties(survey: Survey, numbers: Numbers) -> MergeFn:
  """Finds thresholds and, if it is asked for, the majority of signs."""
  thresholds = _thresholds(survey, numbers)
  sign_sums = dict.fromkeys(survey.shapes, 0)
  if numbers['tie_break'] == 'majority':
    for item, vectors in survey.vectors():
      trimmed = ties.trim(vectors, thresholds[item.name])
      sign_sums[item.name] += ties.sign_sum(trimmed)
    if numbers['scope'] == 'global':
      sign_sums = dict.fromkeys(sign_sums, sum(sign_sums.values()))
  return lambda item, vectors: ties.elect(
      ties.trim(vectors, thresholds[item.name]),
      majority=sign_sums[item.name],
      tie_break=numbers['tie_break'],
      merge=numbers['merge'],
  )


def _thresholds(survey: Survey, numbers: Numbers) -> dict[str, np.ndarray]:
  """Returns tensor name -> the magnitudes from which on TIES keeps, `[T]`."""
  count = functools.partial(
      ties.num_kept, density=numbers['density'], count=numbers['count']
  )
  sizes = {name: math.prod(shape) for name, shape in survey.shapes.items()}
  if numbers['scope'] == 'per_tensor':
    return {
        name: _kth_largest(survey, (name,), [count(size)])[0]
        for name, size in sizes.items()
    }
  if not sizes:
    return {}
  names = tuple(sizes)
  found = _kth_largest(survey, names, [count(sum(sizes.values()))])[0]
  return {name: found for name in sizes}


def _kth_largest(
    survey: Survey, names: tuple[str, ...], nums: Sequence[int]
) -> np.ndarray:
  """Returns the num-th largest magnitudes of tensors together, `[nums, T]`."""
  num_tasks = len(survey.tasks)
  dtype = np.result_type(*(survey.dtypes[name] for name in names))

  def passes():
    for _, vectors in survey.vectors(names):
      yield [*np.abs(vectors).astype(dtype, copy=False)] * len(nums)

  sizes = {name: math.prod(shape) for name, shape in survey.shapes.items()}
  found = selection.kth_largest(
      passes,
      [num for num in nums for _ in range(num_tasks)],
      size=sum(sizes[name] for name in names),
      dtype=dtype,
      capacity=NUM_BYTES_HELD // dtype.itemsize,
  )
  return found.reshape(len(nums), num_tasks)


def prepare_breadcrumbs(survey: Survey, numbers: Numbers) -> MergeFn:
  """Finds the cuts of each tensor; by rows none are needed."""
  shares = {key: numbers[key] for key in ('beta', 'gamma')}
  if numbers['parametrisation'] == 'reference':

    def merge(item: streams.Slice, vectors: np.ndarray) -> Array:
      shape = survey.shapes[item.name]
      rows = vectors.reshape(len(vectors), *((-1, shape[-1]) if shape else ()))
      kept = breadcrumbs.mask_rows(rows, **shares)
      return np.reshape(leaves.added(kept), -1)

    return merge

  cuts = {}
  for name, shape in survey.shapes.items():
    size = math.prod(shape)
    num_small, num_large = breadcrumbs.num_masked(size, **shares)
    low, high = _kth_largest(
        survey, (name,), [size - num_small + 1 if num_small else 0, num_large]
    )
    cuts[name] = (low if num_small else np.full_like(low, -1.0), high)
  return lambda item, vectors: leaves.added(
      breadcrumbs.mask_tails(vectors, *cuts[item.name])
  )


def prepare_on_matrices(
    matrix_fn: Callable[..., parking.Parked],
) -> Callable[[Survey, Numbers], MergeFn]:
  """Returns `prepare` of a method on whole matrices; the rest is averaged.

  A matrix is merged when its first slice is, after a pass over all of its
  slices that parks the tasks' matrices.
  """

  def prepare(survey: Survey, numbers: Numbers) -> MergeFn:
    own = _own(numbers)
    rank_tolerance = own.pop('rank_tolerance')
    merged: dict[str, parking.Parked] = {}  # the one whose slices are asked for

    def merge(item: streams.Slice, vectors: np.ndarray) -> Array:
      view = matrix_view.matrix_shape(item.name, survey.shapes[item.name])
      if view is None:
        return averaging.mean(vectors)
      if item.name not in merged:
        merged.clear()
        # The coarsest of the files' dtypes says what is rounding.
        tolerance = max(
            numerical_rank.tolerance_of(dtype, rank_tolerance)
            for dtype in survey.stored[item.name]
        )
        merged[item.name] = matrix_fn(
            _parked(survey, item.name, view),
            tolerance,
            park=functools.partial(parking.File, folder=survey.scratch),
            **own,
        )
      # Rows that hold the slice, and of them the slice.
      first, last = item.start // view[1], (item.stop - 1) // view[1]
      rows = merged[item.name](slice(first, last + 1)).reshape(-1)
      return rows[item.start - first * view[1] :][: item.size]

    return merge

  return prepare


def _parked(
    survey: Survey, name: str, view: tuple[int, int]
) -> list[parking.File]:
  """Returns the tasks' matrices, after a pass over them."""
  dtype = survey.dtypes[name]
  parked = [
      parking.File(dtype, view, folder=survey.scratch) for _ in survey.tasks
  ]
  for _, vectors in survey.vectors((name,)):
    for matrix, vector in zip(parked, vectors, strict=True):
      matrix.add(vector)
  return parked
