"""The settings of the study of provable editing, checked before any work.

What is predicted hangs on `beta`, `lower`, `small_alpha` and `margin`, and what
counts as success on `tolerance`: all are fixed here, before a run
measures anything.
"""

import dataclasses
import math

from taskvec_jax.experiments import checks
from taskvec_jax.studies import pattern_tasks


def _grid(low: float, high: float, num: int = 21) -> tuple[float, ...]:
  # Rounded, so that 0 and 1 are hit exactly.
  step = (high - low) / (num - 1)
  return tuple(round(low + step * i, 12) for i in range(num))


@dataclasses.dataclass
class ProvableEditingStudyConfig:
  """One run of the study."""

  name: str  # of the run
  seeds: tuple[int, ...] = (0, 1, 2)  # of tokens, starts, colours and noise

  # Tokens and transformer.
  num_label: int = 5  # n*, tokens y mu of an example
  num_confusing: int = 1  # n#, tokens -y mu
  num_background: int = 4  # tokens of background patterns
  num_patterns: int = 32  # M, background patterns there are
  width: int = 32  # m, neurons
  init_scale: float = 0.02  # std of the weights of theta_0
  num_train: int = 128  # examples of a task
  num_test: int = 256  # examples of a task that scores are taken on
  learning_rate: float = 0.25  # eta of full-batch gradient descent
  num_epochs: int = 120  # k

  # Grids of the maps; alphas must hold 0.
  alphas: tuple[float, ...] = _grid(-1.0, 1.0)
  addition_scalings: tuple[float, ...] = _grid(0.0, 2.0)
  negation_scalings: tuple[float, ...] = _grid(-3.0, 1.0)
  transfer_scalings: tuple[float, ...] = _grid(-3.0, 3.0)
  # gamma_1, gamma_2 of the out-of-domain pattern of the map over (lambda_1,
  # lambda_2); the rest of the unit vector is orthogonal to both.
  gammas: tuple[float, float] = (0.8, -0.4)

  # The prediction.
  beta: float = 0.1  # interference of one task vector with another task
  lower: float = 1.0  # constant of negation's lower end -lower / alpha^2
  small_alpha: float = 0.2  # alpha > 0 that still counts as small
  margin: int = 1  # cells to either side of a predicted edge left out
  tolerance: float = 0.1  # learned: loss <= it; forgotten: loss >= 1 - it
  bar: float = 0.9  # share of the clear cells that have to agree

  # Corollaries.
  ranks: tuple[int, ...] = (1, 2, 4)  # of low-rank task vectors
  densities: tuple[float, ...] = (1.0, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
  pruned_shares: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 0.75)

  # Coloured digits.
  digits: str = 'digits'  # a packaged task of ten digits
  digit_widths: tuple[int, ...] = (64, 32)  # layers of the FFN
  noise: float = 0.25  # share of flipped labels
  redness: float = 0.85  # r of task 1
  rednesses: tuple[float, ...] = (0.05, 0.25, 0.4, 0.65, 0.95)  # r of task 2
  transfer_redness: tuple[float, float] = (0.05, 0.9)  # of T2 and of T'
  digit_base_epochs: int = 300  # on digits of random colour
  digit_epochs: int = 200  # of an expert
  digit_learning_rate: float = 0.02  # eta
  digit_scalings: tuple[float, ...] = _grid(-2.0, 2.0)
  digit_margin: float = 0.05  # accuracy that an edited model may lack


def check(config: ProvableEditingStudyConfig) -> None:
  """Raises a ValueError, one sentence, for settings that make no sense."""
  checks.seeds(config.seeds)
  if config.num_label <= config.num_confusing:
    raise ValueError(
        'config.num_label must exceed config.num_confusing but they are'
        f' {config.num_label} and {config.num_confusing}.'
    )
  checks.at_least(
      config,
      1,
      'num_confusing',
      'num_background',
      'num_patterns',
      'num_epochs',
      'digit_epochs',
      'digit_base_epochs',
      'margin',
  )
  for name in ('width', 'num_train', 'num_test'):
    value = getattr(config, name)
    if value < 2 or value % 2:
      raise ValueError(
          f'config.{name} must be even and at least 2 but is {value}.'
      )
  if 0.0 not in config.alphas or max(map(abs, config.alphas)) > 1:
    raise ValueError(
        f'config.alphas must hold 0 and lie in -1 .. 1 but are {config.alphas}.'
    )
  checks.rising(
      config,
      2,
      'alphas',
      'addition_scalings',
      'negation_scalings',
      'transfer_scalings',
      'digit_scalings',
  )
  if 1.0 not in config.digit_scalings or 0.0 not in config.digit_scalings:
    raise ValueError(
        'config.digit_scalings must hold 0 and 1 but are'
        f' {config.digit_scalings}.'
    )
  for name in ('gammas', 'transfer_redness'):
    if len(getattr(config, name)) != 2:
      raise ValueError(
          f'config.{name} must be two numbers but is {getattr(config, name)}.'
      )
  checks.within(config, '[0, 1]', 'redness', 'rednesses', 'transfer_redness')
  if config.redness in (*config.rednesses, config.transfer_redness[0]):
    raise ValueError(
        'config.rednesses and the first of config.transfer_redness must hold'
        f' other tasks than config.redness, {config.redness}, but are'
        f' {config.rednesses} and {config.transfer_redness[0]}.'
    )
  if 0.0 not in config.negation_scalings:
    raise ValueError(
        'config.negation_scalings must hold 0, the unedited model, but are'
        f' {config.negation_scalings}.'
    )
  if math.hypot(*config.gammas) > 1:
    raise ValueError(
        'config.gammas must be those of a unit vector, their squares adding up'
        f' to at most 1, but are {config.gammas}.'
    )
  checks.within(config, '(0, 0.5)', 'tolerance')
  checks.positive(
      config,
      'beta',
      'lower',
      'init_scale',
      'learning_rate',
      'digit_learning_rate',
  )
  checks.within(config, '[0, 1]', 'small_alpha')
  checks.within(config, '(0, 1]', 'bar', 'densities')
  # The share kept is drawn on a logarithmic axis.
  checks.within(config, '[0, 1)', 'pruned_shares')
  # With half of the labels flipped the shape of a digit says nothing, and half
  # is what a guess gets right.
  checks.within(config, '[0, 0.5)', 'noise', 'digit_margin')
  checks.within(config, '[1, inf)', 'digit_widths')
  full = min(config.width, pattern_tasks.dimension(sizes(config)))
  checks.within(config, f'[1, {full}]', 'ranks')
  checks.known_tasks([config.digits], 'digits')


def sizes(config: ProvableEditingStudyConfig) -> pattern_tasks.Sizes:
  """Returns how many tokens of which kind an example has."""
  return pattern_tasks.Sizes(
      config.num_label,
      config.num_confusing,
      config.num_background,
      config.num_patterns,
  )
