"""When a task vector is provably effective: tokens, maps and coloured digits.

Experts of all seeds and correlations are trained once, when the first section
asks for them; every section is a part of the run that lies in the work folder
once it is finished.

Source: Li, Zhang, Zhang, Wang, Liu and Chen, "When is task vector provably
effective for model editing?", arXiv:2504.10957.
"""

import functools
import pathlib

from taskvec_jax.experiments import study
from taskvec_jax.experiments.studies.provable_editing import coloured
from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.provable_editing import corollaries
from taskvec_jax.experiments.studies.provable_editing import experts
from taskvec_jax.experiments.studies.provable_editing import maps
from taskvec_jax.experiments.studies.provable_editing import negation
from taskvec_jax.experiments.studies.provable_editing import transfer
from taskvec_jax.report import study_results
from taskvec_jax.studies import pattern_tasks

summary = study.summary


def run(
    config: config_lib.ProvableEditingStudyConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> study_results.Results:
  """Runs the study; arguments and errors are those of `study.run`."""
  config_lib.check(config)
  patterns = functools.cache(lambda: experts.train(config))
  digits = functools.cache(lambda: coloured.train(config))
  sections = {
      'law': (maps.law_section, patterns),
      'addition': (maps.addition_section, patterns),
      'negation': (negation.negation_section, patterns),
      'transfer': (transfer.transfer_section, patterns),
      'corollaries': (corollaries.corollaries_section, patterns),
      'digits': (coloured.pair_section, digits),
      'digit_transfer': (coloured.transfer_section, digits),
  }
  return study.run(
      config,
      folder,
      {
          name: functools.partial(_section, section_fn, config, experts_fn)
          for name, (section_fn, experts_fn) in sections.items()
      },
      command=command,
      title='When is a task vector provably effective?',
      question='A theorem on a one-layer transformer says for which'
      ' coefficients λ and which correlations α of the tasks a task vector can'
      ' be added, subtracted or combined for a task that nobody trained on.'
      ' Where do its regions lie on trained models, and where do they not?',
      source='Li, Zhang, Zhang, Wang, Liu and Chen, “When is task vector'
      ' provably effective for model editing? A generalization analysis of'
      ' nonlinear transformers”, arXiv:2504.10957. The paper is known here from'
      ' a detailed review; its constants are not.',
      sizes=_sizes(config),
      left_out=[
          'Mini-batch SGD on fresh examples, the paper’s training, is left out:'
          ' experts are trained by full-batch gradient descent.',
          'The theorem’s conditions on M, m, B and the number of iterations are'
          ' asymptotic; one set of sizes is measured.',
      ],
  )


def _section(section_fn, config, experts_fn) -> study_results.Section:
  # The experts are trained by the first part that is not in the folder yet.
  return section_fn(config, experts_fn())


def _sizes(config) -> dict[str, str]:
  sizes = config_lib.sizes(config)
  return {
      'Tokens of an example': (
          f'{pattern_tasks.num_tokens(sizes)}: {sizes.num_label} of the label,'
          f' {sizes.num_confusing} of its opposite, {sizes.num_background} of'
          f' {sizes.num_patterns} background patterns'
      ),
      'Transformer': (
          f'one layer, one head, dimension {pattern_tasks.dimension(sizes)},'
          f' {config.width} neurons'
      ),
      'Experts': (
          f'{len(config.seeds)} seeds × {1 + len(config.alphas)} tasks,'
          f' {config.num_train} examples each, η = {config.learning_rate:g},'
          f' {config.num_epochs} epochs, hinge loss'
      ),
      'Test examples': f'{config.num_test} a task and seed',
      'Prediction': (
          f'β = {config.beta:g}, lower end −{config.lower:g}/α², small α up to'
          f' {config.small_alpha:g}, tolerance {config.tolerance:g}, margin'
          f' {config.margin} cell'
      ),
      'Coloured digits': (
          f'{config.digits}, FFN {"-".join(map(str, config.digit_widths))},'
          f' {config.noise:.0%} of the labels flipped, {config.digit_epochs}'
          ' epochs an expert'
      ),
  }
