"""Part 4 of the study: what depth, scale and alignment do to the risk."""

import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_teachers

_DESCENT = 0.05  # of |theta_T|: the O(eta) of part 3, with room
_COLOR_RANGE = 0.6  # of log10 of a ratio


class _Comparison(NamedTuple):
  """One panel of the map: log10 of a ratio of risks, indexed [cosine, size]."""

  title: str
  predicted: np.ndarray
  measured: np.ndarray


def depth(
    config: config_lib.LinearTeachersStudyConfig,
) -> study_results.Section:
  """Returns the section."""
  panels, curve_worst, deviation = _curves(config)
  comparisons, map_worst = _comparisons(config)
  worst = max(curve_worst, map_worst)
  findings = [
      training.finding(
          'every trained network, by (S2.4)',
          f'within {_DESCENT:g} |θ_T|',
          f'{worst:.4f} |θ_T|',
          worst <= _DESCENT,
          'Largest distance of an end-to-end vector over all problems of both'
          f' figures. Descent with step size {config.depth_step_size:g} has the'
          ' error that part 3 measures.',
      ),
      *(
          training.agreement(
              config,
              f'which risk is lower: {one.title}',
              'as by (S2.5)',
              one.predicted,
              one.measured,
              one.predicted > 0,
          )
          for one in comparisons
      ),
  ]
  return study_results.Section(
      title='depth, scale and alignment',
      claim='Depth rescales the part of the source that no example sees by how'
      ' much longer the target turns out to be: it helps where the teachers'
      ' agree in direction and differ in scale.',
      source='The experiment is that of the paper’s figure 2, in small; (S2.5)'
      ' and the regions are derived here for large d.',
      text=[
          'One layer keeps the unseen part of θ_S as it is. A deep network'
          ' multiplies it by κ, between 1 and about α = |θ_T| / |θ_S|, which'
          ' infinite depth reaches: then only the direction of θ_S counts. With'
          ' c the cosine of the teachers the best factor would be αc.',
          'So depth helps on average for every shorter target, α < 1, where αc'
          ' ≤ κ < 1, and for a longer one only if αc > (1 + κ) / 2. Finetuning'
          ' beats training from nearly zero where 2αc > κ: any depth profits'
          ' from a source that is aligned, deep ones from an aligned source of'
          ' the wrong size.',
      ],
      formulas=[
          'E R / |θ_S|² = (1 − n/d)(κ² − 2καc + α²)   (S2.5)',
          'κ = (ρ / |θ_S|)^{1−1/L},   (ρ / |θ_S|)² = (1 − n/d) κ² + (n/d) α²',
      ],
      findings=findings,
      curves=[
          study_results.Curves(
              name='depth',
              title='Risk by the size of the target, for several depths',
              alt='Mean risk over the squared length of the target against that'
              ' length, for each depth, predicted and trained; one panel a'
              ' cosine of the teachers.',
              reading='Dashed: (S2.5). Dots: mean over'
              f' {len(config.seeds) * config.num_draws} draws of networks'
              ' trained by descent, with bands of one standard error. At this d'
              f' and n (S2.5) is off by at most {deviation:.0%}. The flat grey'
              ' line is training from zero.',
              x_label='|θ_T| / |θ_S|',
              y_label='risk / |θ_T|²',
              panels=panels,
              log_x=True,
              log_y=True,
          )
      ],
      maps=[_map(config, comparisons)],
  )


def _risks(config, problems, num_layers: int) -> tuple[np.ndarray, float]:
  """Returns trained risks `[P]` and the largest error of a limit."""
  if num_layers == 1:
    ends = training.one_layer(problems)
  else:
    # Hidden directions do not matter, so the least width is the cheapest.
    params = training.descent(
        problems,
        num_layers=num_layers,
        width=2,
        step_size=config.depth_step_size,
        tolerance=1e-6,  # far below the error of the step size
    )
    ends = deep_linear.end_to_end(params)
  limits = deep_linear.limits(problems, num_layers=num_layers)
  sizes = np.linalg.norm(problems.target, axis=-1)
  worst = np.max(np.linalg.norm(ends - limits, axis=-1) / sizes)
  isotropic = np.ones(config.dimension)
  return linear_teachers.risk(ends, problems.target, isotropic), float(worst)


