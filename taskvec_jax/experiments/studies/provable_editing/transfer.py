"""The section on tasks that no expert has seen."""

import jax
import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import (
    experts as experts_lib,
)
from taskvec_jax.experiments.studies.provable_editing import (
    panels as panels_lib,
)
from taskvec_jax.report import study_results
from taskvec_jax.studies import provable_editing as law


def transfer_section(
    config: config_lib.ProvableEditingStudyConfig, experts: experts_lib.Experts
) -> study_results.Section:
  """Returns which out-of-domain patterns two irrelevant experts reach."""
  scalings, num = np.array(config.transfer_scalings), len(config.alphas)
  one = np.stack([np.array(config.alphas), np.zeros(num)], -1)  # gamma [A, 2]
  column = np.stack([scalings, np.zeros(len(scalings))], -1)  # lambda [L, 2]
  two = np.array(config.gammas)
  square = np.stack(np.meshgrid(scalings, scalings), -1)  # [Y, X, 2]
  learned_one = _learned(config, experts, column, one)
  learned_two = _learned(config, experts, square.reshape(-1, 2), two[None])
  learned_two = np.moveaxis(
      learned_two[..., 0].reshape(*square.shape[:2], -1), -1, 1
  )
  findings, panels = [], []
  for where, lambdas, gammas, learned in (
      ('one source', column[:, None], one[None], learned_one),
      ('two sources', square, two, learned_two),
  ):
    paper = law.transfer_region(lambdas, gammas, beta=config.beta)
    derived = (
        law.predicted_margin(
            *law.shares(lambdas, gammas),
            panels_lib.mean_expert(experts.experts),
            config_lib.sizes(config),
        )
        >= 1 - config.tolerance
    )
    findings += [
        panels_lib.judged(
            config,
            f'{where}, theorem',
            f'region, β = {config.beta:g}',
            paper,
            learned,
        ),
        panels_lib.judged(
            config, f'{where}, law', 'region, no constant', derived, learned
        ),
    ]
    panels.append(
        [('theorem 3', paper, learned), ('margin law', derived, learned)]
    )
  return study_results.Section(
      title='Out-of-domain arithmetic',
      claim='θ₀ + Σ λᵢ τᵢ learns a task that no expert has seen, if its pattern'
      ' is partly made of theirs and the λᵢ are large enough.',
      source=f'Theorem 3 of {panels_lib.PAPER}',
      text=[
          'The experts are on two orthogonal patterns, the new one is γ₁ μ₁ +'
          ' γ₂ μ₂ + κ μ⊥. With one source γ₂ = 0 and τ₁ alone is used; with two'
          f' γ = ({two[0]:g}, {two[1]:g}), and the second task vector is best'
          ' subtracted.',
          'The conditions are sufficient, not necessary: Σ λᵢγᵢ² ≥ 1 + c asks'
          ' for the attention of an expert, but tokens that attend alike'
          ' already hold more of the label than of its opposite. The margin law'
          ' says what lies outside the theorem’s region and succeeds all the'
          ' same.',
      ],
      formulas=[
          'Theorem 3:  Σ λᵢγᵢ ≥ 1 + c,   Σ λᵢγᵢ² ≥ 1 + c,   |λᵢ| β ≤ c,'
          '   0 < c < 1',
          'margin law:  m(Σ λᵢγᵢ, Σ λᵢγᵢ²) ≥ 1 − tol',
      ],
      findings=findings,
      maps=[
          panels_lib.regions(
              'transfer_one',
              'One source: predicted and measured',
              panels[0],
              config.alphas,
              config.transfer_scalings,
              labels=('share γ₁ of μ₁ in the new pattern', 'coefficient λ₁'),
          ),
          panels_lib.regions(
              'transfer_two',
              'Two sources: predicted and measured',
              panels[1],
              config.transfer_scalings,
              config.transfer_scalings,
              labels=('coefficient λ₁', 'coefficient λ₂'),
          ),
      ],
  )


def _learned(
    config, experts, scalings: np.ndarray, gammas: np.ndarray
) -> np.ndarray:
  """Returns whether each merge learns each pattern, bool `[L, S, A]`.

  Args:
    config: sizes, seeds and tolerance.
    experts: of which those at alpha = 0 are merged.
    scalings: lambda_1 and lambda_2, `[L, 2]`.
    gammas: shares of mu_1 and mu_2 in the patterns, `[A, 2]`.
  """
  rest = np.sqrt(np.maximum(0.0, 1 - np.sum(gammas**2, axis=1)))
  patterns = np.concatenate([gammas, rest[:, None]], axis=1)
  _, at_zero = experts_lib.irrelevant(config, experts)
  found = []
  for pair in scalings:
    params = jax.tree.map(
        lambda x: np.broadcast_to(x, (len(x), len(patterns), *x.shape[2:])),
        experts_lib.merged(at_zero, pair),
    )
    found.append(experts_lib.scores_on(config, params, patterns).loss)
  return np.stack(found) <= config.tolerance
