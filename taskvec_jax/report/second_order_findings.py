"""What a run says of equality, rates and the ladder.

  claim 1   theta_TA^(1) = theta_MT^(1), to rounding                      (2.2)
  claim 2   the gap is eta^2 C_k + O(eta^3): slopes 2 and 3       (3.3), (3.5)
  claim 4   |C_k| and the gap lie below what can be proven  (4.1), (4.2), (4.6)

A number that is not a number makes a claim fail: every test below is written
so that NaN is on the bad side.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082; (4.6)
is derived in docs/theory.md.
"""

import itertools
import math

from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts

ULPS_BAR = 4.0  # for coefficients that add up to 1 or less
GAP_SLOPE, GAP_SLOPE_BAR = 2.0, 0.05
RESIDUAL_SLOPE, RESIDUAL_SLOPE_BAR = 3.0, 0.07
RATIO_BARS = {'R2': 300.0, 'R3': 30.0}  # times |C_k|
_LANCZOS_TOLERANCE = 0.01  # of an estimate from below
_ROUNDING = 1e-6


def equality(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 1, one finding a dtype."""
  bar = _ulps_bar(results.setting)
  predicted = f'≤ {bar:g} ulps'
  findings = []
  for dtype in ('float32', 'float64'):
    runs = [run for run in results.equality if run.dtype == dtype]
    if not runs:
      findings.append(verdicts.not_measured(dtype, predicted))
      continue
    # NaN first, so that max finds it.
    worst = max(
        runs,
        key=lambda run: (math.isnan(run.largest_ulps), run.largest_ulps),
    )
    moved = all(run.step_norm > 0 for run in runs)
    within = all(run.largest_ulps <= bar for run in runs)
    if not moved:
      verdict = verdicts.SAYS_NOTHING
    else:
      verdict = verdicts.of(within)
    findings.append(
        verdicts.Finding(
            dtype,
            predicted,
            f'{worst.largest_ulps:.2f} ulps, {_seeds(len(runs))}',
            verdict,
            f'The largest difference sits in {worst.largest_leaf} (seed '
            f'{worst.seed}); as a vector the gap is '
            f'{worst.gap_norm / worst.step_norm:.1e} of the step.'
            if moved
            else 'The parameters did not move, so equality says nothing.',
        )
    )
  return findings


def rates(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 2: for full batch and mini-batches."""
  predicted = (
      f'{GAP_SLOPE:.2f}±{GAP_SLOPE_BAR:g}, '
      f'{RESIDUAL_SLOPE:.2f}±{RESIDUAL_SLOPE_BAR:g}'
  )
  findings = []
  for batches in ('full batch', 'mini-batches'):
    runs = [run for run in results.rates if run.batches == batches]
    if not runs:
      findings.append(verdicts.not_measured(batches, predicted))
      continue
    gap = [run.gap_slope for run in runs]
    left = [run.correction_slope for run in runs]
    within = verdicts.near(gap, GAP_SLOPE, GAP_SLOPE_BAR) and verdicts.near(
        left, RESIDUAL_SLOPE, RESIDUAL_SLOPE_BAR
    )
    findings.append(
        verdicts.Finding(
            batches,
            predicted,
            f'slopes {verdicts.between(gap)}, {verdicts.between(left)}',
            verdicts.of(within),
            f'Fitted at {_epochs(runs)} in float64 on at most '
            f'{max(run.num_examples for run in runs)} images a task. The first'
            ' slope is that of the gap, the second that of what η²C leaves.',
        )
    )
  return findings


def ladder(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 4: the rungs, and the certificates of the gap itself."""
  return [_rungs(results), _certificates(results)]


def out_of_order(ladder: results_lib.Ladder) -> list[str]:
  """Returns 'R2 < R3' for each rung that is not at least those after it."""
  broken = []
  for upper, lower in itertools.combinations(ladder.rungs, 2):
    if {upper.name, lower.name} == {'R2', 'R2K'}:
      continue  # neither is always the smaller
    estimated = 'estimate' in (upper.kind, lower.kind)
    tolerance = _LANCZOS_TOLERANCE if estimated else _ROUNDING
    if not _size(upper) >= _size(lower) * (1 - tolerance):
      broken.append(f'{upper.name} < {lower.name}')
  return broken


def _size(rung: results_lib.Rung) -> float:
  return math.inf if rung.value is None else rung.value


def _rungs(results: results_lib.Results) -> verdicts.Finding:
  where, predicted = 'ladder', 'each rung ≥ the next'
  ladders = [one for one in results.ladders if len(one.rungs) > 1]
  if not ladders:
    return verdicts.not_measured(where, predicted)
  broken = [
      f'k = {one.num_epochs}: {pair}'
      for one in ladders
      for pair in out_of_order(one)
  ]
  ratios: dict[str, list[float]] = {}
  for one in ladders:
    for rung in one.rungs[:-1]:
      ratios.setdefault(rung.name, []).append(
          math.inf if rung.ratio is None else rung.ratio
      )
  loose = [
      f'{name} is above its bar of {RATIO_BARS[name]:g}'
      for name, values in ratios.items()
      if name in RATIO_BARS
      and not all(value <= RATIO_BARS[name] for value in values)
  ]
  proven = any(r.kind == 'certified' for one in ladders for r in one.rungs)
  barred = [name for name in ratios if name in RATIO_BARS]
  measured = ', '.join(
      f'{name} {verdicts.between(ratios[name], "{:.3g}")}×'
      for name in barred or list(ratios)[-2:]
  )
  if broken:
    verdict, reason = verdicts.DOES_NOT_HOLD, 'Out of order: '
    reason += '; '.join(broken) + '. This is a bug, not a finding.'
  elif not proven:
    verdict = verdicts.SAYS_NOTHING
    reason = (
        'No proven bound is known here for this architecture: what is left'
        ' are estimates and |C| itself, and they are in order.'
    )
  elif loose:
    verdict, reason = verdicts.IN_PART, '; '.join(loose) + '.'
  else:
    verdict = verdicts.HOLDS
    reason = 'Every rung is at least the one below it.'
  return verdicts.Finding(
      where,
      predicted,
      measured,
      verdict,
      f'{reason} Ratios to |C| at {_epochs(ladders)}; the bars are '
      + ' and '.join(f'{n} ≤ {bar:g}' for n, bar in RATIO_BARS.items())
      + '.',
  )


def _certificates(results: results_lib.Results) -> verdicts.Finding:
  where, predicted = 'certificates', '(4.2) ≥ (4.6) ≥ gap'
  pairs = [(one, c) for one in results.ladders for c in one.certificates]
  known = [(one, c) for one, c in pairs if c.value is not None]
  if not pairs:
    return verdicts.not_measured(where, predicted)
  problems = [
      f'{c.name} is below the gap at k = {one.num_epochs}'
      for one, c in known
      if not (c.value or 0.0) >= c.gap
  ]
  for one in results.ladders:
    values = {c.name: c.value for c in one.certificates}
    plain, signed = values.get('(4.2)'), values.get('(4.6)')
    # A bound that overflows is above everything.
    if plain is not None and (
        ('(4.6)' in values and signed is None)
        or (signed is not None and not signed <= plain * (1 + _ROUNDING))
    ):
      problems.append(f'(4.6) is above (4.2) at k = {one.num_epochs}')
  if not known:
    verdict, measured = verdicts.SAYS_NOTHING, 'overflow'
  else:
    verdict = verdicts.DOES_NOT_HOLD if problems else verdicts.HOLDS
    names = sorted({c.name for _, c in known})
    measured = ', '.join(
        f'{name} '
        + verdicts.between(
            [
                c.ratio
                for _, c in known
                if c.name == name and c.ratio is not None
            ]
            or [math.inf],
            '{:.0e}',
        )
        + '×'
        for name in names
    )
  overflows = len(pairs) - len(known)
  return verdicts.Finding(
      where,
      predicted,
      measured,
      verdict,
      ('; '.join(problems) + '. ' if problems else '')
      + 'Proven bounds of the gap at a finite step, as multiples of the'
      f' measured gap, at {_epochs(results.ladders)}.'
      + (f' {overflows} of {len(pairs)} overflow.' if overflows else ''),
  )


def _ulps_bar(setting: results_lib.Setting) -> float:
  """Returns the bar of claim 1, which grows with large coefficients.

  Each theta_t is rounded by up to eps |theta_t| / 2, and alpha_t multiplies
  that; the unit has alpha_t tau_t, not alpha_t theta_t.
  """
  return ULPS_BAR * max(1.0, len(setting.tasks) * abs(setting.scaling))


def _seeds(count: int) -> str:
  return '1 seed' if count == 1 else f'{count} seeds'


def _epochs(runs: list[results_lib.Rates] | list[results_lib.Ladder]) -> str:
  epochs = sorted({run.num_epochs for run in runs})
  return 'k = ' + ', '.join(str(number) for number in epochs)
