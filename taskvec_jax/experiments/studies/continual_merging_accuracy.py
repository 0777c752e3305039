"""Claim 4: what the last model knows of all tasks."""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments.studies import continual_merging_records as records
from taskvec_jax.experiments.studies import continual_merging_words as words
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_results

_WORDS = {
    records.SEQUENTIAL: 'sequential finetuning',
    records.ANCHORED: 'EWC',
    records.RUNNING_MEAN: 'running mean, α = 1/t',
    records.MERGED: 'closed form alone',
    records.PAPER: 'Perturb-and-Merge',
    records.WITH_NOISE: 'noise and closed form',
    records.BY_HESSIAN: 'closed form alone, true Hessian*',
    records.PERTURBED_BY_HESSIAN: 'Perturb-and-Merge, true Hessian*',
    records.SEARCHED: 'plain, line search*',
    records.PERTURBED_SEARCHED: 'perturbed, line search*',
}
# (where, first, second, what is claimed): first above or equal to second.
_CLAIMS = (
    ('sequential', records.PAPER, records.SEQUENTIAL, 'not below'),
    ('average', records.PAPER, records.AVERAGE, 'not below'),
    ('EWC', records.PAPER, records.ANCHORED, 'not below'),
    (
        'line search, sequential',
        records.PERTURBED_SEARCHED,
        records.SEQUENTIAL,
        'not below',
    ),
    (
        'line search, average',
        records.PERTURBED_SEARCHED,
        records.AVERAGE,
        'not below',
    ),
    ('perturbing', records.PAPER, records.MERGED, 'better than without'),
    ('noise', records.PAPER, records.WITH_NOISE, 'better than noise'),
    (
        'perturbing, line search',
        records.PERTURBED_SEARCHED,
        records.SEARCHED,
        'better than without',
    ),
)
_DRAWN = {
    records.PAPER: (study_results.MEASURED, 0),
    records.MERGED: (study_results.MEASURED, 5),
    records.PERTURBED_SEARCHED: (study_results.MEASURED, 2),
    records.SEQUENTIAL: (study_results.MEASURED, 1),
    records.ANCHORED: (study_results.MEASURED, 4),
    records.RUNNING_MEAN: (study_results.MEASURED, 7),
}


def section(found: Sequence[records.Sequence]) -> study_results.Section:
  """Returns claim 4 of all sequences and seeds."""
  names = words.names(found)
  groups = {name: [x for x in found if x.sequence == name] for name in names}
  return study_results.Section(
      title='what the last model knows',
      claim=(
          'After the last task the merged model is at least as good on all'
          ' tasks as sequential finetuning and as averaging, and better for the'
          ' perturbation.'
      ),
      source='The claim: the paper. All numbers here are of small networks.',
      text=[
          'Every method finetunes each task for as long, from the model it'
          ' keeps of the tasks before; the average alone is of models'
          ' finetuned from the base. Methods with a star read the training'
          ' examples of earlier tasks to find α and are no methods for tasks'
          ' whose examples are gone: they say what a better coefficient would'
          ' be worth.',
          *(_why(name, group) for name, group in groups.items()),
      ],
      formulas=[],
      findings=[
          _finding(name, groups[name], *claim)
          for name in names
          for claim in _CLAIMS
      ],
      curves=[_figure(groups)],
      tables=[_table(groups)],
  )


