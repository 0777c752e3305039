"""Perturb-and-Merge on two sequences of tasks, and where all is a quadratic.

What the formulas of arXiv:2505.22389 say exactly is held against measurements
in float64; then full networks are finetuned on one task after another, and the
paper's coefficient and perturbation stand beside sequential finetuning,
averages, EWC and MagMax, which keep no examples either. True Hessians and
measured losses of earlier tasks need those tasks' examples: they are there to
judge the coefficient, not as methods.
"""

import pathlib

from taskvec_jax.experiments import description
from taskvec_jax.experiments import study
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.experiments.studies.continual_merging import accuracy
from taskvec_jax.experiments.studies.continual_merging import coefficient
from taskvec_jax.experiments.studies.continual_merging import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.continual_merging import perturbation
from taskvec_jax.experiments.studies.continual_merging import quadratic
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.experiments.studies.continual_merging import runs
from taskvec_jax.report import study_results

summary = study.summary


def run(
    config: config_lib.ContinualMergingStudyConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> study_results.Results:
  """Runs the study; arguments and errors are those of `study.run`."""
  config_lib.check(config)

  def sequences() -> list[records.Sequence]:
    # Stored by sequence and seed: three of the parts below read them.
    return [
        workdir_lib.once(
            pathlib.Path(folder),
            f'sequence-{name.split()[0]}-{seed}',
            records.Sequence,
            lambda name=name, seed=seed: runs.run(config, name, seed),
            {},
        )
        for name in (records.PERMUTED, records.PACKAGED)
        for seed in config.seeds
    ]

  parts = {
      'quadratic': lambda: quadratic.section(config),
      'perturbation': lambda: perturbation.section(config, sequences()),
      'coefficient': lambda: coefficient.section(sequences()),
      'accuracy': lambda: accuracy.section(sequences()),
  }
  return study.run(
      config,
      folder,
      parts,
      command=command,
      title='Perturb-and-Merge: one task after another',
      question='Tasks come one after another and earlier examples are gone.'
      ' After each, Perturb-and-Merge moves the kept model towards the newly'
      ' finetuned one, by a coefficient in closed form, and trains so that this'
      ' costs little. Is the coefficient the best one? What does the'
      ' perturbation add to the loss? And does the last model know all tasks'
      ' better than sequential finetuning and averaging do?',
      source='Qiu et al., “Train with Perturbation, Infer after Merging: A'
      ' Two-Stage Framework for Continual Learning”, arXiv:2505.22389.',
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


def _sizes(config: config_lib.ContinualMergingStudyConfig) -> dict[str, str]:
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
          f'{rule.max_epochs} epochs a task, {description.update_rule(rule)}'
      ),
      'perturbation': (
          f'ε = {config.epsilon:g}, p = {config.probability:.3g} a side'
      ),
      'EWC, MagMax': (
          f'strength {config.ewc_strength:g}, scaling {config.magmax_scaling:g}'
      ),
      'Fisher': f'{config.fisher_examples} training images a task',
      'quadratic tasks': (
          f'{config.num_permutations} of ridge regression on 500 of the 8×8'
          f' digits, ρ = {config.ridge:g}, float64'
      ),
  }
