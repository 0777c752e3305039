"""The map of part 5: where adding task vectors beats averaging them."""

import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import linear_merging

_COLOR_RANGE = 0.6  # of log10 of a ratio


def addition_map(
    config: config_lib.LinearTeachersStudyConfig,
) -> tuple[study_results.Map, verdicts.Finding]:
  """Returns the map, and whether the measured edge is where (S2.10) has it."""
  num_tasks = config.map_tasks
  cosines, coverages = config.merge_map_cosines, config.map_coverages
  values: np.ndarray = np.zeros((len(cosines), len(coverages)))
  law = np.zeros_like(values)
  predicted = np.zeros_like(values, dtype=bool)
  for column, coverage in enumerate(coverages):
    num_examples = round(coverage * config.dimension)
    values[:, column] = _measured(config, num_examples)
    shares = np.full(num_tasks, num_examples / config.dimension)
    for row, cosine in enumerate(cosines):
      gram = cosine + (1 - cosine) * np.eye(num_tasks)
      average, addition = (
          linear_merging.expected_risks(
              gram, shares, np.full(num_tasks, alpha)
          ).mean()
          for alpha in (1 / num_tasks, 1.0)
      )
      law[row, column] = np.log10(average / addition)
      predicted[row, column] = linear_merging.addition_beats_averaging(
          num_tasks, coverage, cosine
      )
  figure = study_results.Map(
      name='merging_map',
      title='Where addition beats averaging',
      alt='Map over coverage and cosine of the logarithm of the risk of'
      ' averaging over that of addition, with the predicted edge.',
      reading='Yellow: addition has the lower risk, never by much. Colours:'
      ' measured. Orange line: the edge of (S2.10), cell by cell.',
      x_label='coverage n/d',
      y_label='cosine of the differences',
      value_label='log₁₀ of averaging / addition',
      low=-_COLOR_RANGE,
      high=_COLOR_RANGE,
      panels=[
          study_panels.cells(
              f'T = {num_tasks}',
              config.map_coverages,
              config.merge_map_cosines,
              values,
              predicted,
          )
      ],
  )
  finding = training.agreement(
      config,
      'addition or averaging, by (S2.10)',
      'as predicted',
      law,
      values,
      predicted,
  )
  return figure, finding


def _measured(config, num_examples: int) -> np.ndarray:
  """Returns log10 of averaging over addition for every cosine."""
  cosines, num_tasks = config.merge_map_cosines, config.map_tasks
  drawn = [
      training.draw_tasks(
          config,
          55,
          num_tasks=num_tasks,
          cosine=cosine,
          num_examples=num_examples,
          num_draws=config.map_draws,
      )
      for cosine in cosines
  ]
  differences, inputs = map(np.concatenate, zip(*drawn, strict=True))
  average, addition = (
      training.merged_risks(
          training.task_vectors(differences, inputs),
          differences,
          (1 / num_tasks, 1.0),
      )
      .reshape((2, len(cosines), -1))
      .mean(axis=-1)
  )
  return np.log10(average / addition)
