"""Part 2 of the study: where the flow of deep linear networks ends."""

import itertools

import jax
import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_teachers

_FLOW = 1e-6  # the bar, relative
_OUT_OF_BALANCE = 2.0  # first kernel times this, last one divided by it
_ANOTHER_LIMIT = 1e-3
_SADDLE_STEPS = 500


def flow(config: config_lib.LinearTeachersStudyConfig) -> study_results.Section:
  """Returns the section."""
  problems = draw_problems(config)
  findings, rows = [], []
  for num_layers in config.depths:
    params = training.flow(problems, num_layers=num_layers, width=config.width)
    ends = deep_linear.end_to_end(params)
    limits = deep_linear.limits(problems, num_layers=num_layers)
    worst = float(np.max(_relative(ends, limits)))
    kappa, seen = _growths(problems, ends)
    findings.append(
        training.finding(
            f'L = {num_layers}',
            f'(S2.4), to {_FLOW:.0e}',
            f'{worst:.1e}',
            worst <= _FLOW,
            'Largest relative distance between the end of the flow of the'
            f' layers and the formula, over {len(ends)} problems.',
        )
    )
    rows.append(
        [
            f'{num_layers}',
            verdicts.between(kappa.tolist(), '{:.3f}'),
            f'{np.max(seen):.1e}',
            f'{worst:.1e}',
        ]
    )
  deepest = config.depths[-1]
  findings += [
      _two_roots(config, problems, deepest),
      _saddle(),
      _unbalanced(config, problems, deepest),
  ]
  return study_results.Section(
      title='where the flow ends',
      claim='A balanced network of any depth ends at a point that a closed'
      ' formula gives: depth rescales what no example sees, and nothing else.',
      source='Derived here from the end-to-end flow of Arora, Cohen and Hazan,'
      ' arXiv:1802.06509. The paper has a result of this kind; its text was not'
      ' available to compare.',
      text=[
          (
              'The gradient lies in the rows of X. So the unseen part of β'
              ' keeps its direction, and with balanced layers its length'
              ' follows that of β: (I − P)β / |β|^{1−1/L} never changes. Where'
              ' the labels are fitted, that fixes β up to its length ρ.'
          ),
          'The equation for ρ has one positive root if the examples see'
          ' anything of θ_T. If not, it has two: 0, and a larger one, at which'
          ' the flow ends, since it never falls below |θ_S| (|(I − P)θ_S| /'
          ' |θ_S|)^L on its way. The same bound keeps the flow away from the'
          ' saddle at 0 and makes it converge whatever θ_T is, as long as some'
          ' of θ_S is unseen. If nothing is (n ≥ d, or θ_S in the rows), the'
          ' flow can stop at the saddle.',
      ],
      formulas=[
          'β = κ (I − P)θ_S + Pθ_T,   κ = (ρ / |θ_S|)^{1−1/L}   (S2.4)',
          'ρ² = κ² |(I − P)θ_S|² + |Pθ_T|²',
      ],
      findings=findings,
      tables=[
          study_results.Table(
              caption='The flow of every depth: the factor of the unseen part'
              ' as measured, how far what is seen is from the target, and how'
              ' far the end is from the formula. 10⁻¹⁰ is the tolerance of the'
              ' solver.',
              columns=['L', 'κ, measured', '|Pβ − Pθ_T| / |Pθ_T|', 'error'],
              rows=rows,
          )
      ],
  )


def draw_problems(
    config: config_lib.LinearTeachersStudyConfig,
) -> deep_linear.Problems:
  """Returns every pair of size and cosine, of all seeds."""
  kinds = list(itertools.product(config.teacher_sizes, config.teacher_cosines))
  sizes, cosines = zip(*kinds, strict=True)
  return training.draw_problems(
      config, 3, sizes=sizes, cosines=cosines, num_draws=1
  )


def _relative(ends: np.ndarray, limits: np.ndarray) -> np.ndarray:
  return np.linalg.norm(ends - limits, axis=-1) / np.linalg.norm(
      limits, axis=-1
  )


