"""What every merging method refuses, before any work.

Each sentence names the argument, its value and what would be right.
"""

from collections.abc import Collection
from collections.abc import Mapping

import numpy as np

from taskvec_jax.merging import leaves
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def check_task_vectors(task_vectors: Mapping[str, Params]) -> None:
  """Raises a ValueError unless there are task vectors, trees of one kind.

  Structure, shapes and dtypes must agree; the sentence names the first leaf
  that differs.
  """
  if not task_vectors:
    raise ValueError('There are no task vectors to merge; give at least one.')
  (first_task, first), *others = task_vectors.items()
  dtypes = _dtypes(first)
  for task, vector in others:
    arithmetic.check_same_tree(vector, first, task, first_task)
    for name, dtype in _dtypes(vector).items():
      if dtype != dtypes[name]:
        raise ValueError(
            f'Leaf {name} is {dtype} in {task} but {dtypes[name]} in'
            f' {first_task}; give all task vectors the same dtypes.'
        )


def check_fraction(name: str, value: float) -> None:
  """Raises a ValueError unless `value` lies in [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(f'{name} must lie between 0 and 1 but is {value}.')


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
  """Raises a ValueError that lists `choices` unless `value` is one of them."""
  if value not in choices:
    raise ValueError(
        f"{name} must be one of {', '.join(choices)} but is '{value}'."
    )


def check_seed(seed: int) -> None:
  """Raises a ValueError unless the seed is an integer, of any size."""
  if not isinstance(seed, int | np.integer):
    raise ValueError(f'seed must be an integer but is {seed!r}.')


def check_tasks(name: str, given, task_vectors: Mapping[str, Params]) -> None:
  """Raises a ValueError unless `given` has exactly the tasks' names as keys."""
  if set(given) != set(task_vectors):
    raise ValueError(
        f'task_vectors has tasks {sorted(task_vectors)} but {name} has'
        f' {sorted(given)}; give one entry for each task vector.'
    )


def _dtypes(vector: Params) -> dict[str, np.dtype]:
  return {
      name: leaves.asarray(leaf).dtype
      for name, leaf in leaves.named(vector).items()
  }
