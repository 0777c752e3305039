"""The rows of the comparison: one method, merged and measured.

A method is called once; each rule for its scaling gives a row. The candidates
for a scaling are judged by the mean over the tasks of accuracy on validation
data, over that of the task's own model (`coefficient_search`, as Ilharco et al.
do it).
"""

from collections.abc import Mapping
import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import merging_data
from taskvec_jax.experiments import merging_gaps
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import merging_methods
from taskvec_jax.experiments import merging_models
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.merging import coefficient_search
from taskvec_jax.report import merging_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

REFERENCES = ('base', 'finetuned', 'multitask')


class Bench(NamedTuple):
  """All that rows of one seed and regime are measured with."""

  inputs: merging_inputs.Inputs
  models: merging_models.Models
  validation: evaluation.Split
  test: evaluation.Split
  references: dict[str, float]  # validation accuracy of the tasks' own models
  scalings: list[float]  # candidates


def bench(
    config: merging_config.MergingConfig,
    setting: setting_lib.Setting,
    models: merging_models.Models,
    seed: int,
    regime: str,
) -> Bench:
  """Returns the bench of one seed and regime."""
  validation = evaluation.place(setting, 'validation')
  references = evaluation.accuracies(validation, models.finetuned)
  # A model that is right nowhere is no unit to measure in: one image is.
  references = {
      task: max(value, 1 / validation.num_examples[task])
      for task, value in references.items()
  }
  # NumPy: methods that work tensor by tensor then compile nothing.
  task_vectors = {
      task: jax.device_get(arithmetic.task_vector(params, setting.base_params))
      for task, params in models.finetuned.items()
  }

  def accuracy(task: str, task_vector: Params) -> float:
    params = arithmetic.edit(setting.base_params, task_vector)
    return evaluation.accuracies(validation, {task: params})[task]

  def score(task_vector: Params) -> float:
    curves = evaluation.curves(
        validation, setting.base_params, task_vector, [1.0]
    )
    (value,) = _normalised(curves, references)
    return value

  inputs = merging_inputs.Inputs(
      config=config,
      numbers=config.numbers,
      seed=seed,
      regime=regime,
      num_epochs=merging_config.num_epochs(config, regime),
      setting=setting,
      task_vectors=task_vectors,
      validation_score=score,
      validation_accuracy=accuracy,
      fishers=functools.cache(
          lambda: merging_data.diagonal_fishers(
              setting,
              task_vectors,
              at_most=config.numbers.fisher_inputs,
              seed=seed,
          )
      ),
  )
  return Bench(
      inputs,
      models,
      validation,
      evaluation.place(setting, 'test'),
      references,
      list(config.scalings),
  )


def reference(bench: Bench, name: str) -> list[merging_results.Merge]:
  """Returns the one row of the base, the tasks' own or the multitask model."""
  base_params = bench.inputs.setting.base_params
  if name == 'finetuned':
    nowhere = merging_gaps.Place(None, None, None)
    return [_row(bench, name, bench.models.finetuned, nowhere)]
  if name == 'base':
    return [_merged_row(bench, name, tree.zeros_like(base_params))]
  task_vector = arithmetic.task_vector(bench.models.multitask, base_params)
  row = _merged_row(bench, name, task_vector)
  # Adding the difference to the base again would round.
  return [dataclasses.replace(row, distance=0.0, relative_distance=0.0)]


def rows(bench: Bench, name: str) -> list[merging_results.Merge]:
  """Returns a method's rows: merged once, with each rule for its scaling."""
  method, inputs = merging_methods.METHODS[name], bench.inputs
  shared = inputs.fishers().seconds if method.reads_fishers else 0.0
  start = time.monotonic()
  merged = jax.block_until_ready(method.merge(inputs))
  merging = time.monotonic() - start + shared

  def row(scaling: float) -> merging_results.Merge:
    return dataclasses.replace(
        _merged_row(
            bench,
            name,
            tree.scale(scaling, merged.task_vector),
            method.correct_sum_fn,
        ),
        coefficients=merged.coefficients,
        examples=merged.examples,
        seconds=merging,
    )

  found = []
  if method.scaling is not None:
    found.append(
        dataclasses.replace(
            row(method.scaling), rule='fixed', scaling=method.scaling
        )
    )
  elif not method.is_tuned:
    found.append(row(1.0))
  if method.is_tuned:
    start = time.monotonic()
    curves = evaluation.curves(
        bench.validation,
        inputs.setting.base_params,
        merged.task_vector,
        bench.scalings,
        method.correct_sum_fn,
    )
    curve = _normalised(curves, bench.references)
    searching = time.monotonic() - start
    scaling = coefficient_search.choose(bench.scalings, curve)
    number = merging_inputs.num_examples(inputs, 'validation')
    found.append(
        dataclasses.replace(
            row(scaling),
            rule='validation',
            scaling=scaling,
            scalings=bench.scalings,
            curve=curve,
            examples={**merged.examples, 'validation': number},
            seconds=merging + searching,
        )
    )
  return found


def _normalised(
    curves: Mapping[str, np.ndarray], references: Mapping[str, float]
) -> list[float]:
  """Returns the mean over tasks of the curves over their references."""
  total = sum(curves[task] / value for task, value in references.items())
  return np.asarray(total / len(references)).tolist()


def _merged_row(
    bench: Bench,
    method: str,
    task_vector: Params,
    correct_sum_fn: evaluation.CorrectSumFn = task_losses.correct_sum,
) -> merging_results.Merge:
  """Returns the row of `theta_0 + tau`."""
  setting = bench.inputs.setting
  params = arithmetic.edit(setting.base_params, task_vector)
  return _row(
      bench,
      method,
      dict.fromkeys(setting.data, params),
      merging_gaps.place(setting, task_vector, bench.models.multitask),
      correct_sum_fn,
  )


def _row(
    bench: Bench,
    method: str,
    params: Mapping[str, Params],
    place: merging_gaps.Place,
    correct_sum_fn: evaluation.CorrectSumFn = task_losses.correct_sum,
) -> merging_results.Merge:
  """Returns a row without what only some methods have."""
  return merging_results.Merge(
      seed=bench.inputs.seed,
      regime=bench.inputs.regime,
      method=method,
      rule='',
      scaling=None,
      scalings=[],
      curve=[],
      accuracy=evaluation.accuracies(bench.test, params, correct_sum_fn),
      distance=place.distance,
      relative_distance=place.relative_distance,
      cosine=place.cosine,
      coefficients={},
      examples={},
      seconds=0.0,
  )
