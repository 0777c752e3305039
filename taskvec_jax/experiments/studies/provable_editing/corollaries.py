"""The section on low-rank and pruned task vectors."""

from collections.abc import Callable
import math

import jax
import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import (
    experts as experts_lib,
)
from taskvec_jax.experiments.studies.provable_editing import panels
from taskvec_jax.merging import ties
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import provable_editing as law
from taskvec_jax.typing import Params


def corollaries_section(
    config: config_lib.ProvableEditingStudyConfig, experts: experts_lib.Experts
) -> study_results.Section:
  """Returns what low-rank and pruned task vectors still do."""
  one, at_zero = experts_lib.irrelevant(config, experts)
  learned = _learned(config, experts)
  rows, same, errors = [], [], []
  for rank in config.ranks:
    cut = each(experts, lambda vector, r=rank: law.low_rank(vector, r))
    same.append((_learned(config, cut) == learned).mean((0, 2)))
    errors.append(_errors(experts_lib.irrelevant(config, cut)[1], at_zero))
    rows.append(
        [
            str(rank),
            *(
                spreads.plain(accuracy.spread(errors[-1][name]), digits=3)
                for name in ('attention', 'value')
            ),
            spreads.points(accuracy.spread(same[-1].tolist())) + ' %',
        ]
    )
  bound = 1 / math.log(config.num_patterns)
  small, large = _neuron_norms(config, at_zero)
  threshold = math.sqrt(math.log(config.num_train) / config.num_train)
  neurons = _losses(
      one,
      at_zero,
      config.pruned_shares,
      lambda vector, share: law.pruned_neurons(vector, share=share),
  )
  entries = _losses(
      one,
      at_zero,
      config.densities,
      lambda vector, density: ties.ties({'task': vector}, density=density),
  )
  kept = 1 - np.array(config.pruned_shares)
  equal = 1 - panels.mean_expert(experts.experts).margin * kept
  enough = np.array(config.densities)[entries.max(1) <= config.tolerance]
  return study_results.Section(
      title='Low-rank and pruned task vectors',
      claim='A task vector of rank 1, and one without its small neurons, edit'
      ' as well as the whole.',
      source='Corollaries 1 and 2 of arXiv:2504.10957, as known from a review:'
      ' the orders of magnitude, not the constants.',
      text=[
          'Rank 1 should be enough: W moves along μ μᵀ and V along a μᵀ. What'
          ' rank 1 leaves out of V is a part along all background patterns, the'
          ' same for every neuron.',
          'Pruning by neurons needs two groups of them, large and small. In'
          ' this setting every neuron learns the pattern that its output weight'
          ' asks for, so there is no small group, and each neuron that goes'
          ' takes its share of the margin along. Single entries are another'
          ' matter: the patterns are axes here, and one entry a neuron holds'
          ' most of it.',
      ],
      formulas=[
          'Corollary 1:  |W − W₁| ≤ M ε + 1/log M,   |V − V₁| ≤ ε/δ⋆',
          'Corollary 2:  rows of V are ≥ Ω(m^−½) or ≤ O(m^−½ (log B / B)^½)',
      ],
      findings=[
          verdicts.Finding(
              'rank 1, addition',
              'same map',
              f'{np.min(same[0]):.1%} of cells'
              if config.ranks[0] == 1
              else '-',
              verdicts.of(float(np.min(same[0])) >= config.bar)
              if config.ranks[0] == 1
              else verdicts.NOT_MEASURED,
              'Cells of the map of addition with the outcome of the whole task'
              f' vectors, in the worst seed; {config.bar:.0%} is asked for.',
          ),
          verdicts.Finding(
              'rank 1, W',
              f'error ≤ {bound:.2f}',
              rows[0][1],
              verdicts.of(max(errors[0]['attention']) <= bound),
              'Relative Frobenius error against 1/log M; the experts’ loss ε is'
              ' 0.',
          ),
          verdicts.Finding(
              'rank 1, V',
              'error ~ ε/δ⋆',
              rows[0][2],
              verdicts.SAYS_NOTHING,
              'With ε = 0 and a constant that is not known there is no number'
              ' to hold it against.',
          ),
          verdicts.Finding(
              'two groups of neurons',
              f'≥ c or ≤ {threshold:.2f}',
              f'{small:.2f} to {large:.2f}',
              verdicts.HOLDS
              if small <= threshold <= large
              else verdicts.IN_PART,
              'Norms of the neurons’ changes in units of m^−½, smallest and'
              ' largest over seeds and tasks. No neuron is small, so the second'
              ' group is empty.',
          ),
          verdicts.Finding(
              'pruned entries',
              'few are enough',
              f'{np.min(enough):.1%}' if len(enough) else 'none',
              verdicts.of(bool(len(enough)) and min(enough) <= 0.1),
              'The smallest share of entries, by magnitude, with both tasks'
              ' learned at α = 0, λ = 1 in all seeds; at most 10 % is asked'
              ' for.',
          ),
      ],
      curves=[
          study_results.Curves(
              name='pruned',
              title='Loss of pruned task vectors, added at α = 0, λ = 1',
              alt='Hinge loss by the share of neurons and of entries kept.',
              reading='The larger loss of the two tasks; band: from the lowest'
              ' seed to the highest. Dashed: each neuron has an equal share of'
              ' the margin, 1 − m₀ × share.',
              x_label='share kept',
              y_label='hinge loss',
              log_x=True,
              panels=[
                  study_results.Panel(
                      'whole neurons, the largest first',
                      [
                          study_panels.predicted(
                              'equal shares', 1, kept, np.maximum(0, equal)
                          ),
                          study_panels.ranged('measured', 0, kept, neurons),
                      ],
                  ),
                  study_results.Panel(
                      'single entries, by magnitude',
                      [
                          study_panels.ranged(
                              'measured', 0, config.densities, entries
                          )
                      ],
                  ),
              ],
          )
      ],
      tables=[
          study_results.Table(
              'Task vectors cut to a rank: relative Frobenius error at α = 0,'
              ' and cells of the map of addition with the same outcome.',
              ['Rank', 'Error of W', 'Error of V', 'Same outcome'],
              rows,
          )
      ],
  )


