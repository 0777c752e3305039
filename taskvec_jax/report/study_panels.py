"""Series and cells of a study's panels, from arrays.

A band says how far apart the numbers at one x are: from the lowest to the
highest, one standard error of their mean, or the middle 90 % of all draws.
"""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

from taskvec_jax.report import study_results


def line(
    label: str, kind: str, color: int, x: Iterable, y: Iterable, **band: Any
) -> study_results.Series:
  """Returns a series of numbers of any kind, None where there is no value.

  Args:
    label: of the legend.
    kind: of `study_results.KINDS`.
    color: 0 .. 7.
    x: `[X]`.
    y: `[X]`.
    **band: `low` and `high`, `[X]`, or nothing.
  """
  ends = {name: _floats(values) for name, values in band.items()}
  return study_results.Series(
      label, kind, color, _numbers(x), _floats(y), **ends
  )


def predicted(
    label: str, color: int, x: Iterable, y: Iterable
) -> study_results.Series:
  """Returns a line by formula."""
  return line(label, study_results.PREDICTED, color, x, y)


def reference(
    label: str, color: int, x: Iterable, y: Iterable
) -> study_results.Series:
  """Returns a line that others are compared with."""
  return line(label, study_results.REFERENCE, color, x, y)


def ranged(
    label: str,
    color: int,
    x: Iterable,
    values: Sequence[Any] | np.ndarray,
    kind: str = study_results.MEASURED,
) -> study_results.Series:
  """Returns the mean of `values [X, seeds]`, from the lowest to the highest."""
  table = np.asarray(values, float)
  low, high = table.min(axis=1), table.max(axis=1)
  return line(label, kind, color, x, table.mean(axis=1), low=low, high=high)


def with_errors(
    label: str, color: int, x: Iterable, values: np.ndarray, *, num: int = 1
) -> study_results.Series:
  """Returns the mean of `values [X, draws]` ± `num` standard errors."""
  mean, error = means(values)
  return line(
      label,
      study_results.MEASURED,
      color,
      x,
      mean,
      low=mean - num * error,
      high=mean + num * error,
  )


def drawn(
    label: str, color: int, x: Iterable, rows: Iterable[Any]
) -> study_results.Series:
  """Returns the mean of each row, of any shape, and where 90 % of it lies."""
  pooled = [np.ravel(row) for row in rows]
  low, high = ([np.quantile(one, q) for one in pooled] for q in (0.05, 0.95))
  mean = [np.mean(one) for one in pooled]
  return line(label, study_results.MEASURED, color, x, mean, low=low, high=high)


def means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard error over the last axis of `values [X, draw]`.

  One draw has no spread; its standard error is given as 0.
  """
  num_draws = values.shape[-1]
  errors = np.zeros(len(values))
  if num_draws > 1:
    errors = np.std(values, axis=-1, ddof=1) / np.sqrt(num_draws)
  return np.mean(values, axis=-1), errors


def cells(
    title: str,
    x: Iterable[float],
    y: Iterable[float],
    values: Any,
    predicted: np.ndarray | None = None,
) -> study_results.MapPanel:
  """Returns one heat map of `values [Y, X]`, with the edge of a region."""
  table = np.asarray(values, float).tolist()
  region = None if predicted is None else predicted.tolist()
  return study_results.MapPanel(title, _numbers(x), _numbers(y), table, region)


def _floats(values: Iterable) -> list[float | None]:
  return [None if value is None else float(value) for value in values]


def _numbers(values: Iterable) -> list[float]:
  return [float(value) for value in values]
