"""The page of an ATM run."""

import os
import pathlib
from typing import NamedTuple

from taskvec_jax.report import accuracy
from taskvec_jax.report import atm_figures
from taskvec_jax.report import atm_findings
from taskvec_jax.report import atm_results
from taskvec_jax.report import experiment_page
from taskvec_jax.report import pictures


class Row(NamedTuple):
  """One training at its end, over seeds."""

  name: str
  split: str  # 'ROUNDSxEPOCHS'; '' where there are no rounds
  images: str  # read, in thousands
  copies: str  # of the parameters, sent
  mean: accuracy.Spread  # accuracy, mean over the tasks
  tasks: dict[str, accuracy.Spread]


PICTURES = (
    pictures.Picture(
        name='identity',
        claim=1,
        title='Rounds and multitask descent, round by round',
        alt=(
            'Norm of the difference in units of rounding against the number of'
            ' rounds, in float32 and float64, below the line that is allowed.'
        ),
        reading=(
            'The unit is that of rounding, so a difference of rounding is as'
            ' high in both float types; a difference of the methods would be'
            ' half a billion times higher in float64 than in float32.'
        ),
        draw=atm_figures.identity,
    ),
    pictures.Picture(
        name='splits',
        claim=2,
        title='One budget, split into rounds',
        alt=(
            'Test accuracy against epochs spent on every task, one line for'
            ' each split of the budget into rounds.'
        ),
        reading=(
            'Every line spends the same epochs and has a point wherever models'
            ' are merged. Compare the right ends. Bars are one standard'
            ' deviation over seeds, most of it common to all lines of a seed.'
        ),
        draw=atm_figures.splits,
    ),
    pictures.Picture(
        name='by_round',
        claim=3,
        title='Accuracy by round, at equal numbers of images',
        alt=(
            'Test accuracy against rounds for PA-ATM with three merge steps'
            ' and for two multitask trainings.'
        ),
        reading=(
            'At each round all lines have read equally many images, the'
            ' multitask training in black to within one step. What they send'
            ' differs: the black line sends parameters every step.'
        ),
        draw=atm_figures.by_round,
    ),
    pictures.Picture(
        name='post_hoc',
        claim=5,
        title='Accuracy by round, from a merged model',
        alt=(
            'Test accuracy against rounds on validation images for PH-ATM and'
            ' for multitask training from the same merged model.'
        ),
        reading=(
            'Both lines start from the dash-dotted one, the mean of models'
            ' that were finetuned apart, and read equally many validation'
            ' images a round.'
        ),
        draw=atm_figures.post_hoc,
    ),
)


def write_page(
    results: atm_results.Results, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `folder/report.html` and `figures/*.png`; returns the page."""
  return experiment_page.write(
      results,
      folder,
      template='atm.html',
      claims=atm_findings.claims(results),
      pictures=PICTURES,
      rows=rows(results),
  )


def rows(results: atm_results.Results) -> list[Row]:
  """Returns the base, the tasks' own models and all trainings, at their end."""
  found = [
      _row(
          name, '', '', '', [getattr(one, field) for one in results.references]
      )
      for name, field in (
          ('base', 'base'),
          ('each task’s own model', 'finetuned'),
      )
  ]
  groups: dict[tuple, list[atm_results.Curve]] = {}
  for curve in results.curves:
    key = (curve.method, curve.num_rounds, curve.num_epochs)
    groups.setdefault(key, []).append(curve)
  for (method, rounds, epochs), curves in groups.items():
    name = atm_results.METHODS[method]
    rates = sorted({c.learning_rate for c in curves if c.learning_rate})
    if rates:
      name += f', η = {" or ".join(f"{rate:g}" for rate in rates)}'
    found.append(
        _row(
            name,
            f'{rounds}×{epochs}',
            f'{curves[0].images[-1] / 1000:,.1f}',
            f'{curves[0].copies[-1]:,}',
            [curve.accuracy[-1] for curve in curves],
        )
    )
  return found


def _row(
    name: str, split: str, images: str, copies: str, seeds: list[dict]
) -> Row:
  return Row(
      name,
      split,
      images,
      copies,
      accuracy.spread([accuracy.over_tasks(one) for one in seeds]),
      {
          task: accuracy.spread([one[task] for one in seeds])
          for task in seeds[0]
      },
  )
