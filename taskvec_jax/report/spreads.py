"""Numbers over seeds in words, and what an interval says of a sign."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import statistics
from typing import Any

from taskvec_jax.report import accuracy
from taskvec_jax.report import verdicts

HIGHER = 'higher, in points'
_ROUNDING = 1e-12


def points(spread: accuracy.Spread | None, *, digits: int = 1) -> str:
  """Returns '81.2 ± 0.4' of an accuracy in 0..1, in per cent."""
  return '-' if spread is None else plain(spread, scale=100, digits=digits)


def plain(
    spread: accuracy.Spread, *, scale: float = 1.0, digits: int = 2
) -> str:
  """Returns mean ± one standard deviation; the mean alone of one seed."""
  text = f'{scale * spread.mean:.{digits}f}'
  # One seed, or all seeds alike but for rounding: nothing to add.
  if spread.std is not None and spread.std > _ROUNDING:
    text += f' ± {scale * spread.std:.{digits}f}'
  return text


def difference(spread: accuracy.Spread) -> str:
  """Returns '+9.7 [+7.9, +11.5]', points with the 95% interval over seeds."""
  return signed(spread, scale=100, digits=1)


def signed(
    spread: accuracy.Spread, *, scale: float = 1.0, digits: int = 2
) -> str:
  """Returns a mean with its sign and its 95% interval over seeds."""
  form = f'+.{digits}f'
  text = format(scale * spread.mean, form)
  if spread.low is None or spread.high is None:
    return text + ' (one seed)'
  low, high = scale * spread.low, scale * spread.high
  return text + f' [{low:{form}}, {high:{form}}]'


def paired(
    first: Mapping[int, float], second: Mapping[int, float]
) -> accuracy.Spread | None:
  """Returns the spread of `first - second`, seed by seed; None without any."""
  seeds = sorted(first.keys() & second.keys())
  return accuracy.spread_of_all([first[seed] - second[seed] for seed in seeds])


def above(spread: accuracy.Spread | None, bar: float = 0.0) -> str:
  """Returns the verdict on 'above the bar': the whole interval decides."""
  if spread is None:
    return verdicts.NOT_MEASURED
  if spread.low is None or spread.high is None:
    return verdicts.UNDECIDED
  if spread.low > bar:
    return verdicts.HOLDS
  return verdicts.DOES_NOT_HOLD if spread.high < bar else verdicts.UNDECIDED


def per_cent(values: Mapping[int, float]) -> str:
  """Returns '81.2', the mean over seeds of an accuracy in 0..1."""
  return f'{100 * statistics.fmean(values.values()):.1f}'


def higher(
    where: str,
    first: Mapping[int, float],
    second: Mapping[int, float],
    note: str,
) -> verdicts.Finding:
  """Returns the finding on 'first is higher than second', seed by seed."""
  found = paired(first, second)
  if found is None:
    return verdicts.not_measured(where, HIGHER)
  return verdicts.Finding(
      where,
      HIGHER,
      f'{difference(found)}: {per_cent(first)} against {per_cent(second)} %',
      above(found),
      note,
  )


def by_seed(
    entries: Sequence[Any], value_fn: Callable[[Any], float]
) -> dict[int, float]:
  """Returns seed -> value of entries that have a seed, one entry each."""
  return {entry.seed: value_fn(entry) for entry in entries}
