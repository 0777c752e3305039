"""The trainings that alternating tuning and merging is compared with.

All give the model after each round, so that accuracies stand side by side at
equal numbers of training images read and of parameters sent:

* `local_finetuning`: what a task does between two merges, any number of
  epochs over its own images with a fresh optimizer;
* `joint_rounds`: multitask mini-batch training that reads as many images a
  round as all tasks together, a batch of each task a step;
* `descent_rounds`: multitask training that sends as little as merging does,
  ONE exact step on the mean of the tasks' losses a round.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import itertools

import jax
import numpy as np

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import minibatch
from taskvec_jax.finetuning import multitask
from taskvec_jax.gradients import losses
from taskvec_jax.merging import atm
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Params

_MOST_ROUNDS = 10_000  # a seed of the run, a round: one seed of the batches


def local_finetuning(
    setting: setting_lib.Setting,
    empirical: config_lib.Empirical,
    *,
    num_epochs: int,
    seed: int,
) -> dict[str, atm.FinetuneFn]:
  """Returns task -> `(params, round) -> finetuned params`.

  Args:
    setting: its training images; `on_validation` gives them others.
    empirical: the update rule and the size of its batches.
    num_epochs: epochs a round.
    seed: of the batches' order, with the round.
  """

  def finetune_fn(task):
    def finetune(params: Params, number: int) -> Params:
      steps = regimes.empirical_steps(
          setting._replace(base_params=params),
          task,
          empirical,
          max_epochs=num_epochs,
          seed=seed * _MOST_ROUNDS + number,
      )(None, 0)
      *_, last = itertools.islice(steps, num_epochs)
      return last.params

    return finetune

  return {task: finetune_fn(task) for task in setting.data}


def on_validation(setting: setting_lib.Setting) -> setting_lib.Setting:
  """Returns the setting that trains on the validation images."""
  return setting._replace(
      data={
          name: data._replace(train=data.validation)
          for name, data in setting.data.items()
      }
  )


def images_a_pass(setting: setting_lib.Setting) -> int:
  """Returns how many training images all tasks have together."""
  return sum(data.train.num_examples for data in setting.data.values())


def example_weights(setting: setting_lib.Setting) -> dict[str, float]:
  """Returns FedAvg's weights: each task's share of the training images."""
  total = images_a_pass(setting)
  return {
      name: data.train.num_examples / total
      for name, data in setting.data.items()
  }


def num_joint_steps(
    setting: setting_lib.Setting, batch_size: int, *, num_epochs: int
) -> tuple[int, int]:
  """Returns steps a round and the batch of each task: at most the images.

  Args:
    setting: gives the numbers of images and of tasks.
    batch_size: wanted; smaller where a round has fewer images than one step.
    num_epochs: passes over all images a round may read.
  """
  each = num_epochs * images_a_pass(setting) // len(setting.data)
  batch_size = max(1, min(batch_size, each))
  return max(1, each // batch_size), batch_size


def joint_rounds(
    setting: setting_lib.Setting,
    empirical: config_lib.Empirical,
    *,
    num_epochs: int,
    num_rounds: int,
    seed: int,
) -> Iterator[Params]:
  """Yields the multitask model after each round's share of the images.

  A step takes a batch of every task; each task's images come in passes, every
  pass in an order of its own, and small tasks begin their next pass sooner.
  The optimizer keeps its state from round to round.

  Args:
    setting: its base parameters are the start.
    empirical: the update rule and the size of its batches.
    num_epochs: passes over all tasks' images that a round may read.
    num_rounds: at least 1.
    seed: of the batches' order.
  """
  num_steps, batch_size = num_joint_steps(
      setting, empirical.batch_size, num_epochs=num_epochs
  )
  examples = [data.train for data in setting.data.values()]
  uniform = arithmetic.uniform_scaling(setting.data)
  loss_fn = jax.tree_util.Partial(
      losses.weighted_value_and_grad_fn(setting.module),
      [task_losses.padded_head(setting, name) for name in setting.data],
      list(uniform.values()),
  )
  starts = itertools.count(0, num_steps * batch_size)

  def batches_fn(order):
    places = next(starts) + order
    return [
        [
            _batches(arrays, in_passes(len(arrays.labels), places, seed))
            for arrays in examples
        ]
    ]

  for state, _ in minibatch.epochs(
      setting.base_params,
      loss_fn,
      config_lib.empirical_optimizer(
          empirical, num_steps=num_rounds * num_steps
      ),
      num_examples=num_steps * batch_size,
      batch_size=batch_size,
      num_epochs=num_rounds,
      seed=seed,
      batches_fn=batches_fn,
      matmul_precision=empirical.matmul_precision,
  ):
    yield state.params


def descent_rounds(
    setting: setting_lib.Setting, *, learning_rate: float, num_rounds: int
) -> Iterator[Params]:
  """Yields multitask descent on the mean loss, one exact step a round."""
  fn = multitask.multitask_value_and_grad(
      task_losses.value_and_grad_fns(setting),
      arithmetic.uniform_scaling(setting.data),
  )
  for params, _ in gradient_descent.trajectory(
      setting.base_params,
      fn,
      learning_rate=learning_rate,
      num_epochs=num_rounds,
  ):
    yield params


def weighted_mean(
    weights: Mapping[str, float],
) -> Callable[[Mapping[str, Params]], Params]:
  """Returns the merge step of FedAvg, `sum_t w_t tau_t`."""
  return lambda task_vectors: arithmetic.weighted_sum(task_vectors, weights)


def in_passes(num_examples: int, places: np.ndarray, seed: int) -> np.ndarray:
  """Returns the example at each place of an endless row of passes."""
  passes, within = np.divmod(places, num_examples)
  found = np.empty_like(places)
  for number in np.unique(passes):
    here = passes == number
    order = np.random.default_rng([seed, number]).permutation(num_examples)
    found[here] = order[within[here]]
  return found


def _batches(arrays: setting_lib.Arrays, index: np.ndarray) -> batching.Batch:
  return batching.Batch(
      arrays.inputs[index], arrays.labels[index], np.ones(index.shape, bool)
  )
