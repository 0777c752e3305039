"""The section on negation."""

import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import (
    experts as experts_lib,
)
from taskvec_jax.experiments.studies.provable_editing import panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import pattern_tasks
from taskvec_jax.studies import provable_editing as law


def negation_section(
    config: config_lib.ProvableEditingStudyConfig, experts: experts_lib.Experts
) -> study_results.Section:
  """Returns where subtracting a task vector forgets its task alone."""
  negated = config.negation_scalings
  scalings, alpha = panels.grid(negated, config.alphas)
  tasks = experts_lib.sweep(config, experts, negated)
  edited = _edited(config, *tasks)
  plus, minus = (
      law.negation_region(
          scalings,
          alpha,
          beta=config.beta,
          lower=config.lower,
          small_alpha=config.small_alpha,
          sign=sign,
      )
      for sign in (1, -1)
  )
  expert, sizes = (
      panels.mean_expert(experts.experts),
      config_lib.sizes(config),
  )
  derived = _edited_by_law(
      config, law.pair_margins(scalings, alpha, expert, sizes)
  )
  values_alone = _edited(
      config,
      *experts_lib.sweep(config, experts_lib.values_alone(experts), negated),
  )
  values_region = _edited_by_law(
      config, law.pair_margins(scalings, alpha, expert, sizes, attends=False)
  )
  at_zero = edited[:, :, config.alphas.index(0.0)].all(1)
  below = np.array(negated) <= 0
  back = np.array(negated)[below & ~at_zero]
  untouched = edited[negated.index(0.0)][:, np.array(config.alphas) < 0]
  return study_results.Section(
      title='Negation',
      claim='θ₀ + τ₁ + λ τ₂ with λ ≤ 0 forgets task 2 and keeps task 1 if the'
      ' tasks are irrelevant or contradictory.',
      source=f'Theorem 2 of {panels.PAPER}',
      text=[
          f'Kept is a hinge loss of at most {config.tolerance:g} on task 1,'
          f' forgotten one of at least {1 - config.tolerance:g} on task 2; a'
          ' model that says nothing has 1.',
          'The review writes the upper end for α < 0 with either sign. λ = 0'
          ' tells them apart: a model that never saw task 2 does not know it,'
          ' so the end cannot lie below 0.',
          'At the lower end theory and measurement part. Irrelevant tasks'
          ' should have none, contradictory ones −Θ(α⁻²), where the attention'
          ' that task 1 needs turns round. Task 2 comes back before: below −α²'
          ' its values and its attention are both turned round, and two signs'
          ' cancel. The margin law has both ends. Subtracting the values alone,'
          ' with the attention as it was, brings nothing back.',
      ],
      formulas=[
          'Theorem 2:  α = 0, λ ≤ 0;   α < 0, −Θ(α⁻²) ≤ λ ≤ ± poly(ηδ⋆)/|α|;'
          '   α > 0 only if small',
          'margin law:  m(1 + λα, 1 + λα²) ≥ 1 − tol  and'
          '  m(λ + α, λ + α²) ≤ tol',
      ],
      findings=[
          panels.judged(
              config, 'theorem, end +', 'region, λ ≤ β/|α|', plus, edited
          ),
          panels.judged(
              config, 'theorem, end −', 'region, λ ≤ −β/|α|', minus, edited
          ),
          panels.judged(
              config, 'margin law', 'region, no constant', derived, edited
          ),
          panels.judged(
              config,
              'values alone',
              'region of the law',
              values_region,
              values_alone,
          ),
          verdicts.Finding(
              'irrelevant, all λ ≤ 0',
              'forgets',
              f'not from λ = {back.max():g} down' if len(back) else 'forgets',
              verdicts.of(not len(back)),
              f'Over the λ of the map, down to {negated[0]:g}, in all seeds.',
          ),
          verdicts.Finding(
              'contradictory, λ = 0',
              'end + only',
              f'{np.mean(untouched):.0%} of runs',
              verdicts.of(bool(np.all(untouched))),
              'Share of seeds and α < 0 at which λ = 0 is a success, as the end'
              ' + says and the end − denies.',
          ),
      ],
      maps=[
          panels.losses(config, 'negation', negated, tasks),
          panels.regions(
              'negation_regions',
              'Negation: predicted and measured',
              [
                  ('theorem 2, end +', plus, edited),
                  ('margin law', derived, edited),
                  ('values alone, margin law', values_region, values_alone),
              ],
              config.alphas,
              negated,
          ),
      ],
  )


def _edited(
    config, first: pattern_tasks.Scores, second: pattern_tasks.Scores
) -> np.ndarray:
  kept = np.asarray(first.loss) <= config.tolerance
  return kept & (np.asarray(second.loss) >= 1 - config.tolerance)


def _edited_by_law(
    config, margins: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
  kept, forgotten = margins
  return (kept >= 1 - config.tolerance) & (forgotten <= config.tolerance)
