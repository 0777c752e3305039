"""Accuracies of many models on one split, which is placed on the devices once.

Where accuracies are asked for round by round, or along a curve of
coefficients, cutting and placing the examples anew would cost more than the
forward passes.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import coefficient_search
from taskvec_jax.typing import Params


def batches(setting: setting_lib.Setting, split: str) -> dict[str, Any]:
  """Returns every task's 'validation' or 'test' examples, on the devices.

  All have the shape of the largest, so that one compiled program serves them:
  a forward pass over padding costs less than a compilation.
  """
  arrays = {name: getattr(data, split) for name, data in setting.data.items()}
  capacity = max(splits.largest_share(split) for split in arrays.values())
  return {
      name: full_batch.place(splits.batches(setting, split, capacity=capacity))
      for name, split in arrays.items()
  }


def accuracy_fn(
    setting: setting_lib.Setting, split: str
) -> Callable[[Mapping[str, Params]], dict[str, float]]:
  """Returns `task -> params` to `task -> accuracy`, in 0..1.

  Args:
    setting: gives the heads and the examples.
    split: 'validation' or 'test'.
  """
  placed = batches(setting, split)
  score_sums = {name: task_losses.score_sum(setting, name) for name in placed}

  def accuracies(params: Mapping[str, Params]) -> dict[str, float]:
    found = {}
    for name, own in params.items():
      number = getattr(setting.data[name], split).num_examples
      _, correct = full_batch.exact_mean(
          score_sums[name], own, placed[name], number
      )
      found[name] = float(correct)
    return found

  return accuracies


def curve_fn(
    setting: setting_lib.Setting, split: str
) -> Callable[[Params, Params, Sequence[float]], dict[str, np.ndarray]]:
  """Returns `(params, task vector, scalings)` to `task -> accuracies [S]`.

  Of `params + s * task vector` for every scaling s, all in one compiled
  program. Arguments are those of `accuracy_fn`.
  """
  placed = batches(setting, split)
  score_sums = {name: task_losses.score_sum(setting, name) for name in placed}

  def curves(params, task_vector, scalings):
    operands = (params, task_vector, np.asarray(scalings, np.float32))
    return {
        name: np.asarray(
            full_batch.exact_mean(
                jax.tree_util.Partial(_correct, score_sum),
                operands,
                placed[name],
                getattr(setting.data[name], split).num_examples,
            ),
            np.float64,
        )
        for name, score_sum in score_sums.items()
    }

  return curves


def mean(accuracies: Mapping[str, float]) -> float:
  """Returns the mean over the tasks."""
  return sum(accuracies.values()) / len(accuracies)


def _correct(score_sum, operands, batch):
  return coefficient_search.curve(
      lambda params: score_sum(params, batch)[1], *operands
  )
