"""Part 3 of the study: how far descent ends from the limit of the flow."""

import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import limits as limits_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_flow

_EXACT = 1e-10  # of one layer, whose limit has no step-size error
_SLOPE = 0.1  # of the rate 1, over the two smallest step sizes
_SLOPE_OF_REST = 0.2  # of the rate 2


def descent(
    config: config_lib.LinearTeachersStudyConfig,
) -> study_results.Section:
  """Returns the section."""
  problems = limits_lib.draw_problems(config)
  findings, panels = [], []
  steps = config.step_sizes
  for num_layers in config.depths:
    units = deep_linear.time_units(problems, num_layers=num_layers)
    limits = deep_linear.limits(problems, num_layers=num_layers)
    sizes = np.linalg.norm(limits, axis=-1)
    ends = np.stack(
        [
            deep_linear.end_to_end(
                training.descent(
                    problems,
                    num_layers=num_layers,
                    width=config.width,
                    step_size=step,
                    tolerance=1e-12,
                )
            )
            for step in steps
        ]
    )
    errors = np.linalg.norm(ends - limits, axis=-1) / sizes  # [step, P]
    if num_layers == 1:
      worst = float(errors.max())
      findings.append(
          training.finding(
              'L = 1',
              f'no error, to {_EXACT:.0e}',
              f'{worst:.1e}',
              worst <= _EXACT,
              'Descent on one layer only adds rows of X, with any step size.',
          )
      )
      continue
    modified = np.stack(
        [
            [
                linear_flow.modified_flow_limit(
                    *problem, num_layers=num_layers, step_size=step * unit
                )
                for problem, unit in zip(
                    zip(*problems, strict=True), units, strict=True
                )
            ]
            for step in steps
        ]
    )
    predicted = np.linalg.norm(modified - limits, axis=-1) / sizes
    rests = np.linalg.norm(ends - modified, axis=-1) / sizes
    findings += _rates(num_layers, errors, rests, steps)
    panels.append(_panel(num_layers, steps, errors, predicted, rests))
  return study_results.Section(
      title='the step-size error of descent',
      claim='Gradient descent ends near the flow’s limit, off by an error of'
      ' first order in the step size, which is itself predicted to second'
      ' order.',
      source='Backward error analysis is textbook; its equation for balanced'
      ' networks, reduced to d + 1 numbers, is written out here.',
      text=[
          'A step of size η keeps the layers in their directions but leaves the'
          ' balance by O(η²), in all by O(η). Descent follows, up to O(η²), the'
          ' flow of another vector field, whose end is computed here. Two'
          ' descents extrapolate: 2β(η/2) − β(η) is O(η²) away.',
          (
              'Step sizes are in units of what is stable: 1 over L ρ^{2−2/L}'
              ' and the largest eigenvalue of X’X / n, with ρ the longer of'
              ' start and end.'
          ),
      ],
      formulas=[
          'v⁺ = v − η s^{L−1} g,   s⁺ = s − η s^{L−2} v·g,   β = s^{L−1} v',
          'ẋ = f(x) − (η/2) f′(x) f(x),   x = (v, s),   f = −(s^{L−1} g,'
          ' s^{L−2} v·g)',
      ],
      findings=findings,
      curves=[
          study_results.Curves(
              name='descent',
              title='Distance of descent from the limit of the flow',
              alt='Relative distance against step size, for each depth:'
              ' measured, predicted, and what the prediction leaves.',
              reading='Medians over problems, bands from the lowest to the'
              ' highest. Both axes are logarithmic: slope 1 is first order,'
              ' slope 2 second.',
              x_label='step size, of what is stable',
              y_label='relative distance',
              panels=panels,
              log_x=True,
              log_y=True,
          )
      ],
  )


def _rates(num_layers, errors, rests, steps) -> list[verdicts.Finding]:
  slopes = np.log2(errors[-2] / errors[-1])
  rest_slopes = np.log2(rests[-2] / rests[-1])
  share = float(np.max(rests[-1] / errors[-1]))
  return [
      training.finding(
          f'L = {num_layers}: rate',
          f'1, within {_SLOPE:g}',
          verdicts.between(slopes.tolist()),
          verdicts.near(slopes.tolist(), 1.0, _SLOPE),
          f'Halving the step from {steps[-2]:g} to {steps[-1]:g}, problem by'
          f' problem. At {steps[-1]:g} the error is'
          f' {verdicts.between(errors[-1].tolist(), "{:.1e}")}.',
      ),
      training.finding(
          f'L = {num_layers}: rate of what the prediction leaves',
          f'2, within {_SLOPE_OF_REST:g}',
          verdicts.between(rest_slopes.tolist()),
          verdicts.near(rest_slopes.tolist(), 2.0, _SLOPE_OF_REST),
          f'At {steps[-1]:g} at most {share:.1%} of the error is left.',
      ),
  ]


def _panel(num_layers, steps, errors, predicted, rests):
  def measured(label, color, values):
    return study_panels.line(
        label,
        study_results.MEASURED,
        color,
        steps,
        np.median(values, axis=-1),
        low=np.min(values, axis=-1),
        high=np.max(values, axis=-1),
    )

  middle = np.median(predicted, axis=-1)
  return study_results.Panel(
      f'L = {num_layers}',
      [
          measured('descent', 0, errors),
          study_panels.predicted('predicted', 6, steps, middle),
          measured('descent − prediction', 1, rests),
      ],
  )
