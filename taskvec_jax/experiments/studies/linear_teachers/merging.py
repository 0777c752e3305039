"""Part 5 of the study: merging task vectors of one layer."""

from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import addition
from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import overlaps
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.finetuning import multitask
from taskvec_jax.merging import regmean
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_flow
from taskvec_jax.studies import linear_merging

_ROUNDING = 1e-10  # of a merge's risk by (S2.7), relative
_STANDARD_ERRORS = 3
_COVERED = 0.95  # of points within so many standard errors
_REGMEAN = 1e-6  # relative
_RIDGE = 1e-8  # of RegMean: its error is of this order, rounding over it


class _Best(NamedTuple):
  """The best common coefficient of one curve."""

  num_tasks: int
  cosine: float
  law: float  # (S2.9)
  measured: float
  error: float  # one standard error of it


def one_layer(
    config: config_lib.LinearTeachersStudyConfig,
) -> study_results.Section:
  """Returns the section."""
  panels, worst, distances, scalings, pairs = _curves(config)
  figure, agreement = addition.addition_map(config)
  covered = float(np.mean(np.abs(distances) <= _STANDARD_ERRORS))
  off = max(abs(one.measured - one.law) / one.error for one in scalings)
  regmean_error, norm = _regmean(config)
  return study_results.Section(
      title='merging one layer',
      claim='The risk of a merge is a quadratic whose cross terms are inner'
      ' products of projections; how much the data of each task cover and how'
      ' alike the teachers are decide between averaging and adding.',
      source='Derived here.',
      text=[
          'A task vector is the difference of the teachers, seen through its'
          ' own examples: τ_t = P_tδ_t. Added up they miss teacher i by what'
          ' i’s examples left out and by what the other vectors put there. If'
          ' P_iP_t = 0 for all pairs, addition changes nothing on any task’s'
          ' training data.',
          'Random projections have E P = (n/d)I, which gives the mean risk at'
          ' every d, and the best common coefficient: averaging, 1/T, for'
          ' unrelated tasks, however little they overlap; more for alike tasks'
          ' that are seen thinly, since each then has a different part of the'
          ' same answer.',
          'The inner product of two projections, tr(P_iP_t), is how far the'
          ' rows of two tasks overlap: n_in_t/d on average, derived here. With'
          ' the differences it makes the interference of a merge, the same sum'
          ' in the risk of every task. Rows overlap as much for unrelated tasks'
          ' as for alike ones; it is the cosine of the differences that turns'
          ' overlap into risk.',
          'RegMean needs no coefficient: Σ(G_tτ_t) is Σ(G_tδ_t), so in one'
          ' layer it returns exactly what joint training on all data ends at.',
      ],
      formulas=[
          'θ − θ_i = −(I − α_iP_i)δ_i + Σ_{t≠i} α_tP_tδ_t   (S2.7)',
          'E tr(P_iP_t) / √(n_in_t) = √(n_in_t) / d   (S2.14)',
          'interference Σ_{s≠t} α_sα_t⟨P_sδ_s, P_tδ_t⟩, on average Σ_{s≠t}'
          ' α_sα_tm_sm_tD_st   (S2.15)',
          'α* = (1 + (T − 1)c) / (T (1 + (T − 1) c n/d))   (S2.9)',
          'addition beats averaging iff c > 1 / (2 − (T + 1) n/d) > 0'
          '   (S2.10)',
      ],
      findings=[
          training.finding(
              'risk of every merge, by (S2.7)',
              f'equal, to {_ROUNDING:.0e}',
              f'{worst:.1e}',
              worst <= _ROUNDING,
              'Largest relative difference over all draws and coefficients;'
              ' task vectors by descent, merged by task arithmetic.',
          ),
          training.finding(
              'mean risk, by (S2.8)',
              f'{_COVERED:.0%} within {_STANDARD_ERRORS} standard errors',
              f'{covered:.1%}',
              covered >= _COVERED,
              f'Of {distances.size} points: curves and coefficients. Points of'
              ' one curve share their draws.',
          ),
          *overlaps.findings(pairs),
          training.finding(
              'best coefficient, by (S2.9)',
              f'within {_STANDARD_ERRORS} standard errors',
              f'{off:.1f}',
              off <= _STANDARD_ERRORS,
              'Largest distance over the curves, in standard errors: the mean'
              ' parabola’s lowest point, its error by leaving out one draw at a'
              ' time.',
          ),
          agreement,
          training.finding(
              'RegMean and multitask training',
              f'equal, to {_REGMEAN:.0e}',
              f'{regmean_error:.1e}',
              regmean_error <= _REGMEAN,
              'Relative distance between the project’s RegMean on the task'
              f' vectors, ridge {_RIDGE:g}, and joint descent from the base;'
              f' (S2.11) is {norm:.1e} from the latter.',
          ),
      ],
      curves=[
          study_results.Curves(
              name='merging',
              title='Mean risk of a merge by its coefficient',
              alt='Mean risk over tasks against the common coefficient, one'
              ' panel a cosine of the differences, predicted and measured.',
              reading='Dashed: (S2.8). Dots: mean over'
              f' {len(config.seeds) * config.num_draws} draws, with bands of'
              ' one standard error. 1 is the base’s risk.',
              x_label='coefficient α',
              y_label='risk / |δ|²',
              panels=panels,
          )
      ],
      maps=[figure],
      tables=[
          study_results.Table(
              caption='The best common coefficient, ± one standard error.',
              columns=['Tasks', 'by (S2.9)', 'measured', '1/T'],
              rows=[
                  [
                      f'T = {one.num_tasks}, cosine {one.cosine:g}',
                      f'{one.law:.3f}',
                      f'{one.measured:.3f} ± {one.error:.3f}',
                      f'{1 / one.num_tasks:.3f}',
                  ]
                  for one in scalings
              ],
          ),
          overlaps.table(pairs),
      ],
  )