def each(
    experts: experts_lib.Experts, change_fn: Callable[[Params], Params]
) -> experts_lib.Experts:
  """Returns the experts with every task vector, `[S, A]` of them, changed."""

  def changed(vectors: Params) -> Params:
    shape = jax.tree.leaves(vectors)[0].shape[:2]
    found = [
        change_fn(jax.tree.map(lambda x, i=index: np.asarray(x[i]), vectors))
        for index in np.ndindex(*shape)
    ]
    return jax.tree.map(
        lambda *x: np.stack(x).reshape(*shape, *np.shape(x[0])), *found
    )

  return experts._replace(
      first=changed(experts.first), second=changed(experts.second)
  )


def _learned(config, experts) -> np.ndarray:
  tasks = experts_lib.sweep(config, experts, config.addition_scalings)
  return np.maximum(tasks[0].loss, tasks[1].loss) <= config.tolerance


def _errors(
    cut: experts_lib.Experts, whole: experts_lib.Experts
) -> dict[str, list[float]]:
  """Returns kernel -> error of tau_1, one a seed."""
  found = []
  for seed in range(len(jax.tree.leaves(whole.first)[0])):
    own, full = (
        jax.tree.map(lambda x, s=seed: x[s, 0], one.first)
        for one in (cut, whole)
    )
    found.append(law.relative_error(own, full))
  return {name: [one[name] for one in found] for name in found[0]}


def _neuron_norms(config, experts) -> tuple[float, float]:
  """Returns the smallest and largest norm of a neuron, times sqrt(m)."""
  kernels = np.stack(
      [one['value']['kernel'] for one in (experts.first, experts.second)]
  )
  norms = np.linalg.norm(kernels, axis=-2) * math.sqrt(config.width)
  return float(norms.min()), float(norms.max())


def _losses(
    config, experts, values, change_fn: Callable[[Params, float], Params]
) -> np.ndarray:
  """Returns the larger loss of both tasks at lambda = 1, `[values, S]`."""
  found = []
  for value in values:
    changed = each(experts, lambda vector, v=value: change_fn(vector, v))
    first, second = experts_lib.scores(config, changed, (1.0, 1.0))
    found.append(np.maximum(first.loss, second.loss)[:, 0])
  return np.stack(found)
