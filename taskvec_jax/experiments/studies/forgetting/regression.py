"""Section of the study of forgetting on its exact mean, and what others share.

One problem and seed is one draw of task A; rotations are drawn anew for it. All
forgettings are shown over |theta|^2, the risk of knowing nothing.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import expected_forgetting
from taskvec_jax.studies import forgetting

# Fixed before anything was measured.
STANDARD_ERRORS = 3  # between a measured mean and its exact value
LAW_MARGIN = 0.25  # of the leading law, from p = 4 n on
LAW_FROM = 4
PERMUTATION_MARGIN = 0.10  # of the mean over permutations

LABELS = {
    'num_features': 'p',
    'num_examples': 'n',
    'num_latent': 'd',
    'gamma': 'γ',
}


class Point(NamedTuple):
  """Forgetting at one problem and seed; all but z and error over |theta|^2."""

  exact: float  # mean over rotations
  draws: np.ndarray  # one a rotation
  z: float  # measured minus exact mean, in standard errors
  before: float  # risk of A alone


def point(
    sizes: config_lib.Sizes,
    *,
    seed: int,
    num_draws: int,
    permuted: bool = False,
) -> Point:
  """Returns the forgetting of a sequence, exact and drawn.

  Args:
    sizes: of the problem.
    seed: of task A and of the draws.
    num_draws: at least 2.
    permuted: draw permutations; `exact` stays the mean over rotations.
  """
  # Rotations and permutations turn the same task A.
  task_rng = np.random.default_rng([seed, sizes.num_features])
  rng = np.random.default_rng([seed, sizes.num_features, 1 + permuted])
  task = forgetting.draw(task_rng, **dataclasses.asdict(sizes))
  first = forgetting.trained(task)
  basis = forgetting.task_basis(task, first.basis)

  def frame():
    if permuted:
      return forgetting.permuted_frame(rng, basis)
    return forgetting.haar_frame(rng, *basis.shape)

  risks = forgetting.measured_risks(
      task, first, (frame() for _ in range(num_draws)), [forgetting.SEQUENCE]
  )
  expected, _ = expected_forgetting.expected_risks(
      task, first, forgetting.SEQUENCE
  )
  before = float(forgetting.risk(task, first.params))
  null = float(task.theta @ task.theta)
  draws = (risks[:, 0, 0] - before) / null
  exact = (expected - before) / null
  return Point(exact, draws, standard_errors(draws, exact), before / null)


def standard_errors(draws: np.ndarray, exact: float) -> float:
  """Returns `mean(draws) - exact` in standard errors of the mean."""
  error = np.std(draws, ddof=1) / np.sqrt(len(draws))
  return float((np.mean(draws) - exact) / error)


def expectation(
    config: config_lib.ForgettingStudyConfig,
) -> study_results.Section:
  """Returns the section on the exact mean, its law, and permutations."""
  points, permuted = (
      [
          [
              point(sizes, seed=s, num_draws=config.num_draws, permuted=other)
              for s in config.seeds
          ]
          for sizes in config_lib.monte_carlo(config)
      ]
      for other in (False, True)
  )
  findings = [
      _exact_finding(p, row)
      for p, row in zip(config.features, points, strict=True)
  ]
  findings.append(_law_finding(config, points))
  findings.append(_permutation_finding(permuted))
  return study_results.Section(
      title='the exact expected forgetting',
      claim='The forgetting of task A, averaged over all rotations of task B,'
      ' is an explicit function of what A alone was trained on.',
      source='Derived for this project. The setting is the paper’s; that'
      ' permutations behave like rotations is its figure 5.',
      text=[
          'Task A is a regression with more features p than examples n; task B'
          ' is the same examples after a rotation O. Both are fitted exactly,'
          ' with the least change of the parameters, first A, then B. With b'
          ' the parameters after A, P the projection on the rows of its'
          ' examples, Σ = WW′ + I, q = b′Σb, r = |b|:',
      ],
      formulas=[
          'E[R(after B) − R(after A)] = −(2n/p) b′(Σb − Wθ) + E[a²] q +'
          ' (r²(1 + n/p) − r² E[a²]) (tr Σ − q/r²)/(p − 1)',
          'E[a²] = 1/p + n(n + 2)/(p(p + 2))',
          'leading law: |θ|² (m (d + 1/γ)/p · (1 + n/p) + m² ((n/p)² +'
          ' 2/(γp))), m = nγ/(1 + nγ)',
      ],
      findings=findings,
      curves=[_risk_curves(config, points), _mean_curves(config, points)],
      tables=[_table(config, points, permuted)],
  )


def describe(sizes: config_lib.Sizes) -> str:
  """Returns 'p = 2000, n = 100, d = 20, γ = 1'."""
  return ', '.join(
      f'{label} = {getattr(sizes, field):g}' for field, label in LABELS.items()
  )


def law(sizes: config_lib.Sizes) -> float:
  """Returns the leading law of the forgetting over |theta|^2."""
  return expected_forgetting.leading_law(**dataclasses.asdict(sizes))


def _exact_finding(p: int, row: Sequence[Point]) -> verdicts.Finding:
  z = [one.z for one in row]
  number = len(row[0].draws)
  return verdicts.Finding(
      where=f'p = {p}, mean over rotations',
      predicted=f'{span([one.exact for one in row])} |θ|²',
      measured=f'{span([one.draws.mean() for one in row])} |θ|²;'
      f' {verdicts.between(z, "{:+.1f}")} standard errors off',
      verdict=verdicts.of(max(map(abs, z)) <= STANDARD_ERRORS),
      note=f'Holds if the mean of {number:,} rotations is within'
      f' {STANDARD_ERRORS} of its standard errors of the exact mean, for every'
      ' draw of task A. Ranges are over those draws.',
  )


def _law_finding(config, points) -> verdicts.Finding:
  ratios = [
      one.exact / law(sizes)
      for sizes, row in zip(config_lib.monte_carlo(config), points, strict=True)
      if sizes.num_features >= LAW_FROM * sizes.num_examples
      for one in row
  ]
  where = f'the leading law, from p = {LAW_FROM}n on'
  note = (
      f'Holds if the exact mean is within {LAW_MARGIN:.0%} of the law for every'
      ' draw of task A. It is an approximation: the exact mean depends on the'
      ' draw.'
  )
  if not ratios:
    return verdicts.Finding(where, 'ratio 1', '-', verdicts.NOT_MEASURED, note)
  holds = verdicts.near(ratios, 1.0, LAW_MARGIN)
  return verdicts.Finding(
      where,
      f'ratio 1 ± {LAW_MARGIN:g}',
      f'exact/law {verdicts.between(ratios)}',
      verdicts.of(holds),
      note,
  )


def _permutation_finding(permuted) -> verdicts.Finding:
  off = [float(o.draws.mean()) / o.exact - 1 for row in permuted for o in row]
  z = [abs(one.z) for row in permuted for one in row]
  holds = max(map(abs, off)) <= PERMUTATION_MARGIN
  return verdicts.Finding(
      where='permutations of the features instead of rotations',
      predicted=f'the mean over rotations, ± {PERMUTATION_MARGIN:.0%}',
      measured=f'off by {verdicts.between(off, "{:+.1%}")}',
      verdict=verdicts.of(holds),
      note='Holds if the mean over permutations is within'
      f' {PERMUTATION_MARGIN:.0%} of the exact mean over rotations at every p'
      ' and draw of task A. The two means are not the same number: here they'
      f' differ by up to {max(z):.1f} standard errors.',
  )


def span(values: Iterable[float]) -> str:
  """Returns 'lowest to highest' to three digits."""
  return verdicts.between([float(value) for value in values], '{:.3g}')


def _risk_curves(config, points) -> study_results.Curves:
  x = config.features
  before = [[one.before for one in row] for row in points]
  after = [[one.before + one.draws for one in row] for row in points]
  exact = [np.mean([o.before + o.exact for o in row]) for row in points]
  return study_results.Curves(
      name='forgetting_risk',
      title='Risk on task A before and after task B',
      alt='Risk on task A over the number of features, after A alone and after'
      ' B was trained behind it; both fall.',
      reading='Dots are means, bands hold the middle 90 % of all draws. The'
      ' dashed line is the exact mean over rotations. At 1 the parameters are'
      ' as good as zero.',
      x_label='features p',
      y_label='risk on A / |θ|²',
      panels=[
          study_results.Panel(
              'before and after task B',
              [
                  study_panels.drawn('after A', 0, x, before),
                  study_panels.drawn('after B', 1, x, after),
                  study_panels.predicted('after B, exact mean', 1, x, exact),
                  study_panels.reference('nothing known', 7, x, [1] * len(x)),
              ],
          )
      ],
      log_x=True,
      log_y=True,
  )


def _mean_curves(config, points) -> study_results.Curves:
  x = config.features
  panels = []
  for index, seed in enumerate(config.seeds[:3]):
    column = [row[index] for row in points]
    ratios = np.array([one.draws / one.exact for one in column])
    series = [
        study_panels.with_errors(
            'mean of the draws', 0, x, ratios, num=STANDARD_ERRORS
        ),
        study_panels.predicted('exact mean', 6, x, [1] * len(x)),
    ]
    panels.append(study_results.Panel(f'seed {seed}', series))
  return study_results.Curves(
      name='forgetting_mean',
      title='Mean forgetting of the draws over the exact mean',
      alt='The ratio of measured to exact mean forgetting is 1 at every p.',
      reading=f'One panel a draw of task A; bands are {STANDARD_ERRORS}'
      ' standard errors.',
      x_label='features p',
      y_label='measured / exact',
      panels=panels,
      log_x=True,
  )


def _table(config, points, permuted) -> study_results.Table:
  rows = []
  for sizes, ours, others in zip(
      config_lib.monte_carlo(config), points, permuted, strict=True
  ):
    for seed, one, other in zip(config.seeds, ours, others, strict=True):
      rows.append(
          [
              f'p = {sizes.num_features}, seed {seed}',
              f'{one.exact:.4g}',
              _with_error(one.draws),
              f'{one.z:+.2f}',
              _with_error(other.draws),
              f'{law(sizes):.4g}',
          ]
      )
  return study_results.Table(
      caption=f'Mean forgetting / |θ|², {config.num_draws:,} draws ± one'
      f' standard error; {describe(config.problem).partition(", ")[2]}.',
      columns=[
          'Problem',
          'Exact',
          'Rotations',
          'Standard errors off',
          'Permutations',
          'Leading law',
      ],
      rows=rows,
  )


def _with_error(draws: np.ndarray) -> str:
  error = draws.std(ddof=1) / np.sqrt(len(draws))
  return f'{draws.mean():.4g} ± {error:.2g}'
