"""The page of the main job.

The words that never change stand in `templates/page.html`; what depends on the
run is made here.
"""

import os
import pathlib
from typing import NamedTuple

from taskvec_jax.report import accuracy
from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import experiment_page
from taskvec_jax.report import figures
from taskvec_jax.report import first_epoch_findings
from taskvec_jax.report import response_findings
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import spreads
from taskvec_jax.report import verdicts

_FEW_IMAGES = 200  # tests smaller than this are named beside their accuracy


class _TaskTable(NamedTuple):
  regime: str
  rows: list[accuracy.Row]  # with the base first


def write_page(
    results: results_lib.Results, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `folder/report.html` and `figures/*.png`; returns the page."""
  rows = accuracy.rows(results)
  return experiment_page.write(
      results,
      folder,
      template='page.html',
      claims=claims_lib.claims(results),
      pictures=figures.PICTURES,
      filters={'share': _share, 'model': _model},
      rows=rows,
      comparisons=accuracy.comparisons(results),
      task_tables=_task_tables(rows),
      task_errors=_task_errors(results, rows),
      small_tests=_small_tests(results),
      reaches=_reaches(results.response_map),
      first_epochs=_first_epochs(results),
      least_share=first_epoch_findings.LEAST_SHARE,
      least_cosine=first_epoch_findings.LEAST_COSINE,
  )


def _task_tables(rows: list[accuracy.Row]) -> list[_TaskTable]:
  base = [row for row in rows if row.model == 'base']
  tables = []
  for regime in (*accuracy.REGIMES, accuracy.PUBLISHED):
    own = [row for row in rows if row.regime == regime]
    if own:
      tables.append(_TaskTable(regime, base + own))
  if not tables and base:
    tables.append(_TaskTable('', base))
  return tables


def _task_errors(
    results: results_lib.Results, rows: list[accuracy.Row]
) -> dict[str, float]:
  """Returns task -> binomial standard error, the largest over all models."""
  return {
      task.name: max(
          accuracy.binomial_error(row.tasks[task.name].mean, task.num_test)
          for row in rows
      )
      for task in results.setting.tasks
      if all(task.name in row.tasks for row in rows) and rows
  }


def _small_tests(results: results_lib.Results) -> list[str]:
  """Returns a sentence for each task that few images judge."""
  return [
      f'{task.name} is judged on {task.num_test} test images: one image is'
      f' {100 / task.num_test:.1f} points, and the standard error of an'
      ' accuracy of 90% is'
      f' {100 * accuracy.binomial_error(0.9, task.num_test):.1f} points.'
      for task in results.setting.tasks
      if 0 < task.num_test < _FEW_IMAGES
  ]


def _reaches(found: results_lib.ResponseMap) -> list[dict[str, str]]:
  """Returns by epochs how far each prediction reaches, in words."""
  by_correction = response_findings.reach(found, found.left_by_correction)
  table = []
  for epochs, step in response_findings.reach(
      found, found.left_by_response
  ).items():
    line = {
        'epochs': str(epochs),
        'response': _step(step),
        'correction': _step(by_correction[epochs]),
    }
    column = found.epochs.index(epochs)
    for name in ('left_by_response', 'left_by_correction'):
      left = None
      for rate, row in zip(
          found.learning_rates, getattr(found, name), strict=True
      ):
        if step and rate * found.lambda_max == step:
          left = row[column]
      line[name] = '-' if left is None else f'{100 * left:.3g}%'
    table.append(line)
  return table


def _step(step: float) -> str:
  return f'{step:.2g}' if step else 'nowhere'


def _first_epochs(results: results_lib.Results) -> list[dict[str, str]]:
  """Returns the numbers of claim 5 by regime and task, means over seeds."""
  table = []
  for regime in accuracy.REGIMES:
    every = [run for run in results.finetuning if run.regime == regime]
    for task in dict.fromkeys(run.task for run in every):
      own = [run for run in every if run.task == task]
      known = [run for run in map(first_epoch_findings.first_epoch, own) if run]
      epochs = [run.converged_epoch for run in own]
      line = {
          'regime': regime,
          'task': task,
          'epochs': verdicts.between([float(e) for e in epochs], '{:.0f}'),
          'capped': f'{sum(run.hit_cap for run in own)} of {len(own)}',
      }
      for name in ('share', 'norm_ratio', 'cos_converged', 'cos_gradient'):
        values = [getattr(run, name) for run in known]
        line[name] = spreads.plain(accuracy.spread(values)) if values else '-'
      table.append(line)
  return table


def _share(spread: accuracy.Spread | None) -> str:
  return (
      '-'
      if spread is None
      else spreads.plain(spread, scale=100, digits=0) + '%'
  )


def _model(row: accuracy.Row) -> str:
  """Returns 'merged, α tuned, 1 epoch'."""
  words = [row.model]
  if row.alpha_rule:
    words.append('α = 1/T' if row.alpha_rule == '1/T' else 'α tuned')
  if row.converged:
    words.append('converged')
  elif row.epochs is not None:
    words.append(f'{row.epochs} epoch' + ('s' if row.epochs != 1 else ''))
  return ', '.join(words)
