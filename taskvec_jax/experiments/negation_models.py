"""The finetuned models of a negation run, converged and checkpointed.

Each is one mini-batch run of the main job (`epochs`): every task alone, all of
them, all but one, and a task with its images inverted.
"""

from collections.abc import Sequence
import pathlib

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import training
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_REGIME = 'empirical'
_WHITE = 255


def finetuned(
    config: config_lib.Config,
    setting: setting_lib.Setting,
    folder: pathlib.Path,
    task: str,
    *,
    seed: int,
    name: str = '',
) -> Params:
  """Returns the converged model of a task, or of 'multitask'.

  Args:
    config: the rule of the mini-batches, patience and cap.
    setting: gives base, heads and examples.
    folder: the work folder, which keeps the run.
    task: whose loss is trained on.
    seed: of the batches' order.
    name: of the run on disk; the task's if it is empty.
  """
  run = training.run(
      config,
      setting,
      folder,
      task,
      seed=seed,
      regime=_REGIME,
      max_epochs=config_lib.max_epochs(config, _REGIME, task),
      patience=config.patience,
      merge_epochs=config.merge_epochs,
      name=name,
  )
  return run.converged


def only(
    setting: setting_lib.Setting, tasks: Sequence[str]
) -> setting_lib.Setting:
  """Returns the setting of some of its tasks, equally weighted."""
  return setting._replace(
      data={task: setting.data[task] for task in tasks},
      scaling=arithmetic.uniform_scaling(tasks),
  )


def inverted(setting: setting_lib.Setting, task: str) -> setting_lib.Setting:
  """Returns the setting of one task whose images are inverted, black to white.

  Its frozen head stays that of the images as they were.
  """

  def invert(arrays):
    return arrays._replace(inputs=_WHITE - arrays.inputs)

  data = setting.data[task]
  found = only(setting, [task])
  return found._replace(
      data={
          task: data._replace(
              train=invert(data.train),
              validation=invert(data.validation),
              test=invert(data.test),
          )
      }
  )
