"""One finetuning run of a config: its regime's steps, on to its last epoch."""

import functools
import pathlib

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import epochs
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import workdir as workdir_lib


def run(
    config: config_lib.Config,
    setting: setting_lib.Setting,
    folder: pathlib.Path,
    task: str,
    *,
    seed: int,
    regime: str,
    max_epochs: int,
    patience: int,
    merge_epochs: tuple[int, ...],
    name: str = '',
) -> epochs.Run:
  """Returns the finished run, going on from its checkpoints.

  Args:
    config: step sizes, the rule of mini-batches, time between checkpoints.
    setting: gives base, heads and examples.
    folder: the work folder, which keeps the run.
    task: whose loss is trained on, or 'multitask'.
    seed: of the batches' order.
    regime: 'exact' or 'empirical'.
    max_epochs: cap on the epochs.
    patience: epochs without a better validation loss that end it; 0: none do.
    merge_epochs: parameters are kept after each.
    name: of the run on disk; the task's if it is empty.

  Raises:
    FloatingPointError: the loss became NaN or infinite; names the task.
  """
  if regime == 'exact':
    steps_fn = regimes.exact_steps(setting, task, config.learning_rate)
  else:
    steps_fn = regimes.empirical_steps(
        setting, task, config.empirical, max_epochs=max_epochs, seed=seed
    )
  return epochs.run_to_convergence(
      setting.base_params,
      steps_fn,
      regimes.validation_loss_fn(setting, task),
      functools.partial(regimes.base_gradient, setting, task),
      epochs.Plan(
          seed=seed,
          regime=regime,
          task=name or task,
          max_epochs=max_epochs,
          patience=patience,
          merge_epochs=merge_epochs,
          checkpoint_seconds=config.checkpoint_seconds,
      ),
      folder,
      workdir_lib.Metrics(folder),
  )
