"""The settings of the comparison of merging methods, checked before any work.

Tasks, model, seeds, heads and finetuning are the main job's, and mean the same.
Runs have a stated length instead of ending when they converge: `num_epochs` in
the exact regime and `empirical.max_epochs` in the empirical one, so that a
merge is compared with multitask training of as many epochs. A mini-batch epoch
of it is as long as the largest task's, and smaller tasks start again. Of
`analysis`, the rates and the iterations of Lanczos are used.
"""

import dataclasses

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import merging_methods

# The main job's, which have no effect here.
_UNUSED = ('alpha', 'max_epochs', 'patience', 'merge_epochs', 'alphas')

# Scalings of sums lie below 1 and want a finer grid, those of Iso reach 3.
_SCALINGS = (
    *(number / 20 for number in range(20)),
    *(number / 10 for number in range(10, 31)),
)


@dataclasses.dataclass
class MergingConfig(config_lib.Config):
  """One comparison."""

  methods: tuple[str, ...] = ()  # of `merging_methods.METHODS`; (): all
  # Scalings that the validation data choose from, the same for all methods.
  scalings: tuple[float, ...] = _SCALINGS
  numbers: merging_inputs.Numbers = dataclasses.field(
      default_factory=merging_inputs.Numbers
  )


def check(config: MergingConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  checks.unused(config, *_UNUSED)
  # The epochs that the main job merges after need not fit into these runs.
  config_lib.check(dataclasses.replace(config, merge_epochs=(1,)))
  unknown = [m for m in config.methods if m not in merging_methods.METHODS]
  if unknown:
    raise ValueError(
        f'config.methods has {unknown[0]!r}, but the methods are'
        f' {", ".join(merging_methods.METHODS)}.'
    )
  if len(set(config.methods)) != len(config.methods):
    raise ValueError(
        f'config.methods must name no method twice but is {config.methods}.'
    )
  checks.rising(config, 1, 'scalings')
  checks.within(config, '[0, inf)', 'scalings')
  published = config.published
  if published.finetuned or published.write_merged:
    raise ValueError(
        'config.published.finetuned and write_merged must be left alone here:'
        ' this run finetunes all models itself, and writes none.'
    )
  if config.empirical.task_epochs:
    raise ValueError(
        'config.empirical.task_epochs must be empty here, so that all models'
        f' are trained equally long, but is {config.empirical.task_epochs}.'
    )
  _check_numbers(config)


def num_epochs(config: MergingConfig, regime: str) -> int:
  """Returns the epochs of every run of a regime."""
  if regime == 'exact':
    return config.num_epochs
  return config.empirical.max_epochs


def _check_numbers(config: MergingConfig) -> None:
  for name in dataclasses.asdict(config.numbers):
    if name in merging_inputs.FRACTIONS:
      checks.within(config, '[0, 1]', f'numbers.{name}')
    else:
      checks.positive(config, f'numbers.{name}')
  if config.numbers.breadcrumbs_beta > config.numbers.breadcrumbs_gamma:
    raise ValueError(
        'config.numbers.breadcrumbs_beta must not exceed breadcrumbs_gamma,'
        f' but they are {config.numbers.breadcrumbs_beta} and'
        f' {config.numbers.breadcrumbs_gamma}.'
    )
  for regime in config.regimes:
    epochs = num_epochs(config, regime)
    if epochs % config.numbers.atm_epochs:
      raise ValueError(
          f'config.numbers.atm_epochs is {config.numbers.atm_epochs}, but must'
          f' divide the {epochs} epochs of the {regime} regime, so that ATM has'
          ' the budget of the others.'
      )
