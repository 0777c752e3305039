"""The merging methods that need no data, on task vectors read in slices.

Each is the method of its own file: same leaf functions, same numbers, same
checks, same defaults. Numbers of a method are keyword arguments of the function
on trees, and `scaling`, the coefficient of the merged task vector.
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import averaging
from taskvec_jax.merging import breadcrumbs
from taskvec_jax.merging import dare
from taskvec_jax.merging import iso
from taskvec_jax.merging import leaves
from taskvec_jax.merging import magmax
from taskvec_jax.merging import pcgrad
from taskvec_jax.merging import slice_merging
from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from taskvec_jax.merging import tsv
from taskvec_jax.typing import Params

Numbers = slice_merging.Numbers


class Method(NamedTuple):
  """One method, on slices."""

  tree_fn: Callable[..., Params]  # the same on trees
  numbers: dict[str, Any]  # names and defaults, `scaling` among them
  prepare: Callable[[slice_merging.Survey, Numbers], slice_merging.MergeFn]
  num_passes: Callable[[Numbers], int]  # with the one that merges
  # (numbers, name, shape) -> how many elements are not to be cut apart.
  grain: Callable[[Numbers, str, tuple[int, ...]], int]


def check(name: str, given: Mapping[str, str], num_tasks: int) -> Numbers:
  """Returns all numbers of a method: those given, and defaults for the rest.

  Args:
    name: of the method.
    given: number -> its value as text.
    num_tasks: T.

  Raises:
    ValueError: an unknown method or number, which lists those known; a value
      of the wrong type or out of its range.
  """
  if name not in METHODS:
    raise ValueError(
        f'there is no method {name!r}; known are {", ".join(METHODS)}'
    )
  method = METHODS[name]
  numbers = dict(method.numbers)
  for key, text in given.items():
    if key not in numbers:
      known = ', '.join(f'{k} ({v})' for k, v in numbers.items())
      raise ValueError(
          f'{name} has no number {key!r}; known, with their defaults, are'
          f' {known}'
      )
    numbers[key] = _parsed(key, text, numbers[key])
  if not math.isfinite(numbers['scaling']):
    raise ValueError(f'scaling must be finite but is {numbers["scaling"]}')
  # A rehearsal: methods leave integers alone, so only their checks do work.
  integers = {
      str(task): {'x': np.zeros(1, np.int32)} for task in range(num_tasks)
  }
  method.tree_fn(
      integers, **{k: v for k, v in numbers.items() if k != 'scaling'}
  )
  return numbers


def _parsed(key: str, text: str, default: Any) -> Any:
  """Returns a number of the default's type from text."""
  kind = float if default is None else type(default)
  if default is None and text.lower() == 'none':
    return None
  try:
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return kind(text)
  except (ValueError, KeyError) as error:
    wanted = {bool: 'true or false', int: 'a whole number'}
    raise ValueError(
        f'{key} must be {wanted.get(kind, "a number")} but is {text!r}'
    ) from error


def _consensus(
    task_vectors: Mapping[str, Params], *, min_tasks: int, mask_lambda: float
) -> Params:
  """Returns consensus with one lambda for all tasks."""
  return tall_masks.consensus(
      task_vectors,
      min_tasks=min_tasks,
      lambdas=dict.fromkeys(task_vectors, mask_lambda),
  )


def _any_cut(numbers: Numbers, name: str, shape: tuple[int, ...]) -> int:
  del numbers, name, shape
  return 1


def _rows(numbers: Numbers, name: str, shape: tuple[int, ...]) -> int:
  del name
  whole_rows = numbers['parametrisation'] == 'reference' and shape
  return shape[-1] if whole_rows else 1


def _ties_passes(numbers: Numbers) -> int:
  return 4 if numbers['tie_break'] == 'majority' else 3


_DARE = {'drop_rate': 0.9, 'seed': 0, 'rescale': True}
_TIES = {
    'density': 0.2,
    'scope': 'global',
    'count': 'exact',
    'tie_break': 'zero',
    'merge': 'dis-mean',
}
_RANK = {'rank_tolerance': None}

METHODS = {
    'average': Method(
        averaging.average,
        {'scaling': 1.0},
        slice_merging.prepare_pointwise(averaging.mean),
        lambda _: 1,
        _any_cut,
    ),
    'task_arithmetic': Method(
        leaves.total,
        {'scaling': 0.3},
        slice_merging.prepare_pointwise(leaves.added),
        lambda _: 1,
        _any_cut,
    ),
    'ties': Method(
        ties.ties,
        {'scaling': 1.0, **_TIES},
        slice_merging.prepare_ties,
        _ties_passes,
        _any_cut,
    ),
    'dare': Method(
        dare.dare,
        {'scaling': 0.3, **_DARE},
        slice_merging.prepare_dare,
        lambda _: 1,
        _any_cut,
    ),
    'dare_ties': Method(
        dare.dare_ties,
        {'scaling': 1.0, **_DARE, **_TIES},
        slice_merging.prepare_dare_ties,
        _ties_passes,
        _any_cut,
    ),
    'breadcrumbs': Method(
        breadcrumbs.breadcrumbs,
        {
            'scaling': 0.3,
            'beta': 0.85,
            'gamma': 0.993,
            'parametrisation': 'paper',
        },
        slice_merging.prepare_breadcrumbs,
        lambda numbers: 1 if numbers['parametrisation'] == 'reference' else 3,
        _rows,
    ),
    'magmax': Method(
        magmax.magmax,
        {'scaling': 1.0},
        slice_merging.prepare_pointwise(magmax.largest),
        lambda _: 1,
        _any_cut,
    ),
    'pcgrad': Method(
        pcgrad.pcgrad,
        {'scaling': 0.3, 'seed': 0},
        slice_merging.prepare_pcgrad,
        lambda _: 2,
        _any_cut,
    ),
    'model_stock': Method(
        averaging.model_stock,
        {'scaling': 1.0},
        slice_merging.prepare_model_stock,
        lambda _: 2,
        _any_cut,
    ),
    'consensus': Method(
        _consensus,
        {'scaling': 0.3, 'min_tasks': 2, 'mask_lambda': 0.6},
        slice_merging.prepare_pointwise(slice_merging.consensus_leaf),
        lambda _: 1,
        _any_cut,
    ),
    'tsv_m': Method(
        tsv.tsv_m,
        {'scaling': 1.0, **_RANK},
        slice_merging.prepare_on_matrices(tsv.tsv_m_matrix),
        lambda _: 2,
        _any_cut,
    ),
    'iso_c': Method(
        iso.iso_c,
        {'scaling': 1.0, **_RANK},
        slice_merging.prepare_on_matrices(iso.iso_c_matrix),
        lambda _: 2,
        _any_cut,
    ),
    'iso_cts': Method(
        iso.iso_cts,
        {'scaling': 1.0, 'common_fraction': 0.8, **_RANK},
        slice_merging.prepare_on_matrices(iso.iso_cts_matrix),
        lambda _: 2,
        _any_cut,
    ),
}

# Those that need whole matrices.
ON_MATRICES = ('tsv_m', 'iso_c', 'iso_cts')
# Those that look for the k-th largest magnitudes.
BY_THRESHOLDS = ('ties', 'dare_ties', 'breadcrumbs')
# Those that multiply or decompose matrices, by code that libraries choose by
# the processor: the last bits of what comes out are those of one type of it.
BY_PROCESSOR = ('pcgrad', 'model_stock', *ON_MATRICES)
