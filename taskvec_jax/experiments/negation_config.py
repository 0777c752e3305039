"""The settings of a negation run, every one of them, checked before any work.

Tasks, model, heads, pretraining, `patience`, `alphas` and the rule and length
of the mini-batches are those of the main job.
"""

from collections.abc import Collection
import dataclasses
import math

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib

_UNUSED = (  # of the main job's fields; they have no effect here
    'regimes',
    'learning_rate',
    'num_epochs',
    'alpha',
    'max_epochs',
    'published',
    'analysis',
)


@dataclasses.dataclass
class NegationConfig(config_lib.Config):
  """One run of forgetting, disentanglement and analogies."""

  merge_epochs: tuple[int, ...] = (1,)  # parameters kept beside converged ones
  targets: tuple[str, ...] = ()  # the tasks that are forgotten; (): each
  # Candidates for lambda, what a task vector is multiplied by before it is
  # subtracted; rising from 0.
  scalings: tuple[float, ...] = tuple(number / 10 for number in range(31))
  # The control tasks must keep this share of the start's mean accuracy, on
  # validation data.
  control: float = 0.95
  pair: tuple[str, ...] = ()  # of the disentanglement map; (): the first two
  # Both coefficients of the map; (): no map.
  map_scalings: tuple[float, ...] = tuple(number / 4 for number in range(-8, 9))
  map_images: int = 500  # test images a task of the map; 0: all of the run's
  # A and C of the analogy, B and D being their images inverted; (): none.
  analogy: tuple[str, ...] = ()


def check(config: NegationConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  config_lib.check(config)
  checks.unused(config, *_UNUSED)
  if len(config.tasks) < 2:
    raise ValueError(
        'config.tasks must name two tasks at least, one to forget and one to'
        f' keep, but is {config.tasks}.'
    )
  scalings = config.scalings
  if (
      not scalings
      or scalings[0] != 0
      or sorted(set(scalings)) != list(scalings)
  ):
    raise ValueError(
        'config.scalings must rise from 0, the model itself, but are'
        f' {scalings}.'
    )
  for name in ('scalings', 'map_scalings'):
    values = getattr(config, name)
    if not all(math.isfinite(value) for value in values):
      raise ValueError(f'config.{name} must be finite but are {values}.')
  checks.within(config, '[0, 1]', 'control')
  checks.at_least(config, 0, 'map_images')
  for name in ('pair', 'analogy'):
    value = getattr(config, name)
    if value and (len(value) != 2 or value[0] == value[1]):
      raise ValueError(
          f'config.{name} must name two different tasks but is {value}.'
      )


def check_tasks(config: NegationConfig, tasks: Collection[str]) -> None:
  """Raises a ValueError for a target, pair or analogy that is no task.

  Args:
    config: all settings.
    tasks: names of the tasks, once they are loaded: a folder's is its last
      part.
  """
  for name in ('targets', 'pair', 'analogy'):
    for task in getattr(config, name):
      if task not in tasks:
        raise ValueError(
            f'config.{name} has {task!r}, but the tasks of this run are'
            f' {", ".join(tasks)}.'
        )
