"""The words for what a measurement says of a claim."""

import dataclasses

HOLDS = 'holds'
IN_PART = 'holds in part'
DOES_NOT_HOLD = 'does not hold'
UNDECIDED = 'undecided'  # measured, but the interval holds both answers
SAYS_NOTHING = 'says nothing'  # measured where the question has no answer
NOT_MEASURED = 'not measured'


@dataclasses.dataclass
class Finding:
  """What one part of a run says of one claim."""

  where: str  # the part: a dtype, a size, a regime, a rule for alpha
  predicted: str  # short: a cell of a table
  measured: str  # short
  verdict: str  # one of the words above
  note: str  # sentences: the criterion, and what to keep in mind


def of(holds: bool) -> str:
  """Returns the word for a criterion that is met or not."""
  return HOLDS if holds else DOES_NOT_HOLD


def not_measured(where: str, predicted: str) -> Finding:
  """Returns the finding of a run that left `where` out."""
  return Finding(where, predicted, '-', NOT_MEASURED, 'This run left it out.')


def between(values: list[float], form: str = '{:.2f}') -> str:
  """Returns 'lowest to highest', or one number if both read the same."""
  low, high = form.format(min(values)), form.format(max(values))
  return low if low == high else f'{low} to {high}'


def near(values: list[float], target: float, bar: float) -> bool:
  """Returns whether all values are within `bar` of `target`; NaN is not."""
  return all(abs(value - target) <= bar for value in values)
