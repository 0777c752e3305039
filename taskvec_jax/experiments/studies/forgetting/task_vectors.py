"""Section of the study of forgetting that treats the tasks as task vectors.

Sequence, addition and negation, converged or stopped after k steps: the mean
risk over rotations is exact for each, on both tasks, and is held against draws.
"""

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.experiments.studies.forgetting import descent
from taskvec_jax.experiments.studies.forgetting import regression
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import expected_forgetting
from taskvec_jax.studies import forgetting

# Of several hundred means: were 600 independent, one would be beyond 4 by
# chance in one run of 26, beyond 3 in four of five.
STANDARD_ERRORS = 4
NULL_SHARE = 0.9  # of the risk of knowing nothing, for a task taken out

# What is made of the two task vectors, and what to call it.
_RULES = {
    'A alone': forgetting.Rule(1.0, 0.0, True),
    'A, then B (sequence)': forgetting.SEQUENCE,
    'τ(A) + τ(B) (sum)': forgetting.ADDITION,
    '(τ(A) + τ(B))/2 (average)': forgetting.Rule(0.5, 0.5, False),
    'sequence − τ(A)': forgetting.Rule(0.0, 1.0, True),
    'sum − τ(A)': forgetting.Rule(0.0, 1.0, False),
    '−τ(A)': forgetting.Rule(-1.0, 0.0, False),
}
_SEQUENCE, _SUM = 'A, then B (sequence)', 'τ(A) + τ(B) (sum)'
_BEST = 'α (τ(A) + τ(B)), best α'


class Measured(NamedTuple):
  """Risks on A and B over |theta|^2, of one rule, number of steps and seed."""

  exact: np.ndarray  # [2]
  draws: np.ndarray  # [draws, 2]


def rules_by_epoch(
    one: descent.Problem, epochs: list[int | None], *, seed: int, num_draws: int
) -> dict[int | None, dict[str, Measured]]:
  """Returns steps (None: converged) -> rule -> risks, one seed's.

  The same rotations are drawn for all of them.
  """
  rng = np.random.default_rng([seed, 4])
  basis = forgetting.task_basis(one.task, forgetting.trained(one.task).basis)
  frames = [forgetting.haar_frame(rng, *basis.shape) for _ in range(num_draws)]
  null = float(one.task.theta @ one.task.theta)
  found = {}
  for k in epochs:
    rate = None if k is None else one.learning_rate
    first = forgetting.trained(one.task, learning_rate=rate, num_epochs=k)
    alpha = expected_forgetting.best_scaling(one.task, first)
    rules = {**_RULES, _BEST: forgetting.Rule(alpha, alpha, False)}
    # Frames are of the basis of the converged A, which all trainings share.
    risks = forgetting.measured_risks(
        one.task, first, frames, list(rules.values())
    )
    found[k] = {
        name: Measured(
            np.array(expected_forgetting.expected_risks(one.task, first, rule))
            / null,
            risks[:, index] / null,
        )
        for index, (name, rule) in enumerate(rules.items())
    }
  return found


def task_vectors(
    config: config_lib.ForgettingStudyConfig,
) -> study_results.Section:
  """Returns the section on sequence, addition and negation."""
  found, epochs = [], []
  for seed in config.seeds:
    one = descent.problem(config.descent, seed=seed, tolerance=config.tolerance)
    # The same marks for every seed; the end stands apart, as None.
    epochs = epochs or descent.marks(one.num_epochs)[:-1]
    found.append(
        rules_by_epoch(
            one, [*epochs, None], seed=seed, num_draws=config.arithmetic_draws
        )
    )
  return study_results.Section(
      title='sequence, addition and negation of task vectors',
      claim='Once converged, adding the two task vectors forgets A less than'
      ' training in sequence, at the price of B; subtracting A’s takes A out'
      ' and leaves B.',
      source='Derived for this project: the exact mean over rotations of the'
      ' risk of any s b + t τ, on both tasks.',
      text=[
          'τ(A) and τ(B) are trained from zero, the sequence’s second vector is'
          ' O b − P(B) b. The formulas of section 1 hold with any symmetric S'
          ' in place of the projection: S = 0 for the sum, 1 − (1 − η X′X/n)ᵏ'
          f' for k steps in sequence. {regression.describe(config.descent)}.',
      ],
      formulas=[
          'sum: E[R(A) after] − R(A) = r² tr Σ/p = r² (1 + γd), the same on B',
          'sequence, on B: E[R(B) after] − R(b) = r²/p · tr((1 − P)Σ)',
          'best α = b′Wθ/(b′Σb + r² tr Σ/p)',
      ],
      findings=_findings(found),
      curves=[_epoch_curves(epochs, found)],
      tables=[_table(config, found)],
  )


