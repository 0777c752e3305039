"""Claim 3: the coefficient on networks, every rule against a line search.

The bar was fixed before it was measured: within 0.1 of the measured minimum.
"""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.experiments.studies.continual_merging import words
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts

_ALPHA_BAR = 0.1
_RISE_FACTOR = 2.0
_COLORS = {
    records.MEASURED: 6,
    records.HESSIAN: 0,
    records.EXACT: 2,
    records.EMPIRICAL: 1,
    records.MEAN: 7,
}


def section(found: Sequence[records.Sequence]) -> study_results.Section:
  """Returns claim 3 of all sequences and seeds."""
  groups = words.by_sequence(found)
  return study_results.Section(
      title='the coefficient on networks',
      claim='On networks, too, the closed form finds the point between the kept'
      ' and the new model where the loss of all tasks is lowest.',
      source='The coefficient with the diagonal of the empirical Fisher: the'
      ' paper. With true Hessian-vector products, with the exact Fisher, and'
      ' the comparison: this project.',
      text=[
          'All rules are asked about the same Delta, that of the paper’s rule'
          ' (closed form, empirical Fisher), after every task from the second'
          ' on. The measured minimum is that of the mean training loss of all'
          ' tasks so far, at 11 points and a parabola. Hessians are those of'
          ' whole tasks at their own optima.',
          'A closed form needs the loss to be a quadratic all the way between'
          ' the two models. The last part of each sequence holds that against'
          ' the new task alone: how much its loss falls along Delta, and the'
          ' ΔᵀHΔ/2 that its curvature at the end says.',
      ],
      formulas=['α = −Σᵢ (θ̂ − θᵢ*)ᵀ Hᵢ Δ / Σᵢ Δᵀ Hᵢ Δ, held to [0, 1]'],
      findings=[
          finding
          for name, group in groups.items()
          for finding in _alpha_findings(name, group)
      ],
      curves=[_alpha_figure(name, group) for name, group in groups.items()],
      tables=[_loss_table(groups)],
  )


def _alpha_findings(name, found):
  findings = []
  for training, said in words.TRAININGS.items():
    comparisons = [
        c for one in found for c in one.comparisons if c.training == training
    ]
    for rule in (records.HESSIAN, records.EMPIRICAL):
      away = [
          abs(c.alphas[rule] - c.alphas[records.MEASURED]) for c in comparisons
      ]
      near = sum(a <= _ALPHA_BAR for a in away)
      findings.append(
          verdicts.Finding(
              f'{name}, {said}, {rule}',
              f'within {_ALPHA_BAR:g}',
              f'{near} of {len(away)}; {np.mean(away):.2f} away on average',
              words.share(near, len(away)),
              'Coefficients of all tasks and seeds near the measured minimum;'
              ' in part if half of them are.',
          )
      )
    rises = [c.measured_rise / c.predicted_rise for c in comparisons]
    good = sum(1 / _RISE_FACTOR <= rise <= _RISE_FACTOR for rise in rises)
    findings.append(
        verdicts.Finding(
            f'{name}, {said}, new task',
            'falls by ΔᵀHΔ/2',
            # Some may be huge or negative.
            f'{verdicts.between(rises, "{:.2g}")} of it',
            words.share(good, len(rises)),
            'Fall of the new task’s loss along Delta over what its curvature'
            f' says, within a factor of {_RISE_FACTOR:g}.',
        )
    )
  return findings


def _alpha_figure(name: str, found) -> study_results.Curves:
  panels = []
  for training, said in words.TRAININGS.items():
    by_seed = [
        [c for c in one.comparisons if c.training == training] for one in found
    ]
    x = [c.step for c in by_seed[0]]
    series = []
    for rule, color in _COLORS.items():
      alphas = np.array([[c.alphas[rule] for c in walk] for walk in by_seed]).T
      if rule == records.MEAN:  # the same for every seed
        series.append(study_panels.reference(rule, color, x, alphas[:, 0]))
        continue
      measured = rule == records.MEASURED
      kind = study_results.MEASURED if measured else study_results.PREDICTED
      series.append(study_panels.ranged(rule, color, x, alphas, kind))
    panels.append(study_results.Panel(said, series))
  return study_results.Curves(
      name=f'coefficients_{name.split()[0]}',
      title=f'Coefficients: {name}',
      alt='Coefficient after each task by every rule and at the measured'
      ' minimum.',
      reading='Mean over seeds, bands from the lowest to the highest.',
      x_label='task t',
      y_label='α',
      panels=panels,
  )


def _loss_table(groups) -> study_results.Table:
  columns, rows = ['rule'], {rule: [rule] for rule in records.RULES[:-1]}
  for name, group in groups.items():
    for training, said in words.TRAININGS.items():
      columns.append(f'{name}, {said}')
      for rule, row in rows.items():
        above = [
            [
                c.losses[rule] - c.losses[records.MEASURED]
                for c in one.comparisons
                if c.training == training
            ]
            for one in group
        ]
        by_seed = [float(np.mean(one)) for one in above]
        row.append(spreads.plain(accuracy.spread(by_seed), digits=3))
  return study_results.Table(
      caption='Training loss of the tasks so far at each rule’s coefficient,'
      ' above the measured minimum: mean over tasks t, ± standard deviation'
      ' over seeds.',
      columns=columns,
      rows=list(rows.values()),
  )
