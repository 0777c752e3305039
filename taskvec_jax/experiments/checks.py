"""What settings are checked for, before any work.

Each raises a ValueError, one sentence with the setting's name and value. Names
of fields are dotted, such as 'images.widths', and a field may be a tuple.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import math
import operator
from typing import Any

from taskvec_jax.gradients import full_batch
from taskvec_jax.tasks import load


def seeds(values: Sequence[int]) -> None:
  """Refuses no seed, and one that comes twice."""
  if not values or len(set(values)) != len(values):
    raise ValueError(
        f'config.seeds must be one seed or more, each once, but is {values}.'
    )


def at_least(config: Any, least: int, *names: str) -> None:
  """Refuses a number below `least`; of a tuple, any."""
  for name, value, numbers in _fields(config, names):
    if not all(number >= least for number in numbers):
      raise ValueError(
          f'config.{name} must be at least {least} but is {value}.'
      )


def positive(config: Any, *names: str) -> None:
  """Refuses a number that is not positive and finite; of a tuple, any."""
  for name, value, numbers in _fields(config, names):
    if not all(0 < number < math.inf for number in numbers):
      raise ValueError(
          f'config.{name} must be positive and finite but is {value}.'
      )


def within(config: Any, interval: str, *names: str) -> None:
  """Refuses a number outside an interval; of a tuple, any, and none at all.

  Args:
    config: the settings.
    interval: as the sentence has it, '(0, 1]' for one without 0 and with 1.
    *names: fields.
  """
  low, high = map(float, interval[1:-1].split(','))
  for name, value, numbers in _fields(config, names):
    if not numbers or not all(
        (low < x or x == low and interval[0] == '[')
        and (x < high or x == high and interval[-1] == ']')
        for x in numbers
    ):
      many = isinstance(value, tuple)
      said = 'hold one number or more, all in' if many else 'lie in'
      raise ValueError(f'config.{name} must {said} {interval}, but is {value}.')


def rising(
    config: Any, num: int, *names: str, above: float = -math.inf
) -> None:
  """Refuses fewer than `num` numbers, and such as do not rise from `above`."""
  for name, value, numbers in _fields(config, names):
    if (
        len(numbers) < num
        or list(numbers) != sorted(set(numbers))
        or not numbers[0] > above
    ):
      start = '' if math.isinf(above) else f' from above {above:g}'
      raise ValueError(
          f'config.{name} must rise{start}, {num} or more numbers, but is'
          f' {value}.'
      )


def known_tasks(names: Sequence[str], field: str) -> None:
  """Refuses what `tasks.load` has no task for; opens no file."""
  for name in names:
    if not load.is_known(name):
      raise ValueError(
          f'config.{field} names the unknown task {name!r}; known are'
          f' {load.KNOWN}.'
      )


def unused(config: Any, *names: str) -> None:
  """Refuses a change of the main job's fields that have no effect here.

  A setting that is silently ignored is worse than one that is refused.
  """
  plain = type(config)(config.name, config.tasks, config.model)
  for name in names:
    value, default = getattr(config, name), getattr(plain, name)
    if value != default:
      raise ValueError(
          f'config.{name} is {value!r}, but has no effect on this experiment;'
          f' leave it at {default!r}.'
      )


def one_process() -> None:
  """Refuses a run of several processes."""
  _, count = full_batch.process()
  if count > 1:
    raise ValueError(
        f'This experiment runs in one process, but this run has {count}.'
    )


def _fields(
    config: Any, names: Sequence[str]
) -> Iterator[tuple[str, Any, tuple]]:
  """Yields name, value, and the numbers of the value, of a tuple all."""
  for name in names:
    value = operator.attrgetter(name)(config)
    yield name, value, value if isinstance(value, tuple) else (value,)
