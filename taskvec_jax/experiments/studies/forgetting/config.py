"""The settings of the study of forgetting, every one, checked before any work.

Sizes, numbers of draws, tolerances and criteria are fixed here, before
anything is measured.
"""

import dataclasses

from taskvec_jax.experiments import checks
from taskvec_jax.models import ffn
from taskvec_jax.studies import forgetting


@dataclasses.dataclass
class Sizes:
  """One regression problem."""

  num_features: int = 2000  # p
  num_examples: int = 100  # n
  num_latent: int = 20  # d
  gamma: float = 1.0  # strength of the hidden features


@dataclasses.dataclass
class Images:
  """Permuted images and the network that meets them."""

  task: str = 'mnist5k'  # a packaged task
  image_size: int = 28  # pixels a side
  num_tasks: int = 10  # orders of the pixels, the natural one included
  max_train: int = 300  # training images, the same for every task; 0: all
  max_test: int = 500  # test images, and validation images; 0: all
  widths: tuple[int, ...] = (16, 64, 256)  # of both hidden layers, rising
  activation: str = 'tanh'
  learning_rate: float = 0.02
  num_epochs: int = 80  # steps of full-batch gradient descent a task
  # Candidates for the one coefficient of all task vectors, rising.
  scalings: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)


@dataclasses.dataclass
class ForgettingStudyConfig:
  """One run of the study."""

  name: str = 'forgetting'
  seeds: tuple[int, ...] = (0, 1, 2)  # of problems, draws and initial weights
  # Where the Monte Carlo varies p, and the sweeps one number each.
  problem: Sizes = dataclasses.field(default_factory=Sizes)
  features: tuple[int, ...] = (150, 200, 300, 400, 800)  # p of the Monte Carlo
  num_draws: int = 2000  # rotations, and permutations, a seed and p
  sweep_features: tuple[int, ...] = (150, 200, 400, 800, 1700, 2000, 4000)
  sweep_examples: tuple[int, ...] = (20, 50, 80, 100, 117, 200, 400)
  sweep_latent: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 200)
  sweep_gammas: tuple[float, ...] = (0.0002, 0.001, 0.01, 0.1, 1.0, 10.0)
  sweep_draws: int = 60  # rotations a seed and point of a sweep
  # Of gradient descent, and of task vectors as functions of its steps.
  descent: Sizes = dataclasses.field(
      default_factory=lambda: Sizes(
          num_features=400, num_examples=40, num_latent=8
      )
  )
  tolerance: float = 1e-6  # relative distance to the solution of least norm
  arithmetic_draws: int = 400  # rotations a seed
  images: Images = dataclasses.field(default_factory=Images)


def check(config: ForgettingStudyConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  checks.seeds(config.seeds)
  checks.rising(
      config,
      1,
      'features',
      'sweep_features',
      'sweep_examples',
      'sweep_latent',
      'sweep_gammas',
      above=0,
  )
  # A standard error needs two.
  checks.at_least(config, 2, 'num_draws', 'sweep_draws', 'arithmetic_draws')
  checks.within(config, '(1e-12, 1)', 'tolerance')
  for field, problems in named_sizes(config).items():
    for sizes in problems:
      try:
        forgetting.check_sizes(**dataclasses.asdict(sizes))
      except ValueError as error:
        raise ValueError(f'config.{field} does not fit: {error}') from error
  checks.known_tasks([config.images.task], 'images.task')
  ffn.check_activation(config.images.activation)
  # The narrowest network is compared with the widest.
  checks.rising(config, 2, 'images.widths', above=0)
  checks.rising(config, 1, 'images.scalings', above=0)
  # Of one task nothing is forgotten.
  checks.at_least(config, 2, 'images.num_tasks')
  checks.at_least(config, 1, 'images.image_size', 'images.num_epochs')
  checks.at_least(config, 0, 'images.max_train', 'images.max_test')
  checks.positive(config, 'images.learning_rate')


def sweeps(config: ForgettingStudyConfig) -> dict[str, list[Sizes]]:
  """Returns name of the number that varies -> the problems of its sweep."""
  return {
      field: [
          dataclasses.replace(config.problem, **{field: value})
          for value in values
      ]
      for field, values in (
          ('num_features', config.sweep_features),
          ('num_examples', config.sweep_examples),
          ('num_latent', config.sweep_latent),
          ('gamma', config.sweep_gammas),
      )
  }


def monte_carlo(config: ForgettingStudyConfig) -> list[Sizes]:
  """Returns the problems on which the exact mean is checked."""
  return [
      dataclasses.replace(config.problem, num_features=p)
      for p in config.features
  ]


def named_sizes(config: ForgettingStudyConfig) -> dict[str, list[Sizes]]:
  """Returns the field that asks for them -> problems, of all the run."""
  swept = dict(zip(_SWEEPS, sweeps(config).values(), strict=True))
  return {'features': monte_carlo(config), **swept, 'descent': [config.descent]}


# In the order of `sweeps`.
_SWEEPS = ('sweep_features', 'sweep_examples', 'sweep_latent', 'sweep_gammas')
