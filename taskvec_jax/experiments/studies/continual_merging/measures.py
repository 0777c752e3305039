"""What is asked of a network's parameters, on examples that are placed once.

Beside that, what perturbing adds to the loss, in float64: E - L at `theta*_2`
for epsilons that halve, along Delta and along Gaussian noise of Delta's length,
and the curvatures by true Hessian-vector products.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.experiments.studies.continual_merging import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.merging import coefficient_search
from taskvec_jax.merging import fisher as fisher_lib
from taskvec_jax.merging import perturb_and_merge
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


def measures(
    config: config_lib.ContinualMergingStudyConfig,
    setting: setting_lib.Setting,
    seed: int,
) -> Measures:
  """Returns the functions of one setting and seed."""
  largest = setting_lib.largest_train(setting)
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
      accuracy_fn=functools.partial(
          evaluation.accuracies, evaluation.place(setting, 'test')
      ),
      hvp_fns=task_losses.grad_and_hvp_fns(setting),
      fisher_fn=functools.partial(_fisher, setting, few),
      losses_fn=functools.partial(_losses, setting, train),
  )


def penalty(
    setting: setting_lib.Setting,
    training: str,
    step: continual_merging.Step,
    *,
    config: config_lib.ContinualMergingStudyConfig,
) -> records.Penalty:
  """Returns what is measured around the step's `theta*_t`."""
  with jax.enable_x64():
    setting = setting_lib.cast(setting, np.float64)
    previous, params = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), x)
        for x in (step.previous_params, step.finetuned_params)
    )
    train = setting.data[step.task].train
    loss_sum = task_losses.loss_sum(setting, step.task)
    batches = full_batch.place(splits.batches(setting, train))
    hvp_fn = full_batch.exact_gradient_and_hvp(
        loss_sum, batches, train.num_examples
    )
    direction = tree.sub(params, previous)

    def loss_fn(params):
      return full_batch.exact_mean(
          loss_sum, params, batches, train.num_examples
      )

    here = float(loss_fn(params))

    def added(previous: Params, epsilon: float) -> float:
      expected_fn = perturb_and_merge.perturbed_loss(
          loss_fn, previous, epsilon=epsilon, probability=config.probability
      )
      return float(expected_fn(params)) - here

    def curvature(direction: Params) -> float:
      return float(tree.vdot(direction, hvp_fn(params, direction)[1]))

    noises = [
        continual_merging.gaussian_like(jax.random.key(draw), direction)
        for draw in range(config.noise_draws)
    ]
    # `perturbed_loss` measures its Delta from where it is told.
    around = [tree.sub(params, noise) for noise in noises]
    return records.Penalty(
        training=training,
        length=float(tree.norm(direction)),
        epsilons=list(config.epsilons),
        added=[added(previous, epsilon) for epsilon in config.epsilons],
        curvature=curvature(direction),
        noise_added=[
            float(np.mean([added(one, epsilon) for one in around]))
            for epsilon in config.epsilons
        ],
        noise_curvatures=[curvature(noise) for noise in noises],
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
        task_losses.loss_sum(setting, task),
    )
  else:
    sum_fn = jax.tree_util.Partial(
        _exact_fisher_fn(setting.module), task_losses.padded_head(setting, task)
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
                      _curve, task_losses.loss_sum(setting, task)
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
    return fisher_lib.diagonal_fisher_sum(
        functools.partial(losses.logits, module, head),
        params,
        batch.inputs,
        batch.mask,
    )

  return fisher_sum
