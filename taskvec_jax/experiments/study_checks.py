"""What the settings of all studies are checked for, before any work.

Each raises a ValueError, one sentence with the setting's name and value.
"""

from collections.abc import Sequence
import math
from typing import Any


def seeds(values: Sequence[int]) -> None:
  """Refuses no seed, and one that comes twice."""
  if not values or len(set(values)) != len(values):
    raise ValueError(
        f'config.seeds must be one seed or more, each once, but is {values}.'
    )


def at_least(config: Any, least: int, *names: str, part: str = '') -> None:
  """Refuses a number below `least`.

  Args:
    config: the settings, or a part of them.
    least: of every number.
    *names: fields.
    part: 'name.' of the part of the settings that `config` is.
  """
  for name in names:
    value = getattr(config, name)
    if not value >= least:
      raise ValueError(
          f'config.{part}{name} must be at least {least} but is {value}.'
      )


def positive(config: Any, *names: str, part: str = '') -> None:
  """Refuses a number that is not positive and finite."""
  for name in names:
    value = getattr(config, name)
    if not (value > 0 and math.isfinite(value)):
      raise ValueError(
          f'config.{part}{name} must be positive and finite but is {value}.'
      )


def rising(
    config: Any, num: int, *names: str, above: float = -math.inf, part: str = ''
) -> None:
  """Refuses fewer than `num` numbers, and such as do not rise from `above`."""
  for name in names:
    values = getattr(config, name)
    if (
        len(values) < num
        or list(values) != sorted(set(values))
        or not values[0] > above
    ):
      start = '' if math.isinf(above) else f' from above {above:g}'
      raise ValueError(
          f'config.{part}{name} must rise{start}, {num} or more numbers, but is'
          f' {values}.'
      )
