"""The two regimes of finetuning, as epochs that can be gone on with.

The exact regime is full-batch gradient descent, one step an epoch: the setting
of the theory. The empirical regime is mini-batches with an Optax rule, as
people finetune. Each gives, from a state, the epochs after it, for one task or
for all tasks together ('multitask').

Several processes share the work of an exact epoch. An empirical one runs on one
device of each, all on the same batches, whose images they send one another:
the steps are those of one process, and no faster.
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import minibatch
from taskvec_jax.finetuning import multitask
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class Step(NamedTuple):
  """What one epoch gives: the state to go on from, its parameters, its loss."""

  state: dict[str, Any]  # a tree that a checkpoint can hold
  params: Params
  loss: float


# From a state (None: the base) to the epochs after it.
StepsFn = Callable[[dict[str, Any] | None, int], Iterator[Step]]


def exact_steps(setting: setting_lib.Setting, task: str, eta: float) -> StepsFn:
  """Returns full-batch descent on a task, or on the multitask objective."""
  fn = _objective(setting, task)

  def steps(state, num_done):
    start = setting.base_params if state is None else state['params']
    # No end: who asks decides when to stop.
    for params, info in gradient_descent.trajectory(
        start,
        fn,
        learning_rate=eta,
        num_epochs=np.iinfo(np.int32).max,
        num_done=num_done,
    ):
      yield Step({'params': params}, params, info.loss)

  return steps


def empirical_steps(
    setting: setting_lib.Setting,
    task: str,
    empirical: config_lib.Empirical,
    *,
    max_epochs: int,
    seed: int,
) -> StepsFn:
  """Returns mini-batch training on a task, or on a batch of each at a time.

  The multitask epoch is as long as that of the largest task; smaller tasks
  start again within it.
  """
  multitask_run = task == config_lib.MULTITASK
  names = list(setting.scaling) if multitask_run else [task]
  weights = [setting.scaling[n] if multitask_run else 1.0 for n in names]
  examples = [setting.data[name].train for name in names]
  num_examples = max(arrays.num_examples for arrays in examples)
  batch_size = min(empirical.batch_size, num_examples)
  # Sequences, not mappings: names would be a part of the compiled program.
  loss_fn = jax.tree_util.Partial(
      losses.weighted_value_and_grad_fn(setting.module),
      [task_losses.padded_head(setting, name) for name in names],
      weights,
  )
  optimizer = config_lib.empirical_optimizer(
      empirical, num_steps=max_epochs * (num_examples // batch_size)
  )

  def steps(state, num_done):
    base = setting.base_params
    structure = jax.tree.structure(optimizer.init(base))
    done = None
    if state is not None:
      leaves = [jnp.asarray(leaf) for _, leaf in sorted(state['opt'].items())]
      done = minibatch.MinibatchState(
          num_done,
          jax.tree.map(jnp.asarray, state['params']),
          jax.tree.unflatten(structure, leaves),
      )
    while done is None or done.epoch < max_epochs:
      done, info = next(
          minibatch.epochs(
              base,
              loss_fn,
              optimizer,
              num_examples=num_examples,
              batch_size=batch_size,
              num_epochs=max_epochs,
              seed=seed,
              batches_fn=functools.partial(
                  _gathered, examples, setting.resident_bytes
              ),
              state=done,
              matmul_precision=empirical.matmul_precision,
          )
      )
      # Processes might round differently, and would drift apart.
      params, opt_state, epoch_losses = full_batch.agreed(
          (done.params, done.opt_state, info.losses)
      )
      done = done._replace(params=params, opt_state=opt_state)
      opt = {
          f'{i:04d}': leaf
          for i, leaf in enumerate(jax.tree.leaves(done.opt_state))
      }
      state = {'params': done.params, 'opt': opt}
      yield Step(state, done.params, float(epoch_losses.mean()))

  return steps


def _gathered(examples, max_bytes: int, order: np.ndarray):
  """Yields the batches of an epoch's order, one a task; at most so many bytes.

  A task with fewer examples than the largest starts again from its first.
  """
  step_bytes = order.shape[1] * sum(
      arrays.inputs.itemsize * int(np.prod(arrays.inputs.shape[1:]))
      for arrays in examples
  )
  num = max(max_bytes // step_bytes, 1)
  for first in range(0, len(order), num):
    part = order[first : first + num]
    yield [
        batching.Batch(
            *splits.gathered(arrays, part % arrays.num_examples),
            np.ones(part.shape, bool),
        )
        for arrays in examples
    ]


def base_gradient(setting: setting_lib.Setting, task: str) -> Params:
  """Returns the full-batch gradient at `theta_0` of a run's objective."""
  return _objective(setting, task)(setting.base_params)[1]


def _objective(setting: setting_lib.Setting, task: str) -> ValueAndGradFn:
  """Returns a task's exact loss and gradient, or the multitask objective's."""
  if task != config_lib.MULTITASK:
    return task_losses.value_and_grad_fn(setting, task)
  return multitask.multitask_value_and_grad(
      task_losses.value_and_grad_fns(setting), setting.scaling
  )


def validation_loss_fn(
    setting: setting_lib.Setting, task: str
) -> Callable[[Params], float]:
  """Returns the validation loss, the scaled sum over tasks for 'multitask'."""
  weights = setting.scaling if task == config_lib.MULTITASK else {task: 1.0}
  split = evaluation.place(setting, 'validation', list(weights))
  loss_sums = {n: task_losses.loss_sum(setting, n) for n in weights}

  def validation_loss(params: Params) -> float:
    return sum(
        weights[n]
        * float(
            full_batch.exact_mean(
                loss_sum, params, split.batches[n], split.num_examples[n]
            )
        )
        for n, loss_sum in loss_sums.items()
    )

  return validation_loss