def _curves(config) -> tuple[list[study_results.Panel], float, float]:
  """Returns panels, the largest error of a limit, that of (S2.5)."""
  sizes = np.array(config.curve_sizes)
  coverage = config.num_examples / config.dimension
  panels, worst, deviation = [], 0.0, 0.0
  fine = np.geomspace(sizes.min(), sizes.max(), 41)
  for index, cosine in enumerate(config.curve_cosines):
    problems = training.draw_problems(
        config,
        40 + index,
        sizes=config.curve_sizes,
        cosines=[cosine] * len(sizes),
        num_draws=config.num_draws,
    )
    series = []
    for color, num_layers in enumerate((*config.depths, math.inf)):
      label = 'L = ∞' if math.isinf(num_layers) else f'L = {num_layers}'
      law = linear_teachers.typical_risk(
          coverage, fine, cosine, num_layers=num_layers
      )
      series.append(
          study_panels.predicted(f'{label}: (S2.5)', color, fine, law / fine**2)
      )
      if math.isinf(num_layers):
        continue
      risks, error = _risks(config, problems, int(num_layers))
      worst = max(worst, error)
      values = risks.reshape((-1, len(sizes))).T / sizes[:, None] ** 2
      typical = linear_teachers.typical_risk(
          coverage, sizes, cosine, num_layers=num_layers
      )
      ratios = np.mean(values, axis=-1) * sizes**2 / typical
      deviation = max(deviation, float(np.max(np.abs(ratios - 1))))
      series.append(
          study_panels.with_errors(f'{label}: trained', color, sizes, values)
      )
    scratch = [1 - coverage] * len(fine)
    series.append(
        study_panels.reference('training from zero', 7, fine, scratch)
    )
    panels.append(study_results.Panel(f'cosine {cosine:g}', series))
  return panels, worst, deviation


def _comparisons(config) -> tuple[list[_Comparison], float]:
  """Trains every cell: one layer, the most layers, and from zero."""
  sizes, cosines = np.meshgrid(config.map_sizes, config.map_cosines)
  coverage = config.num_examples / config.dimension
  deepest = config.depths[-1]
  problems = training.draw_problems(
      config,
      4,
      sizes=sizes.ravel().tolist(),
      cosines=cosines.ravel().tolist(),
      num_draws=config.map_draws,
  )
  zero = problems._replace(source=np.zeros_like(problems.source))
  shallow, worst = _risks(config, problems, 1)
  deep, error = _risks(config, problems, deepest)
  scratch, _ = _risks(config, zero, 1)
  measured = [
      np.mean(risks.reshape((-1, *sizes.shape)), axis=0)
      for risks in (shallow, deep, scratch)
  ]
  shallow, deep = (
      linear_teachers.typical_risk(coverage, sizes, cosines, num_layers=depth)
      for depth in (1, deepest)
  )
  predicted = [shallow, deep, (1 - coverage) * sizes**2]
  comparisons = [
      _Comparison(
          title,
          _log_ratio(predicted[above], predicted[below]),
          _log_ratio(measured[above], measured[below]),
      )
      for title, above, below in (
          (f'1 layer / {deepest} layers', 0, 1),
          ('from zero / 1 layer', 2, 0),
          (f'from zero / {deepest} layers', 2, 1),
      )
  ]
  return comparisons, max(worst, error)


def _log_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
  # A risk of rounding alone (equal teachers) is as good as any.
  tiny = 1e-12
  return np.log10(np.maximum(above, tiny) / np.maximum(below, tiny))


def _map(config, comparisons) -> study_results.Map:
  return study_results.Map(
      name='depth_map',
      title='Where depth helps, and where finetuning does',
      alt='Three maps over the size of the target and the cosine of the'
      ' teachers: the logarithm of one risk over another, with the predicted'
      ' edge.',
      reading='Yellow: the second of the two named in a title has the lower'
      ' risk. Colours: trained networks. Orange line: where (S2.5) has the'
      ' edge, cell by cell. Beyond the ends of the scale the colour stays.',
      x_label='|θ_T| / |θ_S|',
      y_label='cosine of the teachers',
      value_label='log₁₀ of the ratio of risks',
      low=-_COLOR_RANGE,
      high=_COLOR_RANGE,
      panels=[
          study_panels.cells(
              comparison.title,
              config.map_sizes,
              config.map_cosines,
              comparison.measured,
              comparison.predicted > 0,
          )
          for comparison in comparisons
      ],
  )