def _growths(problems, ends) -> tuple[np.ndarray, np.ndarray]:
  """Returns measured kappa, and how far what is seen is from the target."""
  kappa, rest = [], []
  for source, target, inputs, end in zip(*problems, ends, strict=True):
    basis = linear_teachers.row_space(inputs)
    unseen = source - linear_teachers.seen(basis, source)
    kappa.append(end @ unseen / (unseen @ unseen))
    learned = linear_teachers.seen(basis, target)
    distance = linear_teachers.seen(basis, end) - learned
    rest.append(np.linalg.norm(distance) / np.linalg.norm(learned))
  return np.array(kappa), np.array(rest)


def _two_roots(config, problems, num_layers: int) -> verdicts.Finding:
  """Returns the finding on targets that no example sees."""
  hidden = []
  for target, inputs in zip(problems.target, problems.inputs, strict=True):
    basis = linear_teachers.row_space(inputs)
    hidden.append(target - linear_teachers.seen(basis, target))
  unseen = problems._replace(target=np.stack(hidden))
  params = training.flow(unseen, num_layers=num_layers, width=config.width)
  ends = deep_linear.end_to_end(params)
  worst = np.max(
      _relative(ends, deep_linear.limits(unseen, num_layers=num_layers))
  )
  shortest = np.min(np.linalg.norm(ends, axis=-1))
  return training.finding(
      f'labels all zero, L = {num_layers}',
      'the larger of two roots',
      f'{worst:.1e} from it; |β| ≥ {shortest:.2f}',
      bool(worst <= _FLOW and shortest > 0),
      f'The other root is β = 0. Criterion: within {_FLOW:.0e} of the larger.',
  )


def _saddle() -> verdicts.Finding:
  """Returns the finding on the one case in which the flow stops short."""
  problem = deep_linear.Problems(
      np.array([[-1.0]]), np.array([[1.0]]), np.array([[[1.0]]])
  )
  with jax.enable_x64(True):
    params = deep_linear.balanced_params(
        problem.source, num_layers=2, width=1, seed=0
    )
    fn = deep_linear.value_and_grad_fn(
        problem, np.ones(1), num_layers=2, width=1
    )
    *_, (end, _) = gradient_descent.trajectory(
        params, fn, learning_rate=0.1, num_epochs=_SADDLE_STEPS
    )
  beta = float(deep_linear.end_to_end(end)[0, 0])
  return training.finding(
      'd = 1, θ_S = −θ_T, L = 2',
      'stops at β = 0',
      f'β = {beta:.1e}',
      abs(beta) < 1e-6,
      f'After {_SADDLE_STEPS} steps of descent. No part of θ_S is unseen here,'
      ' so nothing keeps the network from the saddle: the formula is wrong.',
  )


def _unbalanced(config, problems, num_layers: int) -> verdicts.Finding:
  """Returns the finding on a start of the same beta that is not balanced."""
  params = deep_linear.balanced_params(
      problems.source, num_layers=num_layers, width=config.width, seed=0
  )
  last = f'layer_{num_layers - 1}'
  params['layer_0']['kernel'] *= _OUT_OF_BALANCE
  params[last]['kernel'] /= _OUT_OF_BALANCE
  ends = deep_linear.end_to_end(
      training.flow(
          problems, num_layers=num_layers, width=config.width, start=params
      )
  )
  distances = _relative(
      ends, deep_linear.limits(problems, num_layers=num_layers)
  )
  return training.finding(
      f'out of balance, L = {num_layers}',
      'another limit',
      f'{verdicts.between(distances.tolist(), "{:.3f}")} away',
      bool(np.max(distances) > _ANOTHER_LIMIT),
      f'The same β at the start, the first kernel times {_OUT_OF_BALANCE:g} and'
      ' the last divided by it: what the formula assumes is needed. Criterion:'
      f' some problem ends more than {_ANOTHER_LIMIT:g} away.',
  )