def _curves(config):
  """Returns panels, the error of (S2.7), distances, scalings, overlaps."""
  alphas = np.array(config.merge_scalings)
  coverage = config.num_examples / config.dimension
  isotropic = np.ones(config.dimension)
  panels, worst, distances, scalings, pairs = [], 0.0, [], [], []
  for index, cosine in enumerate(config.merge_cosines):
    series = []
    for color, num_tasks in enumerate(config.num_tasks):
      differences, inputs = training.draw_tasks(
          config,
          50 + index,
          num_tasks=num_tasks,
          cosine=cosine,
          num_examples=config.num_examples,
          num_draws=config.num_draws,
      )
      taus = training.task_vectors(differences, inputs)
      measured = training.merged_risks(taus, differences, alphas)
      exact = np.array(
          [
              [
                  linear_merging.merged_risks(
                      delta, x, np.full(num_tasks, alpha), isotropic
                  ).mean()
                  for delta, x in zip(differences, inputs, strict=True)
              ]
              for alpha in alphas
          ]
      )
      worst = max(worst, float(np.max(np.abs(measured / exact - 1))))
      pairs.append(overlaps.measure(taus, inputs, cosine=cosine))
      gram = cosine + (1 - cosine) * np.eye(num_tasks)
      law = np.array(
          [
              linear_merging.expected_risks(
                  gram, np.full(num_tasks, coverage), np.full(num_tasks, alpha)
              ).mean()
              for alpha in alphas
          ]
      )
      means, errors = study_panels.means(measured)
      # At alpha = 0 every draw has the base's risk, exactly.
      random = errors > 1e-12
      distances.append((means - law)[random] / errors[random])
      scalings.append(
          _Best(
              num_tasks,
              cosine,
              linear_merging.best_scaling(num_tasks, coverage, cosine),
              *_lowest(measured, alphas),
          )
      )
      series += [
          study_panels.predicted(
              f'T = {num_tasks}: (S2.8)', color, alphas, law
          ),
          study_panels.with_errors(
              f'T = {num_tasks}: measured', color, alphas, measured
          ),
      ]
    panels.append(study_results.Panel(f'cosine {cosine:g}', series))
  return panels, worst, np.concatenate(distances), scalings, pairs


def _lowest(risks: np.ndarray, alphas: np.ndarray) -> tuple[float, float]:
  """Returns where the mean parabola is lowest, and its jackknife error."""

  def lowest(values):
    square, linear, _ = np.polyfit(alphas, values, 2)
    return -linear / (2 * square)

  num_draws = risks.shape[1]
  found = float(lowest(risks.mean(axis=1)))
  if num_draws == 1:
    return found, float('inf')
  without = [
      lowest(np.delete(risks, draw, axis=1).mean(axis=1))
      for draw in range(num_draws)
  ]
  return found, float(np.std(without) * np.sqrt(num_draws - 1))


def _regmean(config) -> tuple[float, float]:
  """Returns how far RegMean and (S2.11) are from joint descent, relative."""
  num_tasks = config.map_tasks
  worst = formula_worst = 0.0
  differences, inputs = training.draw_tasks(
      config,
      56,
      num_tasks=num_tasks,
      cosine=0.5,
      num_examples=config.num_examples,
      num_draws=1,
  )
  taus = training.task_vectors(differences, inputs)
  joint = _joint_descent(differences, inputs)
  for index, (delta, x) in enumerate(zip(differences, inputs, strict=True)):
    merged = regmean.regmean(
        {t: {'kernel': tau[index][:, None]} for t, tau in taus.items()},
        {t: {'kernel': x[int(t)].T @ x[int(t)]} for t in taus},
        off_diagonal=1.0,
        ridge=_RIDGE,
    )['kernel'][:, 0]
    size = np.linalg.norm(joint[index])
    worst = max(worst, float(np.linalg.norm(merged - joint[index]) / size))
    formula = linear_merging.multitask_limit(delta, x)
    formula_worst = max(
        formula_worst, float(np.linalg.norm(formula - joint[index]) / size)
    )
  return worst, formula_worst


def _joint_descent(differences, inputs) -> np.ndarray:
  """Returns where multitask descent from zero ends, `[draw, d]`."""
  num_draws, num_tasks, d = differences.shape
  with jax.enable_x64(True):
    # Of the joint rows: each task's curvature is at most their sum.
    sizes = np.linalg.norm(inputs.reshape((num_draws, -1, d)), 2, axis=(1, 2))
    weights = inputs.shape[2] / sizes**2
    fns = {
        f'{t}': deep_linear.value_and_grad_fn(
            deep_linear.Problems(
                np.zeros((num_draws, d)), differences[:, t], inputs[:, t]
            ),
            weights,
            num_layers=1,
            width=1,
        )
        for t in range(num_tasks)
    }
    joint = multitask.multitask_value_and_grad(fns, dict.fromkeys(fns, 1.0))
    params = deep_linear.balanced_params(
        np.zeros((num_draws, d)), num_layers=1, width=1, seed=0
    )
    return deep_linear.end_to_end(
        linear_flow.descend(params, joint, step_size=1.0, tolerance=1e-13)
    )
