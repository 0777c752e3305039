"""Section of the study of forgetting on the paper's bound, over four sweeps.

One number of the problem varies at a time. The bound is judged on single
rotations, and only where its conditions hold.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from taskvec_jax.experiments.studies import forgetting_config
from taskvec_jax.experiments.studies import forgetting_regression
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import expected_forgetting


def bound(
    config: forgetting_config.ForgettingStudyConfig,
) -> study_results.Section:
  """Returns the section on the paper's bound, with the four sweeps."""
  swept = {
      name: [
          [
              forgetting_regression.point(
                  sizes, seed=s, num_draws=config.sweep_draws
              )
              for s in config.seeds
          ]
          for sizes in sweep
      ]
      for name, sweep in forgetting_config.sweeps(config).items()
  }
  pairs = [
      (sizes, row)
      for name, sweep in forgetting_config.sweeps(config).items()
      for sizes, row in zip(sweep, swept[name], strict=True)
  ]
  within = [pair for pair in pairs if _applies(pair[0])]
  outside = [pair for pair in pairs if not _applies(pair[0])]
  return study_results.Section(
      title='the paper’s bound, and sweeps over p, n, d and γ',
      claim=(
          'With n ≥ d and p ≥ max(17n, 1/γ) the forgetting stays below the'
          ' bound with high probability, and goes to 0 as p grows.'
      ),
      source=(
          'Theorem 2.3 of the paper: with probability at least 1 −'
          ' 10 exp(−c d), c not stated as a number. The exact mean beside it is'
          ' derived for this project.'
      ),
      text=[
          'One number varies in each panel, the others are'
          f' {forgetting_regression.describe(config.problem)}. Dots are the'
          f' means of {config.sweep_draws} rotations for each of'
          f' {len(config.seeds)} draws of task A.',
      ],
      formulas=['R(after B) − R(after A) ≤ (66 √(n/p) + 12/(pγ)) |θ|²'],
      findings=_bound_findings(within, outside),
      curves=[_sweep_curves(config, swept)],
  )


def _applies(sizes: forgetting_config.Sizes) -> bool:
  return expected_forgetting.bound_applies(**dataclasses.asdict(sizes))


def _bound(sizes: forgetting_config.Sizes) -> float:
  return expected_forgetting.relative_bound(
      num_features=sizes.num_features,
      num_examples=sizes.num_examples,
      gamma=sizes.gamma,
  )


def _bound_findings(within, outside) -> list[study_results.Finding]:
  note = (
      'Every single rotation counts, not their mean. The conditions are n ≥ d'
      ' and p ≥ max(17n, 1/γ); outside them the theorem claims nothing.'
  )
  if within:
    broken, number, _, tightness = _count(within)
    inside = study_results.Finding(
        'where its conditions hold',
        'no draw above the bound',
        f'{broken} of {number:,}; the bound is {tightness} times the exact'
        ' mean',
        verdicts.DOES_NOT_HOLD if broken else verdicts.HOLDS,
        note,
    )
  else:
    inside = study_results.Finding(
        'where its conditions hold',
        'no draw above the bound',
        '-',
        verdicts.NOT_MEASURED,
        note,
    )
  if not outside:
    return [inside]
  broken, number, worst, _ = _count(outside)
  return [
      inside,
      study_results.Finding(
          'where they do not',
          'nothing',
          f'{broken} of {number:,} above it, the highest at {worst:.2g} of the'
          ' bound',
          verdicts.SAYS_NOTHING,
          note,
      ),
  ]


def _count(pairs) -> tuple[int, int, float, str]:
  """Returns draws above the bound, all draws, the worst share, tightness."""
  shares = np.concatenate(
      [one.draws / _bound(sizes) for sizes, row in pairs for one in row]
  )
  ratios = [_bound(sizes) / one.exact for sizes, row in pairs for one in row]
  return (
      int(np.sum(shares > 1)),
      shares.size,
      float(shares.max()),
      verdicts.between(ratios, '{:.0f}'),
  )


def _mean(row: Sequence[forgetting_regression.Point]) -> float:
  return float(np.mean([one.exact for one in row]))


def _sweep_curves(config, swept) -> study_results.Curves:
  panels = []
  for name, sweep in forgetting_config.sweeps(config).items():
    x = [float(getattr(sizes, name)) for sizes in sweep]
    rows = swept[name]
    bounds = [_bound(one) if _applies(one) else None for one in sweep]
    panels.append(
        study_results.Panel(
            f'over {forgetting_regression.LABELS[name]}',
            [
                forgetting_regression.band(
                    'drawn', 0, x, [[one.draws for one in row] for row in rows]
                ),
                study_results.Series(
                    'exact mean',
                    study_results.PREDICTED,
                    6,
                    x,
                    [_mean(row) for row in rows],
                ),
                study_results.Series(
                    'leading law',
                    study_results.REFERENCE,
                    2,
                    x,
                    [forgetting_regression.law(sizes) for sizes in sweep],
                ),
                study_results.Series(
                    'the bound, where it applies',
                    study_results.BOUND,
                    1,
                    x,
                    bounds,
                ),
            ],
        )
    )
  return study_results.Curves(
      name='forgetting_sweeps',
      title='Forgetting against the paper’s bound',
      alt=(
          'Forgetting over p, n, d and gamma on logarithmic axes, with the'
          ' exact mean through the measured points and the bound far above.'
      ),
      reading=(
          'Dots are means, bands hold the middle 90 % of all draws. Both axes'
          ' are logarithmic.'
      ),
      x_label='its value',
      y_label='forgetting / |θ|²',
      panels=panels,
      log_x=True,
      log_y=True,
  )
