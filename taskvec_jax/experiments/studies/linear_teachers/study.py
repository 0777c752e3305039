"""Finetuning between linear teachers, at any depth, and merging what comes out.

Six parts: the risk of one layer, where deep networks end, how far descent is
from that, what depth is good for, merging one layer, merging networks. All of
it in float64.
"""

import pathlib

from taskvec_jax.experiments import study
from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import depth
from taskvec_jax.experiments.studies.linear_teachers import descent
from taskvec_jax.experiments.studies.linear_teachers import limits
from taskvec_jax.experiments.studies.linear_teachers import merging
from taskvec_jax.experiments.studies.linear_teachers import networks
from taskvec_jax.experiments.studies.linear_teachers import risks
from taskvec_jax.report import study_results

summary = study.summary


def run(
    config: config_lib.LinearTeachersStudyConfig,
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
          'risk': lambda: risks.one_layer(config),
          'limits': lambda: limits.flow(config),
          'descent': lambda: descent.descent(config),
          'depth': lambda: depth.depth(config),
          'merging': lambda: merging.one_layer(config),
          'networks': lambda: networks.networks(config),
      },
      command=command,
      title='Linear teachers: where finetuning ends, and what merging keeps',
      question='A linear network starts at one teacher and is finetuned, to'
      ' convergence, on fewer examples of another teacher than there are'
      ' inputs. Which of the many exact solutions does it reach, how good is it'
      ' on new inputs, what does depth change, and what remains when the task'
      ' vectors of several such finetunings are added? Everything has a formula'
      ' here, and every formula is held against training.',
      source='Shachaf, Brutzkus and Globerson, “A Theoretical Analysis of'
      ' Fine-tuning with Linear Teachers”, arXiv:2107.01641. Its full text was'
      ' not available to this project: the setting and the message are the'
      ' paper’s, the formulas below were derived again here, those on merging'
      ' for the first time as far as we know.',
      sizes={
          'Inputs and examples': (
              f'd = {config.dimension}, n = {config.num_examples} unless a part'
              ' says otherwise; Gaussian inputs, isotropic but for part 1;'
              ' labels without noise'
          ),
          'Networks': (
              'linear layers without biases, one output, L ='
              f' {", ".join(map(str, config.depths))}, hidden width'
              f' {config.width}, balanced at the start'
          ),
          'Numbers': 'float64 throughout',
          'Training': (
              'the project’s exact full-batch gradients; descent, or the flow'
              ' by an explicit Runge–Kutta method of order 8'
          ),
          'Draws': (
              f'{config.num_draws} a seed of teachers and inputs where a mean'
              ' is taken; ± is one standard error'
          ),
      },
      left_out=(
          'The paper’s bounds on sample complexity and its shallow ReLU'
          ' networks were not available to us and are not reproduced.',
          'Networks that start out of balance have one finding and no formula.',
          'Labels with noise, and training that stops early.',
      ),
  )
