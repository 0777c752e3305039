"""The models that are merged, and the multitask one, of one seed and regime.

Runs of a stated length, on `epochs`: checkpoints, and going on from them, are
the main job's.
"""

from collections.abc import Mapping
import pathlib
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import training
from taskvec_jax.merging import matrix_view
from taskvec_jax.report import merging_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


class Models(NamedTuple):
  """One seed's models of one regime, equally long in training."""

  finetuned: Mapping[str, Params]  # task name -> theta_t
  multitask: Params  # theta_MT
  trained: list[merging_results.Trained]  # what is said of each run


def models(
    config: merging_config.MergingConfig,
    setting: setting_lib.Setting,
    folder: pathlib.Path,
    seed: int,
    regime: str,
) -> Models:
  """Returns the models, trained here or read back from their checkpoints."""
  last, trained = {}, []
  for task in [*setting.data, config_lib.MULTITASK]:
    run = _run(config, setting, folder, seed, regime, task)
    num_epochs = merging_config.num_epochs(config, regime)
    last[task] = run.snapshots[num_epochs]
    trained.append(
        merging_results.Trained(
            seed=seed,
            regime=regime,
            task=task,
            num_epochs=num_epochs,
            loss=run.finetuning.losses[-1],
            length=float(tree.norm(tree.sub(last[task], setting.base_params))),
        )
    )
  return Models(last, last.pop(config_lib.MULTITASK), trained)


def ranks(
    found: Models, base_params: Params, regime: str
) -> list[merging_results.Ranks]:
  """Returns the numerical ranks of every matrix."""
  task_vectors = {
      task: arithmetic.task_vector(params, base_params)
      for task, params in found.finetuned.items()
  }
  return [
      merging_results.Ranks(regime, leaf, *own)
      for leaf, own in matrix_view.ranks(task_vectors).items()
  ]


def _run(config, setting, folder, seed: int, regime: str, task: str):
  num_epochs = merging_config.num_epochs(config, regime)
  return training.run(
      config,
      setting,
      folder,
      task,
      seed=seed,
      regime=regime,
      max_epochs=num_epochs,
      patience=0,
      merge_epochs=tuple(sorted({1, num_epochs})),
  )
