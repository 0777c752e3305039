"""Sparse task-specific predictors: their derivative, their use, their bridge.

Four parts: the derivative of a lasso on its support against finite differences;
the paper's synthetic figure; features trained through sparse and through dense
predictors; sparse coefficients over a basis of task vectors.

Source: Lachapelle et al., "Synergies between disentanglement and sparsity:
generalization and identifiability in multi-task learning", arXiv:2211.14666.
"""

import functools
import pathlib

from taskvec_jax.experiments import study
from taskvec_jax.experiments.studies.sparse_predictors import coefficients
from taskvec_jax.experiments.studies.sparse_predictors import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.sparse_predictors import (
    features as features_lib,
)
from taskvec_jax.experiments.studies.sparse_predictors import gradient
from taskvec_jax.experiments.studies.sparse_predictors import (
    samples as samples_lib,
)
from taskvec_jax.report import study_results

_PARTS = {
    'gradient': gradient.section,
    'samples': samples_lib.section,
    'features': features_lib.section,
    'coefficients': coefficients.section,
}

summary = study.summary


def run(
    config: config_lib.SparsePredictorsStudyConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> study_results.Results:
  """Runs the study; arguments and errors are those of `study.run`."""
  config_lib.check(config)
  return study.run(
      config,
      folder,
      {
          name: functools.partial(section, getattr(config, name), config.seeds)
          for name, section in _PARTS.items()
      },
      command=command,
      title='Sparse predictors, disentangled features and task vectors',
      question='If every task needs only a few features, does a sparse'
      ' predictor find them, need fewer examples for it, and even make the'
      ' features be the right ones? And does the same penalty, put on'
      ' coefficients of task vectors, tell which tasks a new one is made of?',
      source='Lachapelle et al., “Synergies between Disentanglement and'
      ' Sparsity”, arXiv:2211.14666.',
      sizes=_sizes(config),
      left_out=[
          'The paper’s pictures of 3D shapes and its few-shot benchmarks are'
          ' left out: they are downloads.',
          'DCI, a second measure of disentanglement, is left out.',
          'Its group-lasso support vector machine is left out.',
      ],
  )


def _sizes(config: config_lib.SparsePredictorsStudyConfig) -> dict[str, str]:
  samples, features = config.samples, config.features
  basis = config.coefficients
  return {
      'derivative': (
          f'{config.gradient.num_problems} problems a seed,'
          f' {config.gradient.num_features} features of'
          f' {config.gradient.num_examples} examples, float64'
      ),
      'examples': (
          f'm = {samples.num_features}, l of {samples.num_useful}, n of'
          f' {samples.num_examples}, noise {samples.noise:g},'
          f' {samples.num_problems} problems a seed'
      ),
      'features': (
          f'{features.num_factors} factors, tanh layers {features.widths},'
          f' {features.num_steps} steps of Adam on {features.num_tasks} tasks'
          f' of {features.num_examples} examples'
      ),
      'task vectors': (
          f'{len(basis.tasks) * basis.num_parts} sources of'
          f' {", ".join(basis.tasks)}; images of {basis.image_size} pixels,'
          f' tanh layers {basis.widths}, {basis.num_epochs} epochs of'
          f' full-batch descent on at most {basis.max_train} images'
      ),
  }
