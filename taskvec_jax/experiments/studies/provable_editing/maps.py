"""Sections on the margin law and on addition."""

import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import (
    experts as experts_lib,
)
from taskvec_jax.experiments.studies.provable_editing import panels
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import provable_editing as law

_FINE = np.linspace(0.75, 1.25, 101)  # lambda, for the edge at alpha = 0


def law_section(
    config: config_lib.ProvableEditingStudyConfig, experts: experts_lib.Experts
) -> study_results.Section:
  """Returns what one expert, scaled, should do and does."""
  scalings = np.array(config.transfer_scalings)
  one, alone = experts_lib.irrelevant(config, experts)
  margins = np.stack(
      [
          experts_lib.scores(one, alone, (x, 0.0))[0].margin[:, 0]
          for x in scalings
      ]
  )  # [L, S]
  expert = panels.mean_expert(experts.experts)
  predicted = law.predicted_margin(
      scalings, scalings, expert, config_lib.sizes(config)
  )
  gap = np.max(np.abs(predicted[:, None] - margins)) / np.max(np.abs(margins))
  attention, margin = (
      spreads.plain(accuracy.spread(list(values)))
      for values in zip(*experts.experts, strict=True)
  )
  lines = [
      study_panels.predicted('margin law', 1, scalings, predicted),
      study_panels.ranged('measured', 0, scalings, margins),
      study_panels.reference(
          'values alone', 7, scalings, expert.margin * scalings
      ),
  ]
  return study_results.Section(
      title='One task vector, scaled',
      claim='Two numbers of an expert say how its margin changes with λ.',
      source='Derived for this project; held against training here.',
      text=[
          'An expert holds its pattern twice: in the values, which the neurons'
          ' read, and in the attention, which looks for tokens like the query.'
          ' λ scales both. Below 0 the values turn round, and so does the'
          ' attention: tokens look for their opposites. The two signs cancel,'
          ' and the task comes back.',
          f'The attention c = {attention} and the margin m₀ = {margin} are read'
          ' off the experts before anything is merged. The curve is not'
          ' fitted.',
      ],
      formulas=[
          'f(X) = (1/P) Σₗ aᵀ ReLU( V Σₛ xₛ softmaxₛ(xₛᵀ W xₗ) )',
          'm(s, q) = m₀ s h(c q) / h(c),   s = Σ λᵢγᵢ,   q = Σ λᵢγᵢ²',
          'P h(t) = n⋆ (n⋆eᵗ − n₋e⁻ᵗ)/(n⋆eᵗ + n₋e⁻ᵗ + nᵥ)'
          ' + n₋ (n⋆e⁻ᵗ − n₋eᵗ)/(n⋆e⁻ᵗ + n₋eᵗ + nᵥ) + nᵥ (n⋆ − n₋)/P',
      ],
      findings=[
          verdicts.Finding(
              'all experts',
              'loss 0',
              f'{experts.train_loss:.2g}',
              verdicts.of(experts.train_loss <= config.tolerance / 10),
              'The largest hinge loss of any run on its training examples; at'
              f' most {config.tolerance / 10:g} is asked for.',
          ),
          verdicts.Finding(
              'margin law',
              f'within {config.tolerance:.0%}',
              f'{gap:.1%}',
              verdicts.of(gap <= config.tolerance),
              'The largest difference over all λ and seeds, as a share of the'
              ' largest margin.',
          ),
      ],
      curves=[
          study_results.Curves(
              name='law',
              title='The margin of an expert, scaled',
              alt='Mean margin of one expert by its coefficient.',
              reading='Dots: mean over seeds; band: from the lowest seed to the'
              ' highest. The faint line scales the values and not the'
              ' attention.',
              x_label=panels.AXES[1],
              y_label='mean of y f(X)',
              panels=[study_results.Panel('', lines)],
          )
      ],
  )


