"""What the settings of all studies are checked for, before any work.

Each raises a ValueError, one sentence with the setting's name and value.
"""

from collections.abc import Sequence
import math
from typing import Any

from taskvec_jax.tasks import load


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


def within(config: Any, interval: str, *names: str, part: str = '') -> None:
  """Refuses a number outside an interval; of a tuple, any, and none at all.

  Args:
    config: the settings, or a part of them.
    interval: as the sentence has it, '(0, 1]' for one without 0 and with 1.
    *names: fields.
    part: 'name.' of the part of the settings that `config` is.
  """
  low, high = map(float, interval[1:-1].split(','))
  for name in names:
    value = getattr(config, name)
    many = isinstance(value, tuple)
    numbers = value if many else (value,)
    if not numbers or not all(
        (low < x or x == low and interval[0] == '[')
        and (x < high or x == high and interval[-1] == ']')
        for x in numbers
    ):
      said = 'hold one number or more, all in' if many else 'lie in'
      raise ValueError(
          f'config.{part}{name} must {said} {interval}, but is {value}.'
      )


def known_tasks(names: Sequence[str], field: str) -> None:
  """Refuses what `tasks.load` has no task for; opens no file."""
  for name in names:
    if not load.is_known(name):
      raise ValueError(
          f'config.{field} names the unknown task {name!r}; known are'
          f' {load.KNOWN}.'
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
