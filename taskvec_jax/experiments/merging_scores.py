"""What a merged model is judged by: accuracy, and the choice of its scaling.

Accuracies are exact means over a split. The candidates for a scaling are all
evaluated in one compiled program a task; the best has the highest mean over
the tasks of accuracy on validation data, over that of the task's own model
(`coefficient_search`, as Ilharco et al. do it).
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.merging import coefficient_search
from taskvec_jax.merging import linearised
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.typing import Params


class Split(NamedTuple):
  """One split of every task, on the devices."""

  batches: dict[str, Any]
  num_examples: dict[str, int]


def split(setting: setting_lib.Setting, name: str) -> Split:
  """Returns the 'validation' or 'test' examples."""
  return Split(
      evaluation.batches(setting, name),
      {
          task: getattr(data, name).num_examples
          for task, data in setting.data.items()
      },
  )


def accuracies(
    setting: setting_lib.Setting,
    examples: Split,
    params: Mapping[str, Params],
    *,
    is_linear: bool = False,
) -> dict[str, float]:
  """Returns each task's accuracy under its own entry of `params`.

  Args:
    setting: gives the model, the base and the heads.
    examples: of `split`.
    params: task name -> parameters, for the tasks to evaluate.
    is_linear: whether the model is linearised around the base.
  """
  found = {}
  for task, own in params.items():
    _, correct = full_batch.exact_mean(
        _score_sum(setting, task, is_linear),
        own,
        examples.batches[task],
        examples.num_examples[task],
    )
    found[task] = float(correct)
  return found


def curve(
    setting: setting_lib.Setting,
    examples: Split,
    task_vector: Params,
    scalings: Sequence[float],
    references: Mapping[str, float],
    *,
    is_linear: bool = False,
) -> list[float]:
  """Returns the score of `theta_0 + s tau` for each scaling s.

  Args:
    setting: as in `accuracies`.
    examples: of `split`.
    task_vector: `tau`, merged.
    scalings: the candidates.
    references: task name -> accuracy of the task's own model.
    is_linear: as in `accuracies`.
  """
  total = np.zeros(len(scalings))
  candidates = np.asarray(scalings, np.float32)
  for task, reference in references.items():
    _, correct = full_batch.exact_mean(
        jax.tree_util.Partial(_curve_sum, _score_sum(setting, task, is_linear)),
        (setting.base_params, task_vector, candidates),
        examples.batches[task],
        examples.num_examples[task],
    )
    total += np.asarray(correct, np.float64) / reference
  return (total / len(references)).tolist()


def _curve_sum(score_sum, operands, batch):
  return coefficient_search.curve(
      lambda params: score_sum(params, batch), *operands
  )


def _score_sum(setting: setting_lib.Setting, task: str, is_linear: bool):
  if not is_linear:
    return task_losses.score_sum(setting, task)
  return jax.tree_util.Partial(
      _linear_score_sum_fn(setting.module),
      task_losses.padded_head(setting, task),
      setting.base_params,
  )


# One function a module, as in `losses`.
@functools.cache
def _linear_score_sum_fn(module: nn.Module):
  def score_sum(head, base_params, params, batch):
    def logits_fn(params, inputs):
      return heads.logits(head, encoders.encode(module, params, inputs))

    linear_fn = linearised.linearised(logits_fn, base_params)
    logits = linear_fn(params, batch.inputs)
    return (
        losses.cross_entropy_sum(logits, batch.labels, batch.mask),
        losses.num_correct(logits, batch.labels, batch.mask),
    )

  return score_sum