def addition_section(
    config: config_lib.ProvableEditingStudyConfig, experts: experts_lib.Experts
) -> study_results.Section:
  """Returns where one task vector can be added to another."""
  scalings, alpha = panels.grid(config.addition_scalings, config.alphas)
  tasks = experts_lib.sweep(config, experts, config.addition_scalings)
  learned = np.maximum(tasks[0].loss, tasks[1].loss) <= config.tolerance
  paper = law.addition_region(scalings, alpha, beta=config.beta)
  margins = law.pair_margins(
      scalings,
      alpha,
      panels.mean_expert(experts.experts),
      config_lib.sizes(config),
  )
  derived = np.minimum(*margins) >= 1 - config.tolerance
  least, own = _least_scalings(config, experts)
  return study_results.Section(
      title='Addition',
      claim='θ₀ + τ₁ + λ τ₂ learns both tasks if they are irrelevant or aligned'
      ' and λ is large enough; contradictory tasks by no λ.',
      source=f'Theorem 1 of {panels.PAPER}',
      text=[
          'Learned is a hinge loss of at most'
          f' {config.tolerance:g} on both tasks. An expert stops at margin 1,'
          ' and a contradictory task vector pulls the margin below it.',
          'For irrelevant tasks the review asks λ ≥ 1 − β in one place and λ ≥'
          ' 1 − α + β in another. At α = 0 both losses are at most'
          f' {config.tolerance:g} from λ = {spreads.plain(least, digits=3)} on,'
          ' and the second task has the margin of its own expert from'
          f' λ = {spreads.plain(own, digits=3)} on.',
      ],
      formulas=[
          'Theorem 1:  α ≥ 0,  λ ≥ 1 − α + β',
          'margin law:  m(1 + λα, 1 + λα²) ≥ 1 − tol  and'
          '  m(λ + α, λ + α²) ≥ 1 − tol',
      ],
      findings=[
          panels.judged(
              config, 'theorem', f'region, β = {config.beta:g}', paper, learned
          ),
          panels.judged(
              config, 'margin law', 'region, no constant', derived, learned
          ),
          verdicts.Finding(
              'irrelevant, reading +',
              f'λ ≥ {1 + config.beta:g}',
              f'λ ≥ {spreads.plain(least)}',
              verdicts.of(own.mean > 1),
              'That it is enough is part of the map; as a condition that is'
              ' needed the edge would lie above 1. By margin, where no'
              f' tolerance enters, it lies at {spreads.plain(own, digits=3)}.',
          ),
          verdicts.Finding(
              'irrelevant, reading −',
              f'λ ≥ {1 - config.beta:g}',
              f'λ ≥ {spreads.plain(least)}',
              verdicts.of(abs(least.mean - 1 + config.beta) <= config.beta / 2),
              'Within β/2. How far below 1 the edge lies is the tolerance of'
              f' the loss, {config.tolerance:g}, more than β.',
          ),
      ],
      maps=[
          panels.losses(config, 'addition', config.addition_scalings, tasks),
          panels.regions(
              'addition_regions',
              'Addition: predicted and measured',
              [('theorem 1', paper, learned), ('margin law', derived, learned)],
              config.alphas,
              config.addition_scalings,
          ),
      ],
  )


def _least_scalings(config, experts) -> tuple[accuracy.Spread, accuracy.Spread]:
  """Returns, at alpha = 0, the least lambda by loss and by margin.

  By loss: both tasks are learned. By margin: the second has its own expert's.
  """
  one, at_zero = experts_lib.irrelevant(config, experts)
  first, second = experts_lib.sweep(one, at_zero, _FINE)
  own = experts_lib.scores(one, at_zero, (0.0, 1.0))[1].margin[:, 0]
  learned = np.maximum(first.loss, second.loss)[..., 0] <= config.tolerance
  grown = second.margin[..., 0] >= own
  least = []
  for reached in (learned, grown):
    # The end of the range where it is never reached.
    index = np.where(reached.any(0), reached.argmax(0), len(_FINE) - 1)
    least.append(accuracy.spread(_FINE[index].tolist()))
  return least[0], least[1]
