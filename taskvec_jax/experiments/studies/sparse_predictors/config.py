"""The settings of the study of sparse predictors, checked before any work."""

import dataclasses

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.models import ffn


@dataclasses.dataclass
class Gradient:
  """The implicit derivative against finite differences, in float64."""

  num_problems: int = 5  # a seed
  num_examples: int = 25
  num_inputs: int = 10  # of the linear features, which are trained
  num_features: int = 6
  share: float = 0.2  # of the largest l1 penalty
  step: float = 1e-6  # of the central differences
  num_sweeps: int = 60  # of the solver that is unrolled
  unrolled_features: int = 12  # while it is
  unrolled_share: float = 0.02
  correlation: float = 0.9  # of neighbouring features, while it is


@dataclasses.dataclass
class Samples:
  """The paper's synthetic figure."""

  num_features: int = 100  # m
  num_useful: tuple[int, ...] = (5, 20, 80)  # l
  num_examples: tuple[int, ...] = (25, 50, 75, 100, 125, 150)  # n
  num_problems: int = 2  # a seed
  noise: float = 0.1  # s; the signal has variance 1
  num_folds: int = 5
  # Candidates for the shares of the largest penalty, falling.
  l1_shares: tuple[float, ...] = (
      0.7,
      0.35,
      0.18,
      0.09,
      0.045,
      0.02,
      0.01,
      5e-3,
  )
  l2_shares: tuple[float, ...] = (
      1,
      0.3,
      0.1,
      0.03,
      0.01,
      3e-3,
      1e-3,
      3e-4,
      1e-4,
  )


@dataclasses.dataclass
class Features:
  """Bilevel training of the features."""

  num_factors: int = 6  # m
  correlations: tuple[float, ...] = (0.0, 0.45, 0.9)  # rho
  widths: tuple[int, ...] = (64, 64)  # of the encoder, tanh
  num_tasks: int = 32  # new ones a step
  num_examples: int = 25  # a task
  density: float = 0.35  # probability of an entry of z in a task's support
  noise: float = 0.1  # a share of the signal
  l1_shares: tuple[float, ...] = (0.1, 0.3)  # 0.3: the paper's for 3D shapes
  l2_shares: tuple[float, ...] = (1e-4, 1e-2)
  learning_rate: float = 3e-3
  num_steps: int = 1000
  num_test: int = 5000  # draws of z that MCC is measured on


@dataclasses.dataclass
class Coefficients:
  """The bridge: sparse coefficients over a basis of task vectors."""

  tasks: tuple[str, ...] = ('digits', 'mnist5k', 'letters', 'animals')
  num_parts: int = 3  # sources a task: its classes, cut into parts
  image_size: int = 14
  widths: tuple[int, ...] = (128, 64)
  max_train: int = 180  # images a source
  max_test: int = 200  # test images a source
  learning_rate: float = 0.1  # of full-batch descent
  num_epochs: int = 30
  shots: int = 20  # labelled images of a target; as many more for the penalty
  share: float = 0.1  # of the largest penalty, where the descent starts
  num_steps: int = 25  # of that descent
  pretraining: config_lib.Pretraining = dataclasses.field(
      default_factory=lambda: config_lib.Pretraining(
          num_images=4_000, num_epochs=4
      )
  )


@dataclasses.dataclass
class SparsePredictorsStudyConfig:
  """All of the study."""

  name: str
  seeds: tuple[int, ...] = (0, 1, 2)
  gradient: Gradient = dataclasses.field(default_factory=Gradient)
  samples: Samples = dataclasses.field(default_factory=Samples)
  features: Features = dataclasses.field(default_factory=Features)
  coefficients: Coefficients = dataclasses.field(default_factory=Coefficients)


def check(config: SparsePredictorsStudyConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  checks.seeds(config.seeds)
  checks.within(
      config,
      '(0, inf)',
      *(
          f'{part}.{name}'
          for part in ('gradient', 'samples', 'features', 'coefficients')
          for name in dataclasses.asdict(getattr(config, part))
          if name not in ('correlation', 'correlations', 'pretraining', 'tasks')
      ),
  )
  samples = config.samples
  for num in samples.num_examples:
    if num % samples.num_folds or num <= samples.num_folds:
      raise ValueError(
          f'config.samples.num_examples has {num}, which does not come in'
          f' num_folds = {samples.num_folds} equal folds of two or more.'
      )
  if min(samples.num_useful) < 1 or max(samples.num_useful) > (
      samples.num_features
  ):
    raise ValueError(
        f'config.samples.num_useful must be 1 to {samples.num_features}, the'
        f' features, but is {samples.num_useful}.'
    )
  checks.at_least(config, 2, 'samples.num_folds')
  # From 1 on there is no feature left, and from correlation 1 on one only.
  checks.within(
      config,
      '(0, 1)',
      'gradient.share',
      'gradient.unrolled_share',
      'coefficients.share',
  )
  checks.within(
      config, '[0, 1)', 'gradient.correlation', 'features.correlations'
  )
  checks.within(config, '(0, 1]', 'features.density')
  for name in ('l1_shares', 'l2_shares'):
    shares = getattr(samples, name)
    if list(shares) != sorted(set(shares), reverse=True) or shares[-1] <= 0:
      raise ValueError(
          f'config.samples.{name} must fall and stay positive but is {shares}.'
      )
  ffn.FFN(widths=config.features.widths)
  coefficients = config.coefficients
  checks.known_tasks(coefficients.tasks, 'coefficients.tasks')
  checks.at_least(config, 0, 'coefficients.pretraining.num_epochs')
  if coefficients.num_parts * len(coefficients.tasks) < 3:
    raise ValueError(
        'config.coefficients needs three sources or more, but has'
        f' {len(coefficients.tasks)} tasks in {coefficients.num_parts} parts.'
    )
  if coefficients.shots % 2:
    raise ValueError(
        'config.coefficients.shots must be even, half of it for each task of a'
        f' mixture, but is {coefficients.shots}.'
    )
