"""What an experiment beside the main job was run on, in words and numbers."""

from collections.abc import Sequence

import jax

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.report import experiment_results


def summarise(
    config: config_lib.Config,
    setting: setting_lib.Setting,
    *,
    command: str,
    finetuning: str,
    left_out: Sequence[str] = (),
) -> experiment_results.Setting:
  """Returns the description of a run.

  Args:
    config: all settings.
    setting: of any seed.
    command: what repeats the run.
    finetuning: one line.
    left_out: sentences beside those about the numbers of images.
  """
  return experiment_results.Setting(
      config=config.name,
      command=command,
      seeds=list(config.seeds),
      tasks=description.task_summaries(config, setting, {}),
      model=description.describe_model(config.model),
      num_parameters=sum(x.size for x in jax.tree.leaves(setting.base_params)),
      finetuning=finetuning,
      left_out=[*description.fewer_images(config), *left_out],
  )
