"""Part 6 of the study: merging the kernels of networks, for every depth."""

import jax
import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_merging
from taskvec_jax.studies import linear_teachers
from taskvec_jax.task_vectors import arithmetic

_NETWORK = 1e-6  # of |theta_0|, for merged networks by (S2.12)


def networks(
    config: config_lib.LinearTeachersStudyConfig,
) -> study_results.Section:
  """Returns the section."""
  panels, rows = [], []
  worst = dict.fromkeys(config.depths, 0.0)
  for index, cosine in enumerate(config.deep_cosines):
    tasks = _deep_tasks(config, cosine, 60 + index)
    series = []
    for color, num_layers in enumerate(config.depths):
      predicted, measured, error = _merged_networks(config, tasks, num_layers)
      worst[num_layers] = max(worst[num_layers], error)
      x = list(config.merge_scalings)
      series += [
          study_panels.predicted(
              f'L = {num_layers}: (S2.12)',
              color,
              x,
              np.mean(predicted, axis=-1),
          ),
          study_panels.with_errors(
              f'L = {num_layers}: merged', color, x, measured
          ),
      ]
      mean, spread = study_panels.means(measured)
      best = int(np.argmin(mean))
      rows.append(
          [
              f'cosine {cosine:g}, L = {num_layers}',
              f'{x[best]:g}',
              f'{mean[best]:.3f} ± {spread[best]:.3f}',
              f'{mean[int(np.argmin(np.abs(np.array(x) - 1)))]:.3f}',
          ]
      )
    panels.append(study_results.Panel(f'cosine {cosine:g}', series))
  return study_results.Section(
      title='merging networks',
      claim='Kernels of balanced networks finetuned from one base can be added,'
      ' and the merged network has a closed formula; the product of L summed'
      ' scales makes deep networks more sensitive to the coefficient.',
      source='Derived here.',
      text=[
          'Finetuning leaves the hidden directions of the base alone: only the'
          ' direction of the first layer and one common scale change. So the'
          ' sum of kernels is again such a network, out of balance.',
      ],
      formulas=[
          'β = s^{L−1} v,   v = s₀b₀ + Σ α_t(s_tb_t − s₀b₀),   s = s₀ + Σ'
          ' α_t(s_t − s₀)   (S2.12)',
      ],
      findings=[
          training.finding(
              f'L = {num_layers}',
              f'(S2.12), to {_NETWORK:.0e}',
              f'{error:.1e}',
              error <= _NETWORK,
              'Largest distance of the merged end-to-end vector from the'
              ' formula, in units of |θ_0|: every draw and coefficient, task'
              ' vectors by the flow, merged kernel by kernel.',
          )
          for num_layers, error in worst.items()
      ],
      curves=[
          study_results.Curves(
              name='networks',
              title='Mean risk of merged networks by depth',
              alt='Mean risk over tasks against the common coefficient for'
              ' every depth, one panel a cosine of the differences.',
              reading=f'T = {config.deep_tasks}; differences as long as the'
              ' base. Dashed: (S2.4) and (S2.12). Dots: merged networks, with'
              ' bands of one standard error over draws.',
              x_label='coefficient α',
              y_label='risk / |δ|²',
              panels=panels,
          )
      ],
      tables=[
          study_results.Table(
              caption='The best coefficient of those measured, with its mean'
              ' risk ± one standard error, and the risk nearest to addition.',
              columns=['Tasks and depth', 'best α', 'risk', 'risk at α = 1'],
              rows=rows,
          )
      ],
  )


def _deep_tasks(config, cosine: float, part: int):
  """Returns `source [draw, d]`, `targets [draw, T, d]` and inputs."""
  differences, inputs = training.draw_tasks(
      config,
      part,
      num_tasks=config.deep_tasks,
      cosine=cosine,
      num_examples=config.num_examples,
      num_draws=config.map_draws,
  )
  rng = np.random.default_rng([part, *config.seeds])
  source = rng.normal(size=(len(inputs), config.dimension))
  source /= np.linalg.norm(source, axis=-1, keepdims=True)
  return source, source[:, None] + differences, inputs


def _merged_networks(config, tasks, num_layers: int):
  """Returns risks by formula and as merged, `[alpha, draw]`, and an error."""
  source, targets, inputs = tasks
  num_draws, num_tasks, d = targets.shape
  problems = deep_linear.Problems(
      np.repeat(source[None], num_tasks, 0).reshape((-1, d)),
      targets.swapaxes(0, 1).reshape((-1, d)),
      inputs.swapaxes(0, 1).reshape((num_tasks * num_draws, -1, d)),
  )
  limits = deep_linear.limits(problems, num_layers=num_layers)
  ends, base = _finetuned(config, problems, num_draws, num_layers)
  shape = (num_tasks, num_draws, d)
  predicted, measured, worst = [], [], 0.0
  with jax.enable_x64(True):
    vectors = {t: arithmetic.task_vector(end, base) for t, end in ends.items()}
    for alpha in config.merge_scalings:
      merged = arithmetic.merge(
          base, vectors, arithmetic.uniform_scaling(vectors, alpha)
      )
      found = deep_linear.end_to_end(merged)
      formula = linear_merging.merged_network(
          source,
          limits.reshape(shape),
          np.full(num_tasks, alpha),
          num_layers=num_layers,
      )
      worst = max(
          worst, float(np.max(np.linalg.norm(found - formula, axis=-1)))
      )
      for beta, into in ((formula, predicted), (found, measured)):
        risks = linear_teachers.risk(beta[:, None], targets, np.ones(d))
        into.append(np.mean(risks, axis=-1))
  return np.array(predicted), np.array(measured), worst


def _finetuned(config, problems, num_draws: int, num_layers: int):
  """Returns task -> parameters after the flow, and the base they share."""
  num_tasks = len(problems.source) // num_draws
  base = deep_linear.balanced_params(
      problems.source[:num_draws],
      num_layers=num_layers,
      width=config.width,
      seed=num_layers,
  )
  start = jax.tree.map(lambda leaf: np.concatenate([leaf] * num_tasks), base)
  params = training.flow(
      problems, num_layers=num_layers, width=config.width, start=start
  )
  ends = {
      f'{t}': jax.tree.map(
          lambda leaf, t=t: leaf[t * num_draws : (t + 1) * num_draws], params
      )
      for t in range(num_tasks)
  }
  return ends, base
