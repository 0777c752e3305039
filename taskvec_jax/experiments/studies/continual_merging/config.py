"""The settings of the study of continual merging, checked before any work."""

import dataclasses

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib


@dataclasses.dataclass
class ContinualMergingStudyConfig:
  """One run of the study."""

  name: str
  # Of base, heads, permutations, batch order and draws.
  seeds: tuple[int, ...] = (0, 1, 2)
  # The packaged sequence, in the order in which the tasks come.
  tasks: tuple[str, ...] = (
      'digits',
      'mnist5k',
      'textures',
      'faces',
      'letters',
      'animals',
  )
  permuted_task: str = 'mnist5k'  # whose pixels are shuffled
  num_permutations: int = 5  # tasks of that sequence, the first unshuffled
  model: config_lib.FFNModel = dataclasses.field(
      default_factory=lambda: config_lib.FFNModel(widths=(128, 64))
  )
  max_train: int = 1_000  # training images a task, class-balanced; 0: all
  max_test: int = 1_000  # test images a task; 0: all
  pretraining: config_lib.Pretraining = dataclasses.field(
      default_factory=config_lib.Pretraining
  )
  heads: config_lib.Heads = dataclasses.field(default_factory=config_lib.Heads)
  # Finetuning on one task; `max_epochs` of it, no more and no less.
  empirical: config_lib.Empirical = dataclasses.field(
      default_factory=lambda: config_lib.Empirical(max_epochs=10)
  )
  epsilon: float = 0.5  # of the perturbation, the paper's
  probability: float = 1 / 3  # of each side, the paper's
  ewc_strength: float = 100.0  # lambda; 1 is the paper's own quadratic
  magmax_scaling: float = 0.5
  fisher_examples: int = 128  # training images a task
  # Of the rate, falling; the first is compared with what is predicted of it.
  epsilons: tuple[float, ...] = tuple(2.0**-k for k in range(1, 8))
  ridge: float = 0.01  # rho of the quadratic tasks
  noise_draws: int = 4  # Gaussian directions that curvatures are averaged over


def check(config: ContinualMergingStudyConfig) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  config_lib.check(main_config(config))
  checks.at_least(config, 2, 'num_permutations', 'noise_draws')
  checks.at_least(config, 1, 'fisher_examples')
  checks.known_tasks(config.tasks, 'tasks')
  checks.known_tasks([config.permuted_task], 'permuted_task')
  if len(config.tasks) < 2:
    raise ValueError(
        'config.tasks must name at least two tasks, one after the other, but'
        f' is {config.tasks}.'
    )
  if config.empirical.task_epochs or config.empirical.cosine:
    raise ValueError(
        'config.empirical.task_epochs and cosine have no meaning here, where'
        ' every task is finetuned for max_epochs at one step size; they are'
        f' {config.empirical.task_epochs} and {config.empirical.cosine}.'
    )
  checks.positive(config, 'epsilon', 'ewc_strength', 'magmax_scaling', 'ridge')
  checks.within(config, '(0, 0.5]', 'probability')
  epsilons = config.epsilons
  if (
      len(epsilons) < 3
      or min(epsilons) <= 0
      or list(epsilons) != sorted(set(epsilons), reverse=True)
  ):
    raise ValueError(
        'config.epsilons must be at least three positive numbers that fall, but'
        f' are {epsilons}.'
    )


def main_config(config: ContinualMergingStudyConfig) -> config_lib.Config:
  """Returns the settings that the main job would be built from."""
  return config_lib.Config(
      name=config.name,
      tasks=config.tasks,
      model=config.model,
      max_train=config.max_train,
      max_test=config.max_test,
      seeds=config.seeds,
      merge_epochs=(1,),
      pretraining=config.pretraining,
      heads=config.heads,
      empirical=config.empirical,
  )
