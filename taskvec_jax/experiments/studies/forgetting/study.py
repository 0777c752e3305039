"""Study: what training on task B makes a model forget of task A.

Two regressions that differ by a rotation, where the expected forgetting is
known exactly, and permuted images. The mathematics stands in
`studies.forgetting` and `studies.permuted_images`; the sections, with what
judges them, in the files beside this one.
"""

import functools
import pathlib

from taskvec_jax.experiments import study
from taskvec_jax.experiments.studies.forgetting import bound
from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.experiments.studies.forgetting import descent
from taskvec_jax.experiments.studies.forgetting import images as images_lib
from taskvec_jax.experiments.studies.forgetting import regression
from taskvec_jax.experiments.studies.forgetting import task_vectors
from taskvec_jax.report import study_results

_PARTS = {
    'expectation': regression.expectation,
    'bound': bound.bound,
    'descent': descent.descent,
    'task_vectors': task_vectors.task_vectors,
    'images': images_lib.images,
}

summary = study.summary


def run(
    config: config_lib.ForgettingStudyConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> study_results.Results:
  """Runs the study; arguments and errors are those of `study.run`."""
  config_lib.check(config)
  images = config.images
  return study.run(
      config,
      folder,
      {name: functools.partial(part, config) for name, part in _PARTS.items()},
      command=command,
      title='Forgetting under orthogonal transformations',
      question='A model learns one task, then a second one that is the first'
      ' under a rotation of its inputs. How much of the first does it forget,'
      ' does it forget less with more parameters, and is adding task vectors'
      ' the better way to hold both?',
      source='Goldfarb and Hand, “Analysis of Catastrophic Forgetting for'
      ' Random Orthogonal Transformation Tasks in the Overparameterized'
      ' Regime”, arXiv:2207.06475. What is derived here is called so.',
      sizes={
          'Monte Carlo': (
              f'p = {", ".join(map(str, config.features))}, the rest as'
              f' {regression.describe(config.problem)}; {config.num_draws:,}'
              ' rotations and as many permutations for each seed and p'
          ),
          'Sweeps': (
              f'around {regression.describe(config.problem)};'
              f' {config.sweep_draws} rotations for each seed and point'
          ),
          'Gradient descent and task vectors': (
              f'{regression.describe(config.descent)}; float64;'
              f' {config.arithmetic_draws} rotations for each seed'
          ),
          'Images': (
              f'{images.num_tasks} permutations of {images.task}, widths'
              f' {", ".join(map(str, images.widths))}; float32'
          ),
      },
      left_out=[
          'The paper’s comparison with continual-learning methods (synaptic'
          ' intelligence, elastic weight consolidation), and its networks and'
          ' MNIST at full size.',
          'ReLU, which the paper may use: the project’s encoder refuses it, as'
          ' it has no second derivative.',
          'The constant c in the probability of the bound is not stated as a'
          ' number, so how often the bound may fail cannot be tested, only'
          ' whether it does.',
          'The exact mean over permutations, which differs from that over'
          ' rotations by what a permutation keeps, the sum of the features.',
          'The images’ size was chosen after trials on one seed: on digits of'
          ' 8 x 8 pixels forgetting was 62 to 65 points at every width, and'
          ' merging ended above the sequence at width 256.',
      ],
  )
