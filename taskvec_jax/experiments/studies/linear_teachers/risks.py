"""Part 1 of the study: the population risk of one layer."""

import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_teachers

_ROUNDING = 1e-10  # the bar, relative, of the risk formula
_STANDARD_ERRORS = 3
_LAW = 0.15  # of (S2.6), an asymptotic law, at d = 100: relative


def one_layer(
    config: config_lib.LinearTeachersStudyConfig,
) -> study_results.Section:
  """Returns part 1: the risk of one layer, by formula and by training."""
  d, band = config.dimension, config.risk_band
  covariance = np.arange(1, d + 1.0) ** -config.covariance_power
  starts = {'first': 0, 'middle': (d - band) // 2, 'last': d - band}
  worst, deviations = 0.0, []
  measured = {name: [] for name in starts}  # [n][problem]
  for num_examples in config.risk_examples:
    problems = _band_problems(config, covariance, starts, num_examples)
    ends = training.one_layer(problems)
    found = linear_teachers.risk(ends, problems.target, covariance)
    formula = np.array(
        [
            linear_teachers.finetuned_risk(*problem, covariance)
            for problem in zip(*problems, strict=True)
        ]
    )
    worst = max(worst, float(np.max(np.abs(found / formula - 1))))
    deviations.append(_fresh(config, problems, ends, covariance, formula))
    for index, name in enumerate(starts):
      measured[name].append(found[index :: len(starts)])
  largest = 0.0
  series: list[study_results.Series] = []
  for color, (name, start) in enumerate(starts.items()):
    law: np.ndarray = np.array(
        [
            linear_teachers.direction_weights(covariance, num_examples=n)[
                start : start + band
            ].mean()
            for n in config.risk_examples
        ]
    )
    means, errors = study_panels.means(np.array(measured[name]))
    beyond = [
        max(abs(mean - value) - _STANDARD_ERRORS * error, 0) / value
        for mean, value, error in zip(means, law, errors, strict=True)
    ]
    largest = max(largest, *beyond)
    label = f'{name} {band} axes'
    x = config.risk_examples
    series += [
        study_panels.predicted(f'{label}: (S2.6)', color, x, law),
        study_panels.with_errors(
            f'{label}: trained', color, x, np.array(measured[name])
        ),
    ]
  most = float(np.max(deviations))
  num_problems = len(config.seeds) * config.num_draws * len(starts)
  return study_results.Section(
      title='the risk of one layer',
      claim='What finetuning gets wrong is the teachers’ difference where the'
      ' target’s examples have no rows, weighed by the covariance.',
      source='(S2.1) is elementary and the paper’s message; (S2.6) is the known'
      ' large-d law of least squares, applied to the difference.',
      text=[
          'Descent on Xθ_T only ever adds rows of X to the start, so the part'
          ' of θ_S that no example sees stays, and the risk is what is left of'
          ' θ_S − θ_T there. Finetuning beats training from zero exactly where'
          ' that is smaller for θ_S − θ_T than for θ_T itself.',
          'Averaged over inputs, a difference costs most not in the weakest'
          ' directions of the data but near the eigenvalue k that n examples'
          ' resolve: stronger directions are covered, weaker ones carry little'
          ' risk.',
      ],
      formulas=[
          'R = ‖Σ^{1/2} (I − P)(θ_S − θ_T)‖²   (S2.1)',
          'E R ≈ Σᵢ λᵢ (k / (λᵢ + k))² δᵢ² / (1 − γ),   Σᵢ λᵢ / (λᵢ + k) = n,'
          '   γ = Σᵢ (λᵢ / (λᵢ + k))² / n   (S2.6)',
      ],
      findings=[
          training.finding(
              'risk after training, by (S2.1)',
              f'equal, to {_ROUNDING:.0e}',
              f'{worst:.1e}',
              worst <= _ROUNDING,
              f'Largest relative difference over {num_problems} problems at'
              f' each of n = {", ".join(map(str, config.risk_examples))},'
              ' trained by gradient descent.',
          ),
          training.finding(
              'risk on fresh inputs',
              f'within {_STANDARD_ERRORS} standard errors',
              f'{most:.1f}',
              most <= _STANDARD_ERRORS,
              'Largest distance from (S2.1) in standard errors of the mean over'
              f' {config.num_test:,} fresh inputs; one problem for each n, of'
              ' the first seed.',
          ),
          training.finding(
              'mean risk, by (S2.6)',
              f'within {_LAW:.0%} and {_STANDARD_ERRORS} standard errors',
              f'{largest:.1%} beyond them',
              largest <= _LAW,
              'A law for large d: the criterion is what of the relative'
              ' difference three standard errors over draws do not cover.',
          ),
      ],
      curves=[
          study_results.Curves(
              name='risk',
              title='Risk of a unit difference, by the eigenvectors it lies in',
              alt='Mean risk against the number of examples for differences in'
              ' the first, middle and last eigenvectors of the covariance,'
              ' predicted and trained.',
              reading=f'Eigenvalues are i^−{config.covariance_power:g}. Dashed:'
              ' (S2.6). Dots: mean over draws; bands are one standard error.',
              x_label='examples n',
              y_label='risk',
              panels=[study_results.Panel('', series)],
              log_x=True,
              log_y=True,
          )
      ],
  )


def _band_problems(config, covariance, starts, num_examples):
  sources, targets, inputs = [], [], []
  d, band = config.dimension, config.risk_band
  for seed in config.seeds:
    rng = np.random.default_rng([1, seed, num_examples])
    for _ in range(config.num_draws):
      source = rng.normal(size=d) / np.sqrt(d)
      rows = rng.normal(size=(num_examples, d)) * np.sqrt(covariance)
      for start in starts.values():
        difference = np.zeros(d)
        # A difference of equal energy on every eigenvector of its band.
        difference[start : start + band] = rng.choice([-1, 1], band)
        sources.append(source)
        targets.append(source - difference / np.sqrt(band))
        inputs.append(rows)
  return deep_linear.Problems(*map(np.stack, (sources, targets, inputs)))


def _fresh(config, problems, ends, covariance, formula) -> float:
  """Returns how far fresh inputs are from the formula, in standard errors."""
  rng = np.random.default_rng([2, config.seeds[0], len(problems.inputs[0])])
  rows = rng.normal(size=(config.num_test, config.dimension))
  errors = (rows * np.sqrt(covariance)) @ (ends[0] - problems.target[0])
  standard_error = np.std(errors**2, ddof=1) / np.sqrt(len(errors))
  return float(abs(np.mean(errors**2) - formula[0]) / standard_error)