def _why(name: str, group) -> str:
  """Returns what stands between the paper's rule and the measured minimum."""
  pairs = np.array(
      [
          [c.alphas[records.EMPIRICAL], c.alphas[records.MEASURED]]
          for one in group
          for c in one.comparisons
          if c.training == records.PERTURBED
      ]
  )
  rule, measured = pairs.mean(0)
  away = np.abs(pairs[:, 0] - pairs[:, 1]).mean()
  ends = {
      method: _points([_final(one, method) for one in group])
      for method in (
          records.PAPER,
          records.PERTURBED_SEARCHED,
          records.SEQUENTIAL,
          records.AVERAGE,
      )
  }
  return (
      f'On {name} the coefficient of Perturb-and-Merge is {rule:.2f} on average'
      f' where the loss along the same steps is lowest at {measured:.2f}, and'
      f' {away:.2f} away from it step by step (claim 3). With the'
      ' measured minimum in its place the same training ends at'
      f' {ends[records.PERTURBED_SEARCHED]} % instead of'
      f' {ends[records.PAPER]} %; sequential finetuning ends at'
      f' {ends[records.SEQUENTIAL]} %, the average at'
      f' {ends[records.AVERAGE]} %.'
  )


def _final(one: records.Sequence, method) -> float:
  """Returns the mean test accuracy of a method's last model."""
  if isinstance(method, str):
    return evaluation.mean(one.posthoc[method])
  return evaluation.mean(records.walk(one, method).final)


def _finding(name, group, where, first, second, claimed):
  differences = [_final(one, first) - _final(one, second) for one in group]
  spread = accuracy.spread(differences)
  kept = sum(difference >= 0 for difference in differences)
  return study_results.Finding(
      f'{name}, {where}',
      claimed,
      spreads.difference(spread),
      words.compared(differences),
      f'Points of mean test accuracy; not below on {kept} of'
      f' {len(differences)} seeds. Holds if on all, in part if on average; the'
      ' 95% interval over seeds is in brackets.',
  )


def _table(groups) -> study_results.Table:
  columns = ['method']
  for name in groups:
    columns += [name, 'newly finetuned', 'forgotten']
  rows = []

  def add(label, cells):
    rows.append([label, *(c for cell in cells for c in cell)])

  groups = groups.values()
  add(
      'base',
      [(_points([evaluation.mean(o.base) for o in g]), '', '') for g in groups],
  )
  add(
      'a model for each task',
      [(_points([evaluation.mean(o.own) for o in g]), '', '') for g in groups],
  )
  for method, label in (
      (records.AVERAGE, 'average of those'),
      (records.MAGMAX, 'MagMax of sequential finetuning'),
  ):
    add(
        label,
        [(_points([_final(o, method) for o in g]), '', '') for g in groups],
    )
  for method, label in _WORDS.items():
    add(label, [_cells(g, method) for g in groups])
  return study_results.Table(
      caption='Mean test accuracy of the last model on all tasks (per cent,'
      ' mean ± standard deviation over seeds), of each task’s finetuned model'
      ' on its own task, and the difference of the two. *: reads the examples'
      ' of earlier tasks.',
      columns=columns,
      rows=rows,
  )


def _cells(group, method) -> tuple[str, str, str]:
  final = [_final(one, method) for one in group]
  own = [evaluation.mean(records.walk(one, method).own) for one in group]
  lost = [a - b for a, b in zip(own, final, strict=True)]
  return _points(final), _points(own), _points(lost)


def _points(values: list[float]) -> str:
  return spreads.points(accuracy.spread(values))


def _figure(groups) -> study_results.Curves:
  panels = []
  for name, group in groups.items():
    series = []
    for method, (kind, color) in _DRAWN.items():
      table = 100 * np.asarray([records.walk(o, method).seen for o in group])
      x = [float(t) for t in range(1, table.shape[1] + 1)]
      series.append(
          words.series(_WORDS[method], kind, color, x, table.tolist())
      )
    panels.append(study_results.Panel(name, series))
  return study_results.Curves(
      name='accuracy',
      title='Accuracy on the tasks so far',
      alt='Mean test accuracy on all tasks so far against the number of tasks,'
      ' a line a method.',
      reading='Mean over seeds, bands from the lowest to the highest. The tasks'
      ' change along the axis, so that lines may rise.',
      x_label='tasks so far',
      y_label='test accuracy (%)',
      panels=panels,
  )
