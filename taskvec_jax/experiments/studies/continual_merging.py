"""Perturb-and-Merge on two sequences of tasks, and where all is a quadratic.

What the formulas of arXiv:2505.22389 say exactly is held against measurements
in float64; then full networks are finetuned on one task after another, and the
paper's coefficient and perturbation stand beside sequential finetuning,
averages, EWC and MagMax, which keep no examples either. True Hessians and
measured losses of earlier tasks need those tasks' examples: they are there to
judge the coefficient, not as methods.
"""

import dataclasses
import math
import pathlib

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import study
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.experiments.studies import continual_merging_accuracy
from taskvec_jax.experiments.studies import continual_merging_coefficient
from taskvec_jax.experiments.studies import continual_merging_perturbation
from taskvec_jax.experiments.studies import continual_merging_quadratic
from taskvec_jax.experiments.studies import continual_merging_records as records
from taskvec_jax.experiments.studies import continual_merging_runs
from taskvec_jax.experiments.studies import continual_merging_tasks
from taskvec_jax.report import study_results

summary = study.summary


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
  config_lib.check(continual_merging_tasks.main_config(config))
  for name, least in (
      ('num_permutations', 2),
      ('fisher_examples', 1),
      ('noise_draws', 2),
  ):
    if getattr(config, name) < least:
      raise ValueError(
          f'config.{name} must be at least {least} but is'
          f' {getattr(config, name)}.'
      )
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
  if not (config.epsilon > 0 and 0 < config.probability <= 0.5):
    raise ValueError(
        'config.epsilon must be positive and config.probability, of each side,'
        f' in (0, 1/2], but they are {config.epsilon} and'
        f' {config.probability}.'
    )
  for name in ('ewc_strength', 'magmax_scaling', 'ridge'):
    value = getattr(config, name)
    if not (value > 0 and math.isfinite(value)):
      raise ValueError(f'config.{name} must be positive but is {value}.')
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


def run(
    config: ContinualMergingStudyConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> study_results.Results:
  """Runs the study in `folder`; returns and writes its results."""
  check(config)

  def sequences() -> list[records.Sequence]:
    # Stored by sequence and seed: three of the parts below read them.
    return [
        workdir_lib.once(
            pathlib.Path(folder),
            f'sequence-{name.split()[0]}-{seed}',
            records.Sequence,
            lambda name=name, seed=seed: continual_merging_runs.run(
                config, name, seed
            ),
            {},
        )
        for name in (records.PERMUTED, records.PACKAGED)
        for seed in config.seeds
    ]

  parts = {
      'quadratic': lambda: continual_merging_quadratic.section(config),
      'perturbation': lambda: continual_merging_perturbation.section(
          config, sequences()
      ),
      'coefficient': lambda: continual_merging_coefficient.section(sequences()),
      'accuracy': lambda: continual_merging_accuracy.section(sequences()),
  }
  return study.run(
      config,
      folder,
      parts,
      command=command,
      title='Perturb-and-Merge: one task after another',
      question=(
          'Tasks come one after another and earlier examples are gone. After'
          ' each, Perturb-and-Merge moves the kept model towards the newly'
          ' finetuned one, by a coefficient in closed form, and trains so that'
          ' this costs little. Is the coefficient the best one? What does the'
          ' perturbation add to the loss? And does the last model know all'
          ' tasks better than sequential finetuning and averaging do?'
      ),
      source=(
          'Qiu et al., “Train with Perturbation, Infer after Merging: A'
          ' Two-Stage Framework for Continual Learning”, arXiv:2505.22389.'
      ),
      sizes=_sizes(config),
      left_out=[
          'The paper finetunes low-rank factors in a pretrained vision'
          ' transformer and trains a new head a task; here all of a small'
          ' feed-forward encoder moves and heads are frozen, so that'
          ' differences between models are much larger and heights of'
          ' accuracies cannot be compared.',
          'EWC’s strength and MagMax’s scaling were set once, on a seed that is'
          ' not among those reported, and not per sequence.',
          'No joint training on all tasks: the reference above is each task’s'
          ' own model.',
      ],
  )


def _sizes(config: ContinualMergingStudyConfig) -> dict[str, str]:
  rule = config.empirical
  return {
      records.PERMUTED: (
          f'{config.num_permutations} tasks of {config.permuted_task}, one'
          ' frozen head for all'
      ),
      records.PACKAGED: ', '.join(config.tasks) + ', each its own frozen head',
      'images': (
          f'at most {config.max_train or "all"} for training and'
          f' {config.max_test or "all"} for testing a task'
      ),
      'model': description.describe_model(config.model),
      'finetuning': (
          f'{rule.max_epochs} epochs a task,'
          f' {description.update_rule(rule)}'
      ),
      'perturbation': (
          f'ε = {config.epsilon:g}, p = {config.probability:.3g} a side'
      ),
      'EWC, MagMax': (
          f'strength {config.ewc_strength:g}, scaling'
          f' {config.magmax_scaling:g}'
      ),
      'Fisher': f'{config.fisher_examples} training images a task',
      'quadratic tasks': (
          f'{config.num_permutations} of ridge regression on 500 of the 8×8'
          f' digits, ρ = {config.ridge:g}, float64'
      ),
  }
