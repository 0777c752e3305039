"""How sections of this study sum up seeds: shares, names, lines with bands."""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments.studies import continual_merging_records as records
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts

# Of the walks whose every step is measured.
TRAININGS = {
    records.PLAIN: 'plain training',
    records.PERTURBED: 'perturbed training',
}


def names(found: Sequence[records.Sequence]) -> list[str]:
  """Returns the sequences, each once."""
  return list(dict.fromkeys(one.sequence for one in found))


def share(good: int, number: int) -> str:
  """Returns the verdict: all hold, half of them or more do in part."""
  if good == number:
    return verdicts.HOLDS
  return verdicts.IN_PART if good >= number / 2 else verdicts.DOES_NOT_HOLD


def holding(parts: Sequence[bool]) -> str:
  """Returns the verdict on parts that hold or do not."""
  return share(sum(parts), len(parts))


def compared(differences: Sequence[float]) -> str:
  """Returns the verdict on 'not below', of one difference a seed.

  Holds if no seed is below, in part if their mean is not.
  """
  if min(differences) >= 0:
    return verdicts.HOLDS
  mean = float(np.mean(differences))
  return verdicts.IN_PART if mean >= 0 else verdicts.DOES_NOT_HOLD


def series(
    label: str,
    kind: str,
    color: int,
    x: list[float],
    values: Sequence[Sequence[float]],
    *,
    band: bool = True,
) -> study_results.Series:
  """Returns the mean over seeds of `values [seeds, x]`, with its range."""
  table = np.asarray(values, float)
  return study_results.Series(
      label,
      kind,
      color,
      x,
      table.mean(0).tolist(),
      table.min(0).tolist() if band else None,
      table.max(0).tolist() if band else None,
  )
