"""The two sequences of tasks, and training on one of them.

Images whose pixels are shuffled anew for every task, all with one frozen head;
and different image tasks, each with its own. Base, heads and examples are those
of the main job.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import config as main_config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.experiments.studies.continual_merging import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.finetuning import minibatch
from taskvec_jax.gradients import losses
from taskvec_jax.studies import continual_merging
from taskvec_jax.studies import permuted_images
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params


def build(
    config: config_lib.ContinualMergingStudyConfig, sequence: str, seed: int
) -> setting_lib.Setting:
  """Returns tasks in their order, base and frozen heads of one seed."""
  main = config_lib.main_config(config)
  if sequence == records.PACKAGED:
    return setting_lib.build(main, setting_lib.load_tasks(main), seed=seed)
  main = dataclasses.replace(main, tasks=(config.permuted_task,))
  (images,) = setting_lib.load_tasks(main).values()
  tasks = permuted(images, config.num_permutations, seed=seed)
  setting = setting_lib.build(main, tasks, seed=seed)
  # One head for all, that of the images as they are.
  shared = next(iter(setting.heads.values()))
  return setting._replace(heads=dict.fromkeys(tasks, shared))


def permuted(
    task: task_lib.Task, num_tasks: int, *, seed: int
) -> dict[str, task_lib.Task]:
  """Returns the task as it is, and with its pixels shuffled in other ways."""
  orders = permuted_images.pixel_orders(
      np.random.default_rng(seed),
      num_tasks=num_tasks,
      num_pixels=int(np.prod(task.train.images.shape[1:3])),
  )

  def shuffled(examples, order):
    if examples is None:
      return None
    images = permuted_images.permute(examples.images, order)
    return examples._replace(images=images)

  return {
      f'permutation {number}': task._replace(
          name=f'permutation {number}',
          train=shuffled(task.train, order),
          test=shuffled(task.test, order),
          validation=shuffled(task.validation, order),
      )
      for number, order in enumerate(orders, start=1)
  }


def train_fn(
    config: config_lib.ContinualMergingStudyConfig,
    setting: setting_lib.Setting,
    training: str,
    fisher_fn: Callable[[str, Params], Params],
    *,
    seed: int,
) -> continual_merging.TrainFn:
  """Returns how `theta*_t` is finetuned.

  Args:
    config: rule of the mini-batches, numbers of the objectives.
    setting: gives heads and examples.
    training: one of `records`.
    fisher_fn: `(task, params) -> F_i`, which EWC alone asks for.
    seed: of batches and draws.
  """
  train = functools.partial(_train, config, setting, seed)
  numbers = dict(epsilon=config.epsilon, probability=config.probability)
  if training == records.EWC:
    return _anchored(train, fisher_fn, setting, config.ewc_strength)
  if training == records.PLAIN:
    plain = continual_merging.plain_objective
    return lambda task, previous, _: train(plain, task, previous)
  objectives = {
      records.PERTURBED: continual_merging.perturbed_objective,
      records.NOISE: continual_merging.noise_objective,
  }
  objective = objectives[training](**numbers)
  return lambda task, previous, _: train(objective, task, previous, previous)


def _anchored(train, fisher_fn, setting, strength) -> continual_merging.TrainFn:
  anchors = [continual_merging.no_anchor(setting.base_params)]

  def anchored(task: str, previous: Params, seen: Mapping[str, Params]):
    if len(seen) == len(anchors):  # one more task than is anchored
      last, params = list(seen.items())[-1]
      anchors.append(
          continual_merging.add_to_anchor(
              anchors[-1], fisher_fn(last, params), params
          )
      )
    objective = continual_merging.anchored_objective
    return train(objective, task, previous, anchors[-1], strength)

  return anchored


def _train(config, setting, seed, objective, task, start, *extra) -> Params:
  """Returns theta*_t by mini-batches; `extra` is the objective's data."""
  rule, data = config.empirical, setting.data[task].train
  # Of this task alone: its batches and draws are the same for all methods.
  entropy = [seed, list(setting.data).index(task)]
  order_seed, key_seed = np.random.default_rng(entropy).integers(2**31, size=2)
  keys = iter(jax.random.split(jax.random.key(key_seed), rule.max_epochs))

  def batches(order):
    yield (
        batching.Batch(
            data.inputs[order], data.labels[order], np.ones(order.shape, bool)
        ),
        jax.random.split(next(keys), len(order)),
    )

  loss_fn = jax.tree_util.Partial(
      _mean_loss_fn(setting.module), task_losses.padded_head(setting, task)
  )
  batch_size = min(rule.batch_size, data.num_examples)
  num_steps = rule.max_epochs * (data.num_examples // batch_size)
  params = start
  for state, _ in minibatch.epochs(
      start,
      jax.tree_util.Partial(objective, loss_fn, *extra),
      main_config_lib.empirical_optimizer(rule, num_steps=num_steps),
      num_examples=data.num_examples,
      batch_size=batch_size,
      num_epochs=rule.max_epochs,
      seed=int(order_seed),
      batches_fn=batches,
      matmul_precision=rule.matmul_precision,
  ):
    params = state.params
  return params


@functools.cache
def _mean_loss_fn(module):
  loss_sum = losses.loss_sum_fn(module)

  def mean_loss(head, params, batch):
    return loss_sum(head, params, batch) / jnp.sum(batch.mask)

  return mean_loss
