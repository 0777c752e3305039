"""What is asked of a network's parameters, on examples that are placed once."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments.studies import continual_merging_records as records
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import coefficient_search
from taskvec_jax.merging import fisher as fisher_lib
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.studies import continual_merging
from taskvec_jax.tasks import batching
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params

_FISHER_BATCH = 32  # gradients of single examples in memory at once


class Measures(NamedTuple):
  """What is asked of parameters, on examples that are placed once."""

  accuracy_fn: Callable[[Mapping[str, Params]], dict[str, float]]  # test
  hvp_fns: Mapping[str, GradAndHvpFn]
  # (kind of Fisher, task, params) -> diagonal.
  fisher_fn: Callable[[str, str, Params], Params]
  # (params, direction, tasks, scalings) -> training losses [tasks, S].
  losses_fn: Callable[..., np.ndarray]


def measures(config: Any, setting: setting_lib.Setting, seed: int) -> Measures:
  """Returns the functions of one setting and seed."""
  largest = max(data.train.num_examples for data in setting.data.values())
  train, few = {}, {}
  for task, data in setting.data.items():
    inputs, labels = data.train.inputs, data.train.labels
    number = data.train.num_examples
    chosen = np.random.default_rng(seed).permutation(number)
    chosen = chosen[: config.fisher_examples]
    train[task] = _place(inputs, labels, setting.batch_size, largest), number
    few[task] = (
        _place(
            inputs[chosen],
            labels[chosen],
            _FISHER_BATCH,
            min(config.fisher_examples, largest),
        ),
        len(chosen),
    )
  return Measures(
      accuracy_fn=evaluation.accuracy_fn(setting, 'test'),
      hvp_fns=setting_lib.grad_and_hvp_fns(setting),
      fisher_fn=functools.partial(_fisher, setting, few),
      losses_fn=functools.partial(_losses, setting, train),
  )


def _place(inputs, labels, batch_size: int, capacity: int):
  # All tasks in the shape of the largest share one compiled program.
  return full_batch.place(
      batching.make_batches(
          inputs,
          labels,
          batch_size=batch_size,
          num_shards=full_batch.num_devices(),
          capacity=capacity,
      )
  )


def _fisher(setting, few, kind: str, task: str, params: Params) -> Params:
  """Returns a diagonal at `params`, over a few of the task's examples."""
  if kind == records.EMPIRICAL:
    sum_fn = jax.tree_util.Partial(
        continual_merging.empirical_fisher_sum,
        setting_lib.loss_sum(setting, task),
    )
  else:
    sum_fn = jax.tree_util.Partial(
        _exact_fisher_fn(setting.module), setting_lib.padded_head(setting, task)
    )
  return full_batch.exact_mean(sum_fn, params, *few[task])


def _losses(
    setting,
    train,
    params: Params,
    direction: Params,
    tasks: Sequence[str],
    scalings: Sequence[float],
) -> np.ndarray:
  """Returns each task's loss along a direction, `[tasks, S]`."""
  operands = (params, direction, np.asarray(scalings, np.float32))
  return np.stack(
      [
          np.asarray(
              full_batch.exact_mean(
                  jax.tree_util.Partial(
                      _curve, setting_lib.loss_sum(setting, task)
                  ),
                  operands,
                  *train[task],
              ),
              np.float64,
          )
          for task in tasks
      ]
  )


def _curve(loss_sum, operands, batch):
  return coefficient_search.curve(
      lambda params: loss_sum(params, batch), *operands
  )


@functools.cache
def _exact_fisher_fn(module):
  def fisher_sum(head, params, batch):
    def logits_fn(params, inputs):
      return heads.logits(head, encoders.encode(module, params, inputs))

    return fisher_lib.diagonal_fisher_sum(
        logits_fn, params, batch.inputs, batch.mask
    )

  return fisher_sum
