"""Sections on coloured digits: pairs of tasks, and a task nobody trained on."""

from typing import NamedTuple

import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import digits
from taskvec_jax.experiments.studies.provable_editing import panels
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import provable_editing as law

_SOURCE = (
    'The experiment of arXiv:2504.10957 in small; its theorems are on the'
    ' one-layer transformer.'
)


class _Pair(NamedTuple):
  """Task 1 and one other, S seeds and L coefficients."""

  redness: float
  alpha: list[float]  # one a seed
  first: np.ndarray  # accuracy of task 1 [L, S]
  second: np.ndarray
  own: np.ndarray  # of the two experts on their own task [2, S]


def train(
    config: config_lib.ProvableEditingStudyConfig,
) -> list[digits.Experts]:
  """Returns the experts, one entry a seed."""
  return [digits.train(config, seed) for seed in config.seeds]


def pair_section(
    config: config_lib.ProvableEditingStudyConfig, experts: list[digits.Experts]
) -> study_results.Section:
  """Returns addition and negation of pairs of tasks of every redness."""
  pairs = [_pair(config, experts, redness) for redness in config.rednesses]
  scalings = np.array(config.digit_scalings)
  least = min(float(pair.own.min()) for pair in pairs)
  bar = 0.5 + 3 * config.digit_margin
  rows, findings = [], [
      verdicts.Finding(
          'all experts',
          f'≥ {bar:.0%} on their own',
          f'{least:.1%}',
          verdicts.of(least >= bar),
          'The lowest accuracy of an expert on its own task; below the bar'
          ' there would be nothing to edit.',
      )
  ]
  for pair in pairs:
    alpha = accuracy.spread(pair.alpha)
    lacks = [
        np.maximum(pair.own[0] - pair.first, pair.own[1] - pair.second),
        np.where(
            pair.second <= 0.5 + config.digit_margin,
            pair.own[0] - pair.first,
            np.inf,
        ),
    ]
    added, negated = (
        lack[allowed].min(0)
        for lack, allowed in zip(
            lacks, (scalings >= 0, scalings <= 0), strict=True
        )
    )
    expected = {
        'addition': alpha.mean >= 0,
        'negation': alpha.mean <= config.small_alpha,
    }
    where = f'r = {pair.redness:g}, α = {alpha.mean:.2f}'
    for name, lack in (('addition', added), ('negation', negated)):
      works = lack <= config.digit_margin
      findings.append(
          verdicts.Finding(
              f'{where}, {name}',
              'works' if expected[name] else 'fails',
              f'{works.sum()} of {works.size} seeds',
              verdicts.of(bool(np.all(works == expected[name]))),
              'Works: at some λ ≥ 0 both tasks are within'
              f' {100 * config.digit_margin:g} points of their experts.'
              if name == 'addition'
              else 'Works: at some λ ≤ 0 task 1 is within'
              f' {100 * config.digit_margin:g} points of its expert and task 2'
              f' at most {100 * config.digit_margin:g} above chance.',
          )
      )
    rows.append(
        [
            f'{pair.redness:g}',
            spreads.plain(alpha),
            *(spreads.points(accuracy.spread(list(own))) for own in pair.own),
            spreads.points(accuracy.spread((added).tolist())),
            '-'
            if np.isinf(negated).any()
            else spreads.points(accuracy.spread(negated.tolist())),
        ]
    )
  shown = [pairs[0], pairs[len(pairs) // 2], pairs[-1]]
  return study_results.Section(
      title='Coloured digits: addition and negation',
      claim='On a small network, too, a task vector can be added if the outputs'
      ' of the experts agree, and subtracted if they do not.',
      source=_SOURCE,
      text=[
          f'Task 1 shows odd digits in red with probability {config.redness:g},'
          ' even ones in green; task 2 has another redness. With'
          f' {config.noise:.0%} of the labels flipped, shape is right'
          f' {1 - config.noise:.0%} of the time and colour more often. The'
          ' correlation α is the cosine of the two experts’ outputs on the'
          ' test images of both tasks.',
          'Predicted is the theorem on patterns, read with this α: addition'
          ' works for α ≥ 0, negation for α up to'
          f' {config.small_alpha:g}. A task that expert 1 does not know counts'
          ' as forgotten at λ = 0 already.',
      ],
      formulas=['α = ⟨g₁, g₂⟩ / (|g₁| |g₂|),   g = logit odd − logit even'],
      findings=findings,
      curves=[
          study_results.Curves(
              name='digits',
              title='Accuracy of θ₀ + τ₁ + λ τ₂',
              alt='Accuracy of both tasks by coefficient, three pairs of'
              ' tasks.',
              reading='Mean over seeds; bands from the lowest seed to the'
              ' highest. Faint: each expert on its own task.',
              x_label='coefficient λ',
              y_label='test accuracy',
              panels=[_panel(scalings, pair) for pair in shown],
          )
      ],
      tables=[
          study_results.Table(
              'Pairs of tasks: correlation, accuracy of the experts, and what'
              ' the best λ lacks (points).',
              [
                  'Redness of task 2',
                  'α',
                  'Expert 1',
                  'Expert 2',
                  'Addition lacks',
                  'Negation lacks',
              ],
              rows,
          )
      ],
  )


def transfer_section(
    config: config_lib.ProvableEditingStudyConfig, experts: list[digits.Experts]
) -> study_results.Section:
  """Returns the accuracy on a task that neither expert was trained on."""
  second, target = config.transfer_redness
  scalings = config.digit_scalings
  found = np.array(
      [
          [
              [
                  digits.accuracy(one, {config.redness: x, second: y}, target)
                  for x in scalings
              ]
              for one in experts
          ]
          for y in scalings
      ]
  )  # [Y, S, X]
  own = np.array(
      [digits.accuracy(one, {target: 1.0}, target) for one in experts]
  )
  gammas = np.mean(
      [
          [
              digits.correlation(one, source, target)
              for source in (config.redness, second)
          ]
          for one in experts
      ],
      axis=0,
  )
  learned = found >= own[:, None] - config.digit_margin
  square = np.stack(np.meshgrid(scalings, scalings), -1)
  region = law.transfer_region(square, gammas, beta=config.beta)
  best = accuracy.spread((found.max((0, 2)) - own).tolist())
  return study_results.Section(
      title='Coloured digits: a task nobody trained on',
      claim='Adding one task vector and subtracting its opposite learns a task'
      ' in between.',
      source=_SOURCE,
      text=[
          f'Experts have redness {config.redness:g} and {second:g}, the new'
          f' task {target:g}. γ is read off outputs: ({gammas[0]:.2f},'
          f' {gammas[1]:.2f}). The theorem asks for orthonormal patterns, which'
          ' these are not, so its region is only a guide here.',
      ],
      formulas=['Theorem 3:  Σ λᵢγᵢ ≥ 1 + c,   Σ λᵢγᵢ² ≥ 1 + c,   |λᵢ| β ≤ c'],
      findings=[
          panels.judged(
              config, 'theorem', f'region, β = {config.beta:g}', region, learned
          ),
          verdicts.Finding(
              'best (λ₁, λ₂)',
              'as its own expert',
              f'{100 * best.mean:+.1f} points',
              verdicts.of(best.mean >= -config.digit_margin),
              'Against a model that is trained on the new task; within'
              f' {100 * config.digit_margin:g} points. The best of the grid is'
              ' chosen on the test images.',
          ),
      ],
      maps=[
          study_results.Map(
              name='digit_transfer',
              title='Accuracy on the new task',
              alt='Accuracy on the new task over both coefficients.',
              reading='Mean over seeds. Orange: edge of the theorem’s region.',
              x_label='coefficient λ₁',
              y_label='coefficient λ₂',
              value_label='accuracy; share of seeds',
              low=0.0,
              high=1.0,
              panels=[
                  study_panels.cells(
                      'accuracy', scalings, scalings, found.mean(1), region
                  ),
                  study_panels.cells(
                      'share of seeds near the expert',
                      scalings,
                      scalings,
                      learned.mean(1),
                      region,
                  ),
              ],
          )
      ],
  )


def _pair(config, experts, redness: float) -> _Pair:
  tasks = (config.redness, redness)
  found = np.array(
      [
          [
              [
                  digits.accuracy(
                      one, {config.redness: 1.0, redness: scaling}, task
                  )
                  for one in experts
              ]
              for scaling in config.digit_scalings
          ]
          for task in tasks
      ]
  )  # [2, L, S]
  own = [
      [digits.accuracy(one, {task: 1.0}, task) for one in experts]
      for task in tasks
  ]
  alpha = [digits.correlation(one, *tasks) for one in experts]
  return _Pair(redness, alpha, found[0], found[1], np.array(own))


def _panel(scalings: np.ndarray, pair: _Pair) -> study_results.Panel:
  series = []
  for number, found in enumerate((pair.first, pair.second)):
    own = [pair.own[number].mean()] * len(scalings)
    series += [
        study_panels.ranged(f'task {number + 1}', number, scalings, found),
        study_panels.reference(f'expert {number + 1}', number, scalings, own),
    ]
  return study_results.Panel(
      f'r = {pair.redness:g}, α = {np.mean(pair.alpha):.2f}', series
  )
