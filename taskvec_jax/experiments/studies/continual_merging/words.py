"""How sections of this study sum up seeds."""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.report import verdicts

# Of the walks whose every step is measured.
TRAININGS = {
    records.PLAIN: 'plain training',
    records.PERTURBED: 'perturbed training',
}


def by_sequence(
    found: Sequence[records.Sequence],
) -> dict[str, list[records.Sequence]]:
  """Returns name of a sequence -> its entries, one a seed."""
  groups = {}
  for one in found:
    groups.setdefault(one.sequence, []).append(one)
  return groups


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
