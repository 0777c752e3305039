"""What a run says of linear response, this project's own addition.

  claim 3   Delta_k predicts the gap at practical step sizes             (3.7)

Three parts: the slope of what it leaves at small steps; how far up in
`eta lambda_max` it leaves less than 15% of the gap, beside how far the
second-order term does; and whether the a posteriori indicator ranks the cells
of the map as the true error does. NaN is on the bad side of every test.

Source: derived for this project, docs/theory.md (3.7).
"""

from typing import Any

from scipy import stats

from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts

SLOPE, SLOPE_BAR = 3.0, 0.07
USABLE = 0.15  # a prediction that leaves less of the gap than this is of use
PRACTICAL = 1.0  # eta lambda_max: half of the edge of stability
EDGE_OF_STABILITY = 2.0  # eta lambda_max, beyond it descent itself diverges
CORRELATION_BAR = 0.8


def response(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 3: slope at small steps, reach, and the indicator."""
  return [
      _slope(results),
      _reach(results.response_map),
      _indicator(results.response_map),
  ]


def reach(
    response_map: results_lib.ResponseMap, left: list[list[float | None]]
) -> dict[int, float]:
  """Returns epochs -> eta lambda_max up to which less than 15% is left.

  0 where even the smallest learning rate leaves more. One epoch is left out:
  there is no gap to predict.
  """
  order = sorted(
      range(len(response_map.learning_rates)),
      key=lambda index: response_map.learning_rates[index],
  )
  reached = {}
  for column, epochs in enumerate(response_map.epochs):
    if epochs < 2:
      continue
    reached[epochs] = 0.0
    for row in order:
      value = left[row][column]
      if value is None or not value < USABLE:
        break
      rate = response_map.learning_rates[row]
      reached[epochs] = rate * response_map.lambda_max
  return reached


def _slope(results: results_lib.Results) -> verdicts.Finding:
  predicted = f'{SLOPE:.2f}±{SLOPE_BAR:g}'
  if not results.rates:
    return verdicts.not_measured('small steps', predicted)
  slopes = [run.response_slope for run in results.rates]
  within = verdicts.near(slopes, SLOPE, SLOPE_BAR)
  return verdicts.Finding(
      'small steps',
      predicted,
      f'slope {verdicts.between(slopes)}',
      verdicts.of(within),
      'The slope of what linear response leaves: its expansion begins with'
      ' the same η²C, so small steps cannot tell the two apart.',
  )


def _reach(response_map: results_lib.ResponseMap) -> verdicts.Finding:
  predicted = f'< {USABLE:.0%} left at ηλ ≤ {PRACTICAL:g}'
  by_response = reach(response_map, response_map.left_by_response)
  by_correction = reach(response_map, response_map.left_by_correction)
  rates_seen = [
      rate * response_map.lambda_max for rate in response_map.learning_rates
  ]
  if not by_response or not rates_seen:
    return verdicts.not_measured('larger steps', predicted)
  # The bar is at the largest step that the map has up to the practical one.
  bar = max((rate for rate in rates_seen if rate <= PRACTICAL), default=0.0)
  last = max(by_response)
  if bar < PRACTICAL / 2:  # a map without practical steps
    verdict = verdicts.SAYS_NOTHING
  elif all(value >= bar for value in by_response.values()):
    verdict = verdicts.HOLDS
  elif by_response[last] > by_correction[last]:
    verdict = verdicts.IN_PART
  else:
    verdict = verdicts.DOES_NOT_HOLD
  return verdicts.Finding(
      'larger steps',
      predicted,
      f'k = {last}: {_up_to(by_response[last])}'
      f' (η²C: {_up_to(by_correction[last])})',
      verdict,
      f'The largest step of the map up to which less than {USABLE:.0%} of the'
      f' gap is left. Measured shows the most epochs, k = {last}, and in'
      ' brackets the same for η²C. It holds if every k reaches ηλ ='
      f' {PRACTICAL:g}, half of the edge of stability, and holds in part if at'
      ' the most epochs linear response still reaches further than η²C.',
  )


def _indicator(response_map: results_lib.ResponseMap) -> verdicts.Finding:
  predicted = f'rank corr. ≥ {CORRELATION_BAR:g}'
  pairs = [
      (indicator, left)
      for row, others in zip(
          response_map.indicator, response_map.left_by_response, strict=True
      )
      for epochs, indicator, left in zip(
          response_map.epochs, row, others, strict=True
      )
      if epochs >= 2 and indicator is not None and left is not None
  ]
  if len({pair[0] for pair in pairs}) < 3 or len({p[1] for p in pairs}) < 3:
    return verdicts.not_measured('indicator', predicted)
  indicators, lefts = zip(*pairs, strict=True)
  correlation: Any = stats.spearmanr(indicators, lefts)[0]
  trusted = [left for indicator, left in pairs if indicator < USABLE]
  good = sum(left < USABLE for left in trusted)
  if correlation >= CORRELATION_BAR:
    verdict = verdicts.HOLDS
  elif correlation >= CORRELATION_BAR / 2:
    verdict = verdicts.IN_PART
  else:
    verdict = verdicts.DOES_NOT_HOLD
  return verdicts.Finding(
      'indicator',
      predicted,
      f'{correlation:.2f} over {len(pairs)} cells',
      verdict,
      'Spearman’s correlation, over the cells of the map, of the indicator'
      f' with what linear response leaves. Of the {len(trusted)} cells with an'
      f' indicator below {USABLE:.0%},'
      f' linear response leaves less than {USABLE:.0%} of the gap in {good}.'
      f' It holds in part from a correlation of {CORRELATION_BAR / 2:g} on.',
  )


def _up_to(value: float) -> str:
  return f'ηλ ≤ {value:.2g}' if value else 'nowhere'
