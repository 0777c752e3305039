"""Accuracies of many models on one split, which is placed on the devices once.

Where accuracies are asked for round by round, or along a curve of
coefficients, cutting and placing the examples anew would cost more than the
forward passes.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import coefficient_search
from taskvec_jax.typing import Params

# Of `task_losses`: which model is judged, the setting's or its linearisation.
CorrectSumFn = Callable[[setting_lib.Setting, str], jax.tree_util.Partial]


class Split(NamedTuple):
  """One split of every task, on the devices."""

  setting: setting_lib.Setting
  batches: dict[str, Any]
  num_examples: dict[str, int]


def place(
    setting: setting_lib.Setting, split: str, tasks: Sequence[str] = ()
) -> Split:
  """Returns tasks' 'validation' or 'test' examples, on the devices.

  Small splits have the shape of the largest of all tasks, so that one compiled
  program serves them: a forward pass over padding costs less than a
  compilation. Where all of that would not stay on the devices, each has its
  own.

  Args:
    setting: of the tasks.
    split: 'validation' or 'test'.
    tasks: names; all if there is none.
  """
  every = {name: getattr(data, split) for name, data in setting.data.items()}
  capacity = max(splits.largest_share(part) for part in every.values())
  image_bytes = max(np.prod(x.inputs.shape[1:]) for x in every.values())
  if len(every) * capacity * image_bytes > setting.resident_bytes:
    capacity = None
  arrays = {name: every[name] for name in tasks or every}
  return Split(
      setting,
      {
          name: full_batch.place(
              splits.batches(setting, part, capacity=capacity)
          )
          for name, part in arrays.items()
      },
      {name: part.num_examples for name, part in arrays.items()},
  )


def accuracies(
    split: Split,
    params: Mapping[str, Params],
    correct_sum_fn: CorrectSumFn = task_losses.correct_sum,
) -> dict[str, float]:
  """Returns each task's accuracy, in 0..1, under its own entry of `params`.

  Args:
    split: of `place`.
    params: task name -> parameters, for the tasks to evaluate.
    correct_sum_fn: `(setting, task) -> (params, batch) -> number correct`.
  """
  return {
      name: float(
          full_batch.exact_mean(
              correct_sum_fn(split.setting, name),
              own,
              split.batches[name],
              split.num_examples[name],
          )
      )
      for name, own in params.items()
  }


def curves(
    split: Split,
    params: Params,
    task_vector: Params,
    scalings: Sequence[float],
    correct_sum_fn: CorrectSumFn = task_losses.correct_sum,
) -> dict[str, np.ndarray]:
  """Returns task name -> accuracies `[S]` of `params + s * task_vector`.

  For every scaling s, all in one compiled program. Other arguments are those of
  `accuracies`.
  """
  operands = (params, task_vector, np.asarray(scalings, np.float32))
  return {
      name: np.asarray(
          full_batch.exact_mean(
              jax.tree_util.Partial(
                  _curve_sum, correct_sum_fn(split.setting, name)
              ),
              operands,
              batches,
              split.num_examples[name],
          ),
          np.float64,
      )
      for name, batches in split.batches.items()
  }


def mean(accuracies: Mapping[str, float]) -> float:
  """Returns the mean over the tasks."""
  return sum(accuracies.values()) / len(accuracies)


def _curve_sum(correct_sum, operands, batch):
  return coefficient_search.curve(
      lambda params: correct_sum(params, batch), *operands
  )
