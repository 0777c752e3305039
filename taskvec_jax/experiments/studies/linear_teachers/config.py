"""The settings of the study of linear teachers, checked before any work."""

import dataclasses
import math

from taskvec_jax.experiments import checks


@dataclasses.dataclass
class LinearTeachersStudyConfig:
  """One run of finetuning between linear teachers, and of merging them."""

  name: str  # of the run
  seeds: tuple[int, ...] = (0, 1, 2)  # of teachers, inputs, hidden directions
  dimension: int = 100  # d, inputs
  num_examples: int = 10  # n, below d; the paper's figure has d/10
  width: int = 8  # h, of hidden layers
  depths: tuple[int, ...] = (1, 2, 3, 7)  # L, rising from 1
  num_draws: int = 8  # problems a seed wherever a mean is measured

  # Part 1, one layer. Eigenvalues of the inputs' covariance are i^-power.
  covariance_power: float = 0.75
  risk_examples: tuple[int, ...] = (5, 10, 20, 40)  # n
  risk_band: int = 10  # eigenvectors that a difference is spread over
  num_test: int = 20_000  # fresh inputs, for the risk by Monte Carlo

  # Parts 2 and 3: every pair of a size and a cosine is one problem a seed.
  teacher_sizes: tuple[float, ...] = (0.5, 2.0)  # |theta_T| / |theta_S|
  teacher_cosines: tuple[float, ...] = (-0.5, 0.5, 1.0)  # of the two teachers
  step_sizes: tuple[float, ...] = (0.4, 0.2, 0.1)  # halving; 1: just stable

  # Part 4. The deepest network of `depths` against one layer.
  curve_sizes: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
  curve_cosines: tuple[float, ...] = (0.95, 0.5)  # one panel each
  map_sizes: tuple[float, ...] = tuple(number / 4 for number in range(1, 13))
  map_cosines: tuple[float, ...] = tuple(
      number / 10 for number in range(-2, 11)
  )
  map_draws: int = 3  # problems a seed in each cell
  # Cells whose predicted ratio of risks is within this of 1 are not judged.
  map_margin: float = 0.1
  depth_step_size: float = 0.4  # of descent in this part

  # Part 5, merging one layer: T, coverage n/d, cosine of the differences.
  num_tasks: tuple[int, ...] = (2, 8)  # of the curves
  merge_cosines: tuple[float, ...] = (0.0, 0.5, 0.9)  # one panel each
  merge_scalings: tuple[float, ...] = tuple(number / 10 for number in range(13))
  map_tasks: int = 4  # of the map
  map_coverages: tuple[float, ...] = tuple(
      number / 20 for number in range(1, 11)
  )
  merge_map_cosines: tuple[float, ...] = tuple(
      number / 10 for number in range(11)
  )

  # Part 6, merging networks of every depth.
  deep_tasks: int = 4  # T
  deep_cosines: tuple[float, ...] = (0.0, 0.5)  # one panel each


def check(config: LinearTeachersStudyConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  checks.seeds(config.seeds)
  d, n = config.dimension, config.num_examples
  for name, counts in (
      ('num_examples', (n,)),
      ('risk_examples', config.risk_examples or (0,)),
  ):
    if not 0 < min(counts) <= max(counts) < d:
      raise ValueError(
          f'config.{name} must be from 1 to {d - 1}, below config.dimension,'
          f' but is {getattr(config, name)}.'
      )
  checks.at_least(config, 1, 'width', 'num_draws', 'map_draws', 'risk_band')
  checks.at_least(config, 2, 'num_test')
  checks.at_least(config, 0, 'map_margin')
  if 3 * config.risk_band > d:
    raise ValueError(
        f'config.risk_band is {config.risk_band}, but three bands must fit into'
        f' config.dimension, {d}.'
    )
  depths = config.depths
  if (
      len(depths) < 2
      or depths[0] != 1
      or sorted(set(depths)) != list(depths)
      or any(depth != round(depth) for depth in depths)
  ):
    raise ValueError(
        'config.depths must rise from 1 in whole numbers and hold another'
        f' depth, but are {depths}.'
    )
  _check_numbers(config)
  _check_steps(config)
  # T + 1 directions must fit.
  checks.within(config, f'[2, {d})', 'num_tasks', 'map_tasks', 'deep_tasks')


def _check_numbers(config: LinearTeachersStudyConfig) -> None:
  checks.within(config, '(0, inf)', 'teacher_sizes', 'curve_sizes', 'map_sizes')
  checks.within(
      config, '[-1, 1]', 'teacher_cosines', 'curve_cosines', 'map_cosines'
  )
  checks.within(
      config, '[0, 1]', 'merge_cosines', 'merge_map_cosines', 'deep_cosines'
  )
  checks.within(config, '(0, 1]', 'map_coverages')
  checks.within(config, '(-inf, inf)', 'merge_scalings', 'covariance_power')
  if len(set(config.merge_scalings)) < 3:
    raise ValueError(
        'config.merge_scalings must hold three numbers at least, for a'
        f' parabola, but are {config.merge_scalings}.'
    )
  counts = [round(m * config.dimension) for m in config.map_coverages]
  if not 0 < min(counts) <= max(counts) < config.dimension:
    raise ValueError(
        'config.map_coverages times config.dimension must be from 1 to'
        f' {config.dimension - 1} examples but are {counts}.'
    )


def _check_steps(config: LinearTeachersStudyConfig) -> None:
  # Where descent is stable.
  checks.within(config, '(0, 1)', 'step_sizes', 'depth_step_size')
  steps = config.step_sizes
  if len(steps) < 2 or any(
      not math.isclose(large, 2 * small)
      for large, small in zip(steps[:-1], steps[1:], strict=True)
  ):
    raise ValueError(
        'config.step_sizes must hold two at least, each half of the one'
        f' before, but are {steps}.'
    )