def _findings(found) -> list[verdicts.Finding]:
  z = [
      value
      for seed in found
      for by_rule in seed.values()
      for measured in by_rule.values()
      for value in _standard_errors(measured)
  ]
  ends = [seed[None] for seed in found]

  def risks(name):
    return np.array([end[name].draws.mean(0) for end in ends])  # [seeds, 2]

  def exact(name):
    return np.array([end[name].exact for end in ends])

  alone = risks('A alone')[:, 0]
  gains = {
      name: (risks(name) - alone[:, None], exact(name) - alone[:, None])
      for name in (_SEQUENCE, _SUM)
  }
  findings = [
      verdicts.Finding(
          'exact means, all rules, numbers of steps and seeds',
          f'within {STANDARD_ERRORS} standard errors',
          f'{len(z)} means, the furthest {max(z):.1f} off',
          verdicts.of(max(z) <= STANDARD_ERRORS),
          'Risks on A and on B. They share rotations within a seed, so they are'
          ' not independent.',
      )
  ]
  for column, (task, words, sign) in enumerate(
      (('A', 'below', -1), ('B', 'above', 1))
  ):
    measured, predicted = (
        gains[_SUM][i][:, column] / gains[_SEQUENCE][i][:, column]
        for i in (0, 1)
    )
    holds = bool(np.all(sign * (measured - 1) > 0))
    findings.append(
        verdicts.Finding(
            f'excess risk on {task}, sum over sequence, converged',
            f'{words} 1; {regression.span(predicted)}',
            regression.span(measured),
            verdicts.of(holds),
            f'Holds if the ratio is {words} 1 for every seed. The excess is'
            ' over what A alone has on A.',
        )
    )
  total, expected = (
      np.sum(gains[_SUM][i], axis=1) / np.sum(gains[_SEQUENCE][i], axis=1)
      for i in (0, 1)
  )
  agree = bool(np.all((total > 1) == (expected > 1)))
  findings.append(
      verdicts.Finding(
          'excess risk on both, sum over sequence, converged',
          regression.span(expected),
          regression.span(total),
          verdicts.of(agree),
          'Holds if the measured ratio is on the side of 1 that the formula'
          ' names, for every seed.',
      )
  )
  out, kept = risks('sum − τ(A)')[:, 0], risks('sum − τ(A)')[:, 1]
  untouched = np.abs(kept / alone - 1).max()
  holds = bool(np.all(out >= NULL_SHARE)) and untouched < 1e-9
  findings.append(
      verdicts.Finding(
          'sum − τ(A)',
          f'R(A) = {regression.span(exact("sum − τ(A)")[:, 0])} |θ|², R(B) as'
          ' if B alone',
          f'R(A) = {regression.span(out)} |θ|², R(B) off by {untouched:.0e}',
          verdicts.of(holds),
          f'Holds if A is at {NULL_SHARE:g} of knowing nothing or above, and B'
          ' is unchanged to rounding.',
      )
  )
  return findings


def _standard_errors(measured: Measured) -> list[float]:
  found = []
  for column in (0, 1):
    draws, exact = measured.draws[:, column], measured.exact[column]
    if np.ptp(draws) <= 1e-9 * abs(exact):  # no rotation enters
      off = abs(draws.mean() / exact - 1)
      found.append(0.0 if off < 1e-9 else math.inf)
    else:
      found.append(abs(regression.standard_errors(draws, exact)))
  return found


def _epoch_curves(
    epochs: list[int], found: list[Mapping[int | None, Mapping[str, Measured]]]
) -> study_results.Curves:
  shown = {_SEQUENCE: 1, _SUM: 0, _BEST: 2, 'A alone': 7}
  panels = []
  for column, task in enumerate(('A', 'B')):
    series = []
    for name, color in shown.items():
      if name == 'A alone' and task == 'B':
        continue
      rows = [[seed[k][name] for seed in found] for k in epochs]
      draws = [[one.draws[:, column] for one in row] for row in rows]
      exact = [np.mean([one.exact[column] for one in row]) for row in rows]
      series += [
          study_panels.drawn(name, color, epochs, draws),
          study_panels.predicted('exact means', 6, epochs, exact),
      ]
    panels.append(study_results.Panel(f'risk on {task}', series))
  return study_results.Curves(
      name='forgetting_steps',
      title='Risk after k steps on each task, in sequence and merged',
      alt='Risk on A and on B over the number of gradient steps, for sequence,'
      ' sum and best scaled sum; measured points lie on the exact means.',
      reading='Dots are means over rotations and seeds, bands hold the middle'
      ' 90 % of all draws, dashes are the exact means.',
      x_label='steps a task',
      y_label='risk / |θ|²',
      panels=panels,
      log_x=True,
      log_y=True,
  )


def _table(config, found) -> study_results.Table:
  rows = []
  for k, when in ((1, 'one step'), (None, 'converged')):
    for name in found[0][k]:
      cells = []
      for column in (0, 1):
        ends = [seed[k][name] for seed in found]
        exact = np.mean([one.exact[column] for one in ends])
        mean = np.mean([one.draws[:, column].mean() for one in ends])
        cells += [f'{exact:.4f}', f'{mean:.4f}']
      rows.append([f'{when}: {name}', *cells])
  return study_results.Table(
      caption=f'Risk / |θ|², mean over {len(config.seeds)} draws of task A and'
      f' {config.arithmetic_draws} rotations each.',
      columns=[
          'What',
          'On A, exact',
          'On A, drawn',
          'On B, exact',
          'On B, drawn',
      ],
      rows=rows,
  )
