"""The page of the comparison of merging methods.

The words that never change stand in `templates/merging.html`.
"""

import os
import pathlib
from typing import Any
from typing import NamedTuple

from scipy import stats

from taskvec_jax.report import accuracy
from taskvec_jax.report import experiment_page
from taskvec_jax.report import merging_figures
from taskvec_jax.report import merging_results
from taskvec_jax.report import merging_table
from taskvec_jax.report import merging_words
from taskvec_jax.report import pictures
from taskvec_jax.report import spreads
from taskvec_jax.report import verdicts

_PAGE = 0  # figures belong to no one claim
_ROUNDING = 1e-4  # a relative distance below this is float32's


class _Group(NamedTuple):
  cost: str
  title: str
  rows: list[merging_table.Row]  # the best first, references as they come


class _Table(NamedTuple):
  regime: str
  groups: list[_Group]
  by_distance: float | None  # rank correlation of accuracy with -distance
  by_cosine: float | None


PICTURES = (
    pictures.Picture(
        claim=_PAGE,
        name='by_method',
        title='Accuracy by method',
        alt=(
            'For each regime one line a method: its test accuracy with bars of'
            ' one standard deviation, coloured by what it was allowed to see;'
            ' vertical lines for base, multitask and single-task models.'
        ),
        reading=(
            'Methods from the worst (bottom) to the best (top) of the last'
            ' panel. Compare dots of one colour: they saw the same. A hollow'
            ' dot is a method with the scaling that is in use without'
            ' validation data, the full one beside it with the scaling that'
            ' validation data chose. Bars are one standard deviation over'
            ' seeds, most of which all methods of a seed share.'
        ),
        draw=merging_figures.by_method,
    ),
    pictures.Picture(
        claim=_PAGE,
        name='near_multitask',
        title='Accuracy against distance and direction to multitask training',
        alt=(
            'Scatter plots, one row a regime: test accuracy against the'
            ' distance to the multitask parameters and against the cosine with'
            ' the multitask task vector, one dot a method.'
        ),
        reading=(
            'If being near to multitask training is what makes a merge good,'
            ' dots fall from the left to the right in the left panels and rise'
            ' in the right ones. Distances are in units of how far multitask'
            ' training moved (the base model is at 1); below 0.01 they are'
            ' drawn at 0.01.'
        ),
        draw=merging_figures.near_multitask,
    ),
    pictures.Picture(
        claim=_PAGE,
        name='scalings',
        title='The score on validation data over the scaling',
        alt=(
            'For each regime a line a method: accuracy on validation data,'
            ' relative to the single-task models, against the scaling.'
        ),
        reading=(
            'Means over seeds; the dot marks the best scaling of the mean (each'
            ' seed chooses its own). A flat top forgives a wrong scaling, a'
            ' narrow one needs validation data. At α = 0 all are the base'
            ' model.'
        ),
        draw=merging_figures.scalings,
    ),
)


def write_page(
    results: merging_results.Results, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `folder/report.html` and its figures; returns the page."""
  tables = [_table(results, regime) for regime in results.num_epochs]
  bar = merging_table.bar(results)
  return experiment_page.write(
      results,
      folder,
      template='merging.html',
      pictures=PICTURES,
      filters={
          'percent': _percent,
          'distance': _distance,
          'ledger': merging_table.ledger,
      },
      tables=tables,
      best=_best(tables),
      bar=bar,
      bar_verdict=(
          verdicts.NOT_MEASURED if bar is None else verdicts.of(bar.holds)
      ),
      words={
          method: merging_words.METHODS[method]
          for method in merging_words.METHODS
          if any(entry.method == method for entry in results.merges)
      },
      gaps=_gaps(results),
      lengths=_lengths(results),
      num_scalings=max(len(entry.scalings) for entry in results.merges),
      num_at_the_edge=sum(
          bool(entry.curve) and entry.scaling == entry.scalings[-1]
          for entry in results.merges
      ),
      num_tuned=sum(bool(entry.curve) for entry in results.merges),
  )


def _table(results: merging_results.Results, regime: str) -> _Table:
  rows = merging_table.rows(results, regime)
  groups = []
  for cost, title in merging_table.CLASSES.items():
    own = [row for row in rows if row.cost == cost]
    if cost != 'reference':
      own = sorted(own, key=lambda row: -row.accuracy.mean)
    if own:
      groups.append(_Group(cost, title, own))
  merged = [row for row in rows if row.cost != 'reference' and row.cosine]
  return _Table(
      regime,
      groups,
      _correlation(
          [-row.distance.mean for row in merged if row.distance],
          [row.accuracy.mean for row in merged if row.distance],
      ),
      _correlation(
          [row.cosine.mean for row in merged if row.cosine],
          [row.accuracy.mean for row in merged if row.cosine],
      ),
  )


def _correlation(x: list[float], y: list[float]) -> float | None:
  """Returns Spearman's rank correlation; None where there is no order."""
  if len(set(x)) < 3 or len(set(y)) < 3:
    return None
  correlation: Any = stats.spearmanr(x, y)[0]
  return correlation


def _best(tables: list[_Table]) -> list[tuple[str, str, merging_table.Row]]:
  """Returns (regime, class, its best row)."""
  return [
      (table.regime, group.title, group.rows[0])
      for table in tables
      for group in table.groups
      if group.cost != 'reference'
  ]


def _gaps(results: merging_results.Results) -> list[dict[str, str]]:
  """Returns by prediction its length and what it leaves, over seeds."""
  lines = []
  names = (
      [one.name for one in results.gaps[0].predictions] if results.gaps else []
  )
  for index, name in enumerate(names):
    found = [gap.predictions[index] for gap in results.gaps]
    line = {'name': name, 'norm': '-', 'left': '-', 'cosine': '-'}
    norms = [
        one.norm / gap.step
        for one, gap in zip(found, results.gaps, strict=True)
        if one.norm is not None and gap.step
    ]
    if norms and len(norms) == len(found):
      line['norm'] = spreads.plain(accuracy.spread(norms), digits=3)
    for field, scale, digits in (('left', 100, 0), ('cosine', 1, 3)):
      spread = accuracy.spread_of_all([getattr(one, field) for one in found])
      if spread is not None:
        line[field] = spreads.plain(spread, scale=scale, digits=digits)
    lines.append(line)
  return lines


def _lengths(results: merging_results.Results) -> dict[str, dict[str, str]]:
  """Returns heading, of a regime -> task -> |tau_t|, mean over seeds."""
  found: dict[str, dict[str, list[float]]] = {}
  for run in results.trained:
    by_task = found.setdefault(f'|τ|, {run.regime}', {})
    by_task.setdefault(run.task, []).append(run.length)
  return {
      heading: {
          task: spreads.plain(accuracy.spread(values))
          for task, values in by_task.items()
      }
      for heading, by_task in found.items()
  }


def _percent(spread: accuracy.Spread | None) -> str:
  return '-' if spread is None else f'{100 * spread.mean:.1f}'


def _distance(spread: accuracy.Spread | None) -> str:
  if spread is None:
    return '-'
  if spread.mean < _ROUNDING:
    return '0' if spread.mean == 0 else 'rounding'
  return f'{spread.mean:.2g}'
