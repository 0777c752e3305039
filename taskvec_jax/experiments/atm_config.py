"""The settings of an ATM run, every one of them, checked before any work.

Tasks, model, heads, pretraining and the rule of the mini-batches are those of
the main job.
"""

import dataclasses
import re

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib

# The main job's, which have no effect here; `empirical.max_epochs` and
# `empirical.task_epochs` neither, as the splits say how long is finetuned.
_UNUSED = (
    'regimes',
    'num_epochs',
    'alpha',
    'max_epochs',
    'patience',
    'merge_epochs',
    'alphas',
    'checkpoint_seconds',
    'published',
    'analysis',
)


@dataclasses.dataclass
class ATMConfig(config_lib.Config):
  """One run of alternating tuning and merging."""

  # ROUNDSxEPOCHS, all of one budget of epochs a task; the first, of the most
  # rounds, is what other trainings are compared with, the last is one round.
  splits: tuple[str, ...] = ('10x1', '5x2', '2x5', '1x10')
  scaling: float = 1.0  # alpha: the mean task vector is multiplied by it
  ties_density: float = 0.2  # of the rounds that merge by TIES; 0: left out
  posthoc_rounds: int = 10  # of one epoch on validation data; 0: left out
  # Steps of the multitask descent that sends as little as merging does; the
  # best on validation data is shown. (): left out.
  descent_rates: tuple[float, ...] = (0.1, 0.2, 0.5)
  identity_rounds: int = 5  # full-batch single-epoch rounds; 0: left out
  identity_examples: int = 40  # training images a task of the same; 0: all


def splits(config: ATMConfig) -> list[tuple[int, int]]:
  """Returns `(rounds, epochs)` of every split."""
  found = []
  for entry in config.splits:
    numbers = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', entry)
    if not numbers:
      raise ValueError(
          'config.splits must hold ROUNDSxEPOCHS, such as 10x1, but has'
          f' {entry!r}.'
      )
    found.append((int(numbers[1]), int(numbers[2])))
  return found


def budget(config: ATMConfig) -> int:
  """Returns the epochs over every task's images that a split spends."""
  (rounds, epochs), *_ = splits(config)
  return rounds * epochs


def check(config: ATMConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  config_lib.check(config)
  checks.unused(config, *_UNUSED)
  checks.positive(config, 'scaling', 'descent_rates')
  checks.within(config, '[0, 1]', 'ties_density')
  checks.at_least(
      config, 0, 'posthoc_rounds', 'identity_rounds', 'identity_examples'
  )
  if config.empirical.task_epochs:
    raise ValueError(
        'config.empirical.task_epochs must be empty here: config.splits say how'
        ' long every task is finetuned.'
    )
  if not config.splits:
    raise ValueError('config.splits must hold one ROUNDSxEPOCHS at least.')
  products = {
      entry: rounds * epochs
      for entry, (rounds, epochs) in zip(
          config.splits, splits(config), strict=True
      )
  }
  if len(set(products.values())) > 1:
    said = ', '.join(f'{entry} of {n}' for entry, n in products.items())
    raise ValueError(
        'config.splits must spend one budget of epochs, rounds times epochs,'
        f' but they spend different ones: {said}.'
    )
  rounds = [number for number, _ in splits(config)]
  if sorted(set(rounds), reverse=True) != rounds:
    raise ValueError(
        'config.splits must go from many rounds to few, each once, but are'
        f' {config.splits}.'
    )
  if config.posthoc_rounds and rounds[-1] != 1:
    raise ValueError(
        'config.splits must end with one round, the merge that post-hoc rounds'
        f' start from, but ends with {config.splits[-1]!r}; add'
        f" '1x{budget(config)}' or set config.posthoc_rounds to 0."
    )
