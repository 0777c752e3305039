"""Distances to multitask training: where a merge lies, and what is predicted.

The gap of task arithmetic at 1/T, theta_TA - theta_MT, is predicted by the
base model's derivatives alone (3.4), by the second-order term along the
multitask path (3.3) and by linear response (3.7).
"""

import math
from typing import Any
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import merging_models
from taskvec_jax.experiments import rates
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.report import merging_results
from taskvec_jax.report import results as results_lib
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


class Place(NamedTuple):
  """Where a model lies, seen from the multitask one."""

  distance: float | None
  relative_distance: float | None  # over |theta_MT - theta_0|
  cosine: float | None  # of the two task vectors


def place(
    setting: setting_lib.Setting, task_vector: Params, multitask_params: Params
) -> Place:
  """Returns where `theta_0 + tau` lies."""
  base_params = setting.base_params
  multitask = arithmetic.task_vector(multitask_params, base_params)
  merged_params = arithmetic.edit(base_params, task_vector)
  distance = float(tree.norm(tree.sub(merged_params, multitask_params)))
  step, length = float(tree.norm(multitask)), float(tree.norm(task_vector))
  product = float(tree.vdot(task_vector, multitask))
  return Place(
      distance,
      distance / step if step else None,
      product / (step * length) if step and length else None,
  )


def gap(
    setting: setting_lib.Setting,
    models: merging_models.Models,
    *,
    seed: int,
    learning_rate: float,
    num_epochs: int,
) -> merging_results.Gap:
  """Returns the gap of one seed's models, measured and predicted."""
  base_params, scaling = setting.base_params, setting.scaling
  task_vectors = {
      task: arithmetic.task_vector(params, base_params)
      for task, params in models.finetuned.items()
  }
  merged_params = arithmetic.merge(base_params, task_vectors, scaling)
  measured = tree.sub(merged_params, models.multitask)
  fns = task_losses.grad_and_hvp_fns(setting)
  at_base = correction.base_correction(
      base_params, fns, scaling, num_epochs=num_epochs
  )
  numbers: dict[str, Any] = dict(
      learning_rate=learning_rate, num_epochs=num_epochs
  )
  along = correction.second_order_correction(
      base_params, fns, scaling, **numbers
  )
  predictions = {
      'base': tree.scale(learning_rate**2, at_base),
      'second order': tree.scale(learning_rate**2, along),
      'linear response': response.linear_response(
          base_params, fns, scaling, **numbers
      ),
  }
  return merging_results.Gap(
      seed=seed,
      learning_rate=learning_rate,
      num_epochs=num_epochs,
      step=float(tree.norm(tree.sub(models.multitask, base_params))),
      gap=float(tree.norm(measured)),
      predictions=[
          _prediction(name, predicted, measured)
          for name, predicted in predictions.items()
      ],
  )


def _prediction(
    name: str, predicted: Params, measured: Params
) -> merging_results.Prediction:
  norm, size = float(tree.norm(predicted)), float(tree.norm(measured))
  left = float(tree.norm(tree.sub(measured, predicted)))
  product = float(tree.vdot(predicted, measured))
  if not (math.isfinite(norm) and math.isfinite(left)):
    return merging_results.Prediction(name, None, None, None)
  return merging_results.Prediction(
      name,
      norm,
      left / size if size else None,
      product / (norm * size) if norm * size else None,
  )


def small_steps(
    job: job_lib.Job[merging_config.MergingConfig],
    eigenvalues: dict[str, list[float]],
) -> list[results_lib.Rates]:
  """Returns the distances at the small learning rates of the slope test."""
  analysis, first = job.config.analysis, job.config.seeds[0]
  if 'exact' not in job.config.regimes or not analysis.rates_epochs:
    return []
  lambda_max = max(highest for _, highest in eigenvalues.values())

  def measure(setting):
    return rates.rates(
        setting,
        rates.full_batch_steps(setting, max(analysis.rates_epochs)),
        learning_rates=[s / lambda_max for s in analysis.rates_sharpness],
        epochs=analysis.rates_epochs,
        batches='full batch',
    )

  return job.once(
      'small_steps',
      list[results_lib.Rates],
      lambda: setting_lib.in_float64(measure, job.setting_fn(first)),
  )
