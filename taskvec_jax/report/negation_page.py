"""The page of a negation run."""

from collections.abc import Callable
import math
import os
import pathlib
from typing import NamedTuple

from taskvec_jax.report import accuracy
from taskvec_jax.report import experiment_page
from taskvec_jax.report import negation_figures
from taskvec_jax.report import negation_findings
from taskvec_jax.report import negation_results
from taskvec_jax.report import pictures


class Row(NamedTuple):
  """One target forgotten from one start, over seeds."""

  start: str
  target: str
  chance: float
  scaling: accuracy.Spread  # the lambda chosen
  on_target: dict[str, accuracy.Spread | None]  # 'before', 'after', 'never'
  on_others: dict[str, accuracy.Spread | None]


class Line(NamedTuple):
  """One model of the pair's map, over seeds."""

  model: str
  error: accuracy.Spread  # over all of the map
  error_inside: accuracy.Spread  # 0 < a <= 1
  alone: dict[str, accuracy.Spread]  # task -> accuracy at its own vector
  together: dict[str, accuracy.Spread]  # at (1, 1)


PICTURES = (
    pictures.Picture(
        name='forgetting_curves',
        claim=1,
        title='Accuracy by the coefficient that is subtracted',
        alt=(
            'Validation accuracy against lambda, on the target and on the'
            ' other tasks, one panel for each start.'
        ),
        reading=(
            'Lines are means over targets and seeds, bands hold 80% of them.'
            ' Forgetting under control is possible where the orange line falls'
            ' before the blue one does. The dashed line is the median of the'
            ' λ that validation chose.'
        ),
        draw=negation_figures.curves,
    ),
    pictures.Picture(
        name='forgetting_targets',
        claim=1,
        title='Every task as the target',
        alt=(
            'For each target and start a line from the accuracy before to that'
            ' after forgetting, with chance and the model that never learned'
            ' the task.'
        ),
        reading=(
            'Blue is before, orange after, the black tick chance; where both'
            ' points coincide nothing could be forgotten without hurting the'
            ' others, or there was nothing to forget. The diamond is the model'
            ' that never learned the task: left of it more was lost than the'
            ' task’s training had given.'
        ),
        draw=negation_figures.targets,
    ),
    pictures.Picture(
        name='disentanglement',
        claim=3,
        title='Weight disentanglement error',
        alt=(
            'Two heat maps of the disentanglement error over the coefficients'
            ' of two task vectors: of the model and of its linearisation.'
        ),
        reading=(
            'Light: the merged model predicts on each task as if the other'
            ' task’s vector were not there. Only the origin is 0 by'
            ' definition: on an axis, one vector alone still changes what the'
            ' base predicts on the other task. The white square is 0 to 1,'
            ' where merging happens. Mean over seeds, test images.'
        ),
        draw=negation_figures.maps,
    ),
)


def write_page(
    results: negation_results.Results, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `folder/report.html` and `figures/*.png`; returns the page."""
  return experiment_page.write(
      results,
      folder,
      template='negation.html',
      claims=negation_findings.claims(results),
      pictures=PICTURES,
      rows=rows(results),
      lines=lines(results),
      analogies=analogies(results),
  )


def rows(results: negation_results.Results) -> list[Row]:
  """Returns one row for each start and target."""
  groups: dict[tuple[str, str], list[negation_results.Forgetting]] = {}
  for row in results.forgetting:
    groups.setdefault((row.start, row.target), []).append(row)
  return [
      Row(
          start=negation_results.STARTS[start],
          target=target,
          chance=own[0].chance,
          scaling=accuracy.spread([row.scaling for row in own]),
          on_target=_by_model(own, negation_findings.target),
          on_others=_by_model(own, negation_findings.control),
      )
      for start in negation_results.STARTS
      for (name, target), own in groups.items()
      if name == start
  ]


def lines(results: negation_results.Results) -> list[Line]:
  """Returns one line for each model of the map."""
  groups = {
      model: [one for one in results.disentanglement if one.model == model]
      for model in negation_results.MODELS
  }
  return [
      Line(
          model=model,
          error=accuracy.spread(
              [negation_findings.mean_error(one, inside=False) for one in own]
          ),
          error_inside=accuracy.spread(
              [negation_findings.mean_error(one, inside=True) for one in own]
          ),
          alone=_by_task(own, 'alone'),
          together=_by_task(own, 'together'),
      )
      for model, own in groups.items()
      if own
  ]


def analogies(
    results: negation_results.Results,
) -> dict[str, accuracy.Spread]:
  """Returns model -> accuracy on D; {} where the run left it out."""
  if not results.analogies:
    return {}
  return {
      model: accuracy.spread([one.accuracy[model] for one in results.analogies])
      for model in results.analogies[0].accuracy
  }


def _by_model(
    rows: list[negation_results.Forgetting],
    value_fn: Callable[[negation_results.Forgetting, str], float],
) -> dict[str, accuracy.Spread | None]:
  """Returns model -> spread over seeds; None where there is no such model."""
  values = {
      model: [value_fn(row, model) for row in rows]
      for model in ('before', 'after', 'never')
  }
  return {
      model: None if any(map(math.isnan, own)) else accuracy.spread(own)
      for model, own in values.items()
  }


def _by_task(
    found: list[negation_results.Disentanglement], field: str
) -> dict[str, accuracy.Spread]:
  return {
      task: accuracy.spread([getattr(one, field)[task] for one in found])
      for task in found[0].tasks
  }
