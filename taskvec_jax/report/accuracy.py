"""Accuracy of merged models, and whether one epoch before merging is enough.

Every accuracy here is a mean over the tasks, one number a seed; the spread is
over seeds. Two forms are given, the accuracy itself and the share of what
finetuning gains,

  share = (model - base) / (finetuned - base),

of the same seed, with `finetuned` the converged single-task models of the same
regime. Merging after one epoch and merging converged models are compared seed
by seed, because two models of one seed share pretraining, heads and splits:

  difference = merged after 1 epoch - merged converged,

with a 95% interval of Student's t over seeds. "As good" means within one
point: the interval must lie above -1 point.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082, for the
question; the interval and its bar are this project's.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

from scipy import stats

from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts

REGIMES = ('exact', 'empirical')
PUBLISHED = 'published'  # of models that others finetuned
ALPHA_RULES = ('1/T', 'validation')
MODELS = ('base', 'finetuned', 'merged', 'multitask')

MARGIN = 0.01  # "as good" means within one point
LEAST_ROOM = 0.10  # finetuned above base on average, or nothing is compared
LEAST_GAIN = 0.01  # a share of a gain smaller than this is noise
_CONFIDENCE = 0.95


class Spread(NamedTuple):
  """A mean over seeds; the last three are None where there is one seed."""

  mean: float
  num_seeds: int
  std: float | None  # of one seed, ddof = 1
  low: float | None  # ends of the 95% interval of the mean
  high: float | None


class Row(NamedTuple):
  """One model at one number of epochs."""

  regime: str
  model: str
  epochs: int | None
  converged: bool
  alpha_rule: str
  alpha: Spread | None  # merged: the coefficient
  accuracy: Spread  # mean over the tasks
  share: Spread | None  # None where finetuning gained too little to divide by
  tasks: dict[str, Spread]  # task -> accuracy
  task_shares: dict[str, Spread | None]  # task -> share


class Comparison(NamedTuple):
  """Merged after one epoch against merged converged, paired by seed."""

  regime: str
  alpha_rule: str
  difference: Spread | None  # None where no seed has both
  room: Spread | None  # finetuned - base, converged
  verdict: str


def spread(values: Sequence[float]) -> Spread:
  """Returns the mean of one number a seed, with a 95% t-interval.

  Raises:
    ValueError: there is no value.
  """
  if not values:
    raise ValueError('A mean over 0 seeds does not exist: give one or more.')
  num_seeds = len(values)
  mean = statistics.fmean(values)
  if num_seeds == 1:
    return Spread(mean, 1, None, None, None)
  squares = math.fsum((value - mean) ** 2 for value in values)
  std = math.sqrt(squares / (num_seeds - 1))
  quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, num_seeds - 1))
  half = quantile * std / math.sqrt(num_seeds)
  return Spread(mean, num_seeds, std, mean - half, mean + half)


def spread_of_all(values: Sequence[float | None]) -> Spread | None:
  """Returns the spread; None where there is no seed, or one has no value.

  A mean over the others would mean something else.
  """
  known = [value for value in values if value is not None]
  return spread(known) if known and len(known) == len(values) else None


def over_tasks(accuracies: Mapping[str, float]) -> float:
  """Returns the mean over the tasks."""
  return statistics.fmean(accuracies.values())


def share(model: float, base: float, finetuned: float) -> float | None:
  """Returns the share of what finetuning gains; None of too small a gain."""
  gain = finetuned - base
  return (model - base) / gain if gain >= LEAST_GAIN else None


def rows(results: results_lib.Results) -> list[Row]:
  """Returns one row for each model, regime, epochs and rule for alpha."""
  groups: dict[tuple, list[results_lib.Accuracy]] = {}
  for entry in results.accuracies:
    groups.setdefault(_key(entry), []).append(entry)
  return [_row(results, groups[key]) for key in sorted(groups, key=_order)]


def comparisons(results: results_lib.Results) -> list[Comparison]:
  """Returns one comparison for each regime and rule for alpha of the run."""
  merged = [entry for entry in results.accuracies if entry.model == 'merged']
  keys = sorted(
      {
          (entry.regime, entry.alpha_rule)
          for entry in merged
          if entry.regime in REGIMES
      },
      key=lambda key: (
          _position(key[0], REGIMES),
          _position(key[1], ALPHA_RULES),
      ),
  )
  return [_comparison(results, regime, rule) for regime, rule in keys]


def verdict(difference: Spread | None, room: Spread | None) -> str:
  """Returns what the interval says of "within one point".

  'holds' if all of it lies above -1 point, 'does not hold' if all of it lies
  below, else 'undecided'; 'says nothing' if finetuned models are not at least
  10 points above base on average.
  """
  if difference is None or room is None:
    return verdicts.NOT_MEASURED
  if not room.mean >= LEAST_ROOM:
    return verdicts.SAYS_NOTHING
  if difference.low is None or difference.high is None:
    return verdicts.UNDECIDED
  if difference.low > -MARGIN:
    return verdicts.HOLDS
  if difference.high < -MARGIN:
    return verdicts.DOES_NOT_HOLD
  return verdicts.UNDECIDED


def binomial_error(accuracy: float, num_test: int) -> float:
  """Returns the standard error of an accuracy found on `num_test` images."""
  return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / num_test)


def _comparison(
    results: results_lib.Results, regime: str, rule: str
) -> Comparison:
  first, converged = {}, {}  # seed -> mean accuracy over the tasks
  for entry in results.accuracies:
    if (entry.model, entry.regime, entry.alpha_rule) == (
        'merged',
        regime,
        rule,
    ):
      if entry.converged:
        converged[entry.seed] = over_tasks(entry.accuracy)
      elif entry.epochs == 1:
        first[entry.seed] = over_tasks(entry.accuracy)
  seeds = sorted(first.keys() & converged.keys())
  difference = spread_of_all([first[seed] - converged[seed] for seed in seeds])
  base = _references(results, 'base', regime)
  finetuned = _references(results, 'finetuned', regime)
  # The room of the seeds compared, not of others that a run may have besides.
  gains = [
      over_tasks(finetuned[seed].accuracy) - over_tasks(base[seed].accuracy)
      for seed in seeds
      if seed in base and seed in finetuned
  ]
  room = spread_of_all(gains)
  return Comparison(regime, rule, difference, room, verdict(difference, room))


def _row(
    results: results_lib.Results, entries: list[results_lib.Accuracy]
) -> Row:
  """Returns the row of one model; `entries` are its seeds."""
  regime, model, epochs, converged, rule = _key(entries[0])
  base = _references(results, 'base', regime)
  finetuned = _references(results, 'finetuned', regime)
  tasks = list(entries[0].accuracy)
  shares = []  # one a seed, of the mean over the tasks
  task_shares = {task: [] for task in tasks}
  for entry in entries:
    if entry.seed in base and entry.seed in finetuned:
      low, high = base[entry.seed], finetuned[entry.seed]
      means = (over_tasks(row.accuracy) for row in (entry, low, high))
      shares.append(share(*means))
      for task in tasks:
        task_shares[task].append(
            share(*(row.accuracy[task] for row in (entry, low, high)))
        )
  return Row(
      regime=regime,
      model=model,
      epochs=epochs,
      converged=converged,
      alpha_rule=rule,
      alpha=spread_of_all([entry.alpha for entry in entries]),
      accuracy=spread([over_tasks(entry.accuracy) for entry in entries]),
      share=spread_of_all(shares),
      tasks={
          task: spread([entry.accuracy[task] for entry in entries])
          for task in tasks
      },
      task_shares={task: spread_of_all(task_shares[task]) for task in tasks},
  )


def _references(
    results: results_lib.Results, model: str, regime: str
) -> dict[int, results_lib.Accuracy]:
  """Returns seed -> the base, or the regime's converged models."""
  return {
      entry.seed: entry
      for entry in results.accuracies
      if entry.model == model
      and (model == 'base' or (entry.converged and entry.regime == regime))
  }


def _key(entry: results_lib.Accuracy) -> tuple:
  return (
      '' if entry.model == 'base' else entry.regime,
      entry.model,
      # A converged run's number of epochs differs from task to task.
      None if entry.converged else entry.epochs,
      entry.converged,
      entry.alpha_rule,
  )


def _order(key: tuple) -> tuple:
  regime, model, epochs, converged, rule = key
  return (
      -1 if regime == '' else _position(regime, REGIMES),
      _position(model, MODELS),
      _position(rule, ALPHA_RULES),
      converged,
      epochs or 0,
  )


def _position(name: str, order: tuple[str, ...]) -> int:
  return order.index(name) if name in order else len(order)
