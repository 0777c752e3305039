"""Section of the study of forgetting on the paper's bound, over four sweeps.

One number of the problem varies at a time. The bound is judged on single
rotations, and only where its conditions hold.
"""

import dataclasses

import numpy as np

from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.experiments.studies.forgetting import regression
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import expected_forgetting


def bound(config: config_lib.ForgettingStudyConfig) -> study_results.Section:
  """Returns the section on the paper's bound, with the four sweeps."""
  swept = {
      name: [
          [
              regression.point(sizes, seed=s, num_draws=config.sweep_draws)
              for s in config.seeds
          ]
          for sizes in sweep
      ]
      for name, sweep in config_lib.sweeps(config).items()
  }
  pairs = [
      (sizes, row)
      for name, sweep in config_lib.sweeps(config).items()
      for sizes, row in zip(sweep, swept[name], strict=True)
  ]
  within = [pair for pair in pairs if _applies(pair[0])]
  outside = [pair for pair in pairs if not _applies(pair[0])]
  return study_results.Section(
      title='the paper’s bound, and sweeps over p, n, d and γ',
      claim='With n ≥ d and p ≥ max(17n, 1/γ) the forgetting stays below the'
      ' bound with high probability, and goes to 0 as p grows.',
      source='Theorem 2.3 of the paper: with probability at least 1 − 10 exp(−c'
      ' d), c not stated as a number. The exact mean beside it is derived for'
      ' this project.',
      text=[
          'One number varies in each panel, the others are'
          f' {regression.describe(config.problem)}. Dots are the'
          f' means of {config.sweep_draws} rotations for each of'
          f' {len(config.seeds)} draws of task A.',
      ],
      formulas=['R(after B) − R(after A) ≤ (66 √(n/p) + 12/(pγ)) |θ|²'],
      findings=_bound_findings(within, outside),
      curves=[_sweep_curves(config, swept)],
  )


def _applies(sizes: config_lib.Sizes) -> bool:
  return expected_forgetting.bound_applies(**dataclasses.asdict(sizes))


def _bound(sizes: config_lib.Sizes) -> float:
  return expected_forgetting.relative_bound(
      num_features=sizes.num_features,
      num_examples=sizes.num_examples,
      gamma=sizes.gamma,
  )


def _bound_findings(within, outside) -> list[verdicts.Finding]:
  note = (
      'Every single rotation counts, not their mean. The conditions are n ≥ d'
      ' and p ≥ max(17n, 1/γ); outside them the theorem claims nothing.'
  )
  measured, verdict = '-', verdicts.NOT_MEASURED
  if within:
    broken, number, _, tightness = _count(within)
    measured = (
        f'{broken} of {number:,}; the bound is {tightness} times the exact mean'
    )
    verdict = verdicts.of(not broken)
  findings = [
      verdicts.Finding(
          'where its conditions hold',
          'no draw above the bound',
          measured,
          verdict,
          note,
      )
  ]
  if outside:
    broken, number, worst, _ = _count(outside)
    findings.append(
        verdicts.Finding(
            'where they do not',
            'nothing',
            f'{broken} of {number:,} above it, the highest at {worst:.2g} of'
            ' the bound',
            verdicts.SAYS_NOTHING,
            note,
        )
    )
  return findings


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


def _sweep_curves(config, swept) -> study_results.Curves:
  panels = []
  for name, sweep in config_lib.sweeps(config).items():
    x = [getattr(sizes, name) for sizes in sweep]
    exact = [np.mean([one.exact for one in row]) for row in swept[name]]
    draws = [[one.draws for one in row] for row in swept[name]]
    law = [regression.law(sizes) for sizes in sweep]
    bounds = [_bound(one) if _applies(one) else None for one in sweep]
    series = [
        study_panels.drawn('drawn', 0, x, draws),
        study_panels.predicted('exact mean', 6, x, exact),
        study_panels.reference('leading law', 2, x, law),
        study_panels.line(
            'the bound, where it applies', study_results.BOUND, 1, x, bounds
        ),
    ]
    title = f'over {regression.LABELS[name]}'
    panels.append(study_results.Panel(title, series))
  return study_results.Curves(
      name='forgetting_sweeps',
      title='Forgetting against the paper’s bound',
      alt='Forgetting over p, n, d and gamma on logarithmic axes, with the'
      ' exact mean through the measured points and the bound far above.',
      reading='Dots are means, bands hold the middle 90 % of all draws. Both'
      ' axes are logarithmic.',
      x_label='its value',
      y_label='forgetting / |θ|²',
      panels=panels,
      log_x=True,
      log_y=True,
  )
