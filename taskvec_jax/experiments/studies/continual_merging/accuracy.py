"""Claim 4: what the last model knows of all tasks."""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.experiments.studies.continual_merging import words
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts

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
_COLORS = {
    records.PAPER: 0,
    records.MERGED: 5,
    records.PERTURBED_SEARCHED: 2,
    records.SEQUENTIAL: 1,
    records.ANCHORED: 4,
    records.RUNNING_MEAN: 7,
}


def section(found: Sequence[records.Sequence]) -> study_results.Section:
  """Returns claim 4 of all sequences and seeds."""
  groups = words.by_sequence(found)
  return study_results.Section(
      title='what the last model knows',
      claim='After the last task the merged model is at least as good on all'
      ' tasks as sequential finetuning and as averaging, and better for the'
      ' perturbation.',
      source='The claim: the paper. All numbers here are of small networks.',
      text=[
          'Every method finetunes each task for as long, from the model it'
          ' keeps of the tasks before; the average alone is of models finetuned'
          ' from the base. Methods with a star read the training examples of'
          ' earlier tasks to find α and are no methods for tasks whose examples'
          ' are gone: they say what a better coefficient would be worth.',
          *(_why(name, group) for name, group in groups.items()),
      ],
      formulas=[],
      findings=[
          _finding(name, group, *claim)
          for name, group in groups.items()
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
      f' {away:.2f} away from it step by step (claim 3). With the measured'
      ' minimum in its place the same training ends at'
      f' {ends[records.PERTURBED_SEARCHED]} % instead of {ends[records.PAPER]}'
      f' %; sequential finetuning ends at {ends[records.SEQUENTIAL]} %, the'
      f' average at {ends[records.AVERAGE]} %.'
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
  return verdicts.Finding(
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
  merged_once = {
      'base': lambda one: evaluation.mean(one.base),
      'a model for each task': lambda one: evaluation.mean(one.own),
      'average of those': lambda one: _final(one, records.AVERAGE),
      'MagMax of sequential finetuning': lambda one: _final(
          one, records.MAGMAX
      ),
  }
  rows = []
  for label, value_fn in merged_once.items():
    rows.append([label])
    for group in groups.values():
      rows[-1] += [_points([value_fn(one) for one in group]), '', '']
  for method, label in _WORDS.items():
    rows.append([label])
    for group in groups.values():
      rows[-1] += _cells(group, method)
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
    for method, color in _COLORS.items():
      seen = 100 * np.array([records.walk(o, method).seen for o in group]).T
      x = range(1, len(seen) + 1)
      series.append(study_panels.ranged(_WORDS[method], color, x, seen))
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
