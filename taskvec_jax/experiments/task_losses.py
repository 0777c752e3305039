"""Each task's loss L_t under its frozen head, exact over all its examples.

And what accuracies are made of: how many examples have their label on top.
"""

import functools

from flax import linen as nn
import jax

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.merging import linearised
from taskvec_jax.models import heads
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import ValueAndGradFn


def padded_head(setting: setting_lib.Setting, task: str) -> heads.Head:
  """Returns a task's head with as many classes as the largest task has."""
  num_classes = max(data.num_classes for data in setting.data.values())
  return heads.pad_classes(setting.heads[task], num_classes=num_classes)


def loss_sum(setting: setting_lib.Setting, task: str) -> jax.tree_util.Partial:
  """Returns `(params, batch) -> summed loss` of one task."""
  return jax.tree_util.Partial(
      losses.loss_sum_fn(setting.module), padded_head(setting, task)
  )


def correct_sum(
    setting: setting_lib.Setting, task: str
) -> jax.tree_util.Partial:
  """Returns `(params, batch) -> number correct` of one task."""
  return jax.tree_util.Partial(
      losses.correct_sum_fn(setting.module), padded_head(setting, task)
  )


def linear_correct_sum(
    setting: setting_lib.Setting, task: str
) -> jax.tree_util.Partial:
  """Returns the same of the model that is linearised at `theta_0`."""
  return jax.tree_util.Partial(
      _linear_correct_sum_fn(setting.module),
      padded_head(setting, task),
      setting.base_params,
  )


# One function a module, as in `losses`.
@functools.cache
def _linear_correct_sum_fn(module: nn.Module):
  def correct_sum(head, base_params, params, batch):
    linear_fn = linearised.linearised(
        functools.partial(losses.logits, module, head), base_params
    )
    logits = linear_fn(params, batch.inputs)
    return losses.num_correct(logits, batch.labels, batch.mask)

  return correct_sum


def value_and_grad_fn(
    setting: setting_lib.Setting, task: str
) -> ValueAndGradFn:
  """Returns one task's exact `params -> (L_t, grad L_t)`."""
  train = setting.data[task].train
  return full_batch.exact_value_and_grad(
      loss_sum(setting, task),
      splits.batches(setting, train),
      train.num_examples,
  )


def value_and_grad_fns(
    setting: setting_lib.Setting,
) -> dict[str, ValueAndGradFn]:
  """Returns each task's exact `params -> (L_t, grad L_t)`."""
  return {name: value_and_grad_fn(setting, name) for name in setting.data}


def grad_and_hvp_fns(setting: setting_lib.Setting) -> dict[str, GradAndHvpFn]:
  """Returns each task's exact `(params, v) -> (grad L_t, H_t v)`."""
  return {
      name: full_batch.exact_gradient_and_hvp(
          loss_sum(setting, name),
          splits.batches(setting, data.train),
          data.train.num_examples,
      )
      for name, data in setting.data.items()
  }
