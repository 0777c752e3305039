"""What a run is, in words and numbers, for the head of its page."""

from collections.abc import Mapping

import jax

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.report import results as results_lib


def describe(
    config: config_lib.Config,
    setting: setting_lib.Setting,
    eigenvalues: Mapping[str, list[float]],
    command: str,
) -> results_lib.Setting:
  """Returns the description of a run.

  Args:
    config: all settings.
    setting: of the first seed.
    eigenvalues: task -> (lowest, highest) eigenvalue of `H_t(theta_0)`; empty
      where no derivative was taken.
    command: what repeats the run.
  """
  lambda_max = max(
      (highest for _, highest in eigenvalues.values()), default=None
  )
  return results_lib.Setting(
      config=config.name,
      command=command,
      seeds=list(config.seeds),
      tasks=task_summaries(config, setting, eigenvalues),
      model=describe_model(config.model),
      num_parameters=sum(x.size for x in jax.tree.leaves(setting.base_params)),
      regimes=describe_regimes(config),
      learning_rate=config.learning_rate,
      num_epochs=config.num_epochs,
      scaling=next(iter(setting.scaling.values())),
      eta_lambda_max=(
          None if lambda_max is None else config.learning_rate * lambda_max
      ),
      left_out=left_out(config),
  )


def task_summaries(
    config: config_lib.Config,
    setting: setting_lib.Setting,
    eigenvalues: Mapping[str, list[float]],
) -> list[results_lib.TaskSummary]:
  """Returns the sizes of every task; arguments as `describe` takes them."""
  summaries = []
  for name, data in setting.data.items():
    wanted = config.heads.examples_per_class * data.num_classes
    summaries.append(
        results_lib.TaskSummary(
            name=name,
            num_train=data.train.num_examples,
            num_validation=data.validation.num_examples,
            num_test=data.test.num_examples,
            num_classes=data.num_classes,
            num_head_examples=min(wanted, data.train.num_examples),
            lambda_min=eigenvalues.get(name, (None, None))[0],
            lambda_max=eigenvalues.get(name, (None, None))[1],
        )
    )
  return summaries


def describe_model(model: config_lib.FFNModel | config_lib.ViTModel) -> str:
  """Returns the architecture in one line."""
  if isinstance(model, config_lib.FFNModel):
    widths = '-'.join(str(width) for width in model.widths)
    bias = '' if model.use_bias else ' without biases'
    return f'feed-forward encoder {widths}, {model.activation}{bias}'
  return (
      f'vision transformer, {model.depth} blocks of width {model.width},'
      f' {model.num_heads} heads, patches of {model.patch_size} pixels'
  )


def update_rule(rule: config_lib.Empirical) -> str:
  """Returns the mini-batch rule in one line, without the run's length."""
  details = [
      f'{rule.optimizer} with step size {rule.learning_rate:g}',
      f'batches of {rule.batch_size}',
  ]
  if rule.warmup_steps:
    details.append(f'{rule.warmup_steps} steps of warm-up')
  if rule.cosine:
    details.append(f'a half cosine over {rule.max_epochs} epochs')
  if rule.weight_decay:
    details.append(f'weight decay {rule.weight_decay:g}')
  if rule.clip_norm:
    details.append(f'gradients clipped to norm {rule.clip_norm:g}')
  if rule.matmul_precision != 'highest':
    details.append(f'float32 products in {rule.matmul_precision}')
  return ', '.join(details)


def length(config: config_lib.Config) -> str:
  """Returns what ends a run, up to the number of epochs that follows."""
  if not config.patience:
    return 'for'
  return (
      f'until {config.patience} epochs bring no better validation loss, at most'
  )


def update_rules(config: config_lib.Config) -> dict[str, str]:
  """Returns each regime's rule in one line, without the run's length."""
  lines = {
      'exact': (
          'full-batch gradient descent with step size'
          f' {config.learning_rate:g}'
      ),
      'empirical': update_rule(config.empirical),
  }
  return {regime: lines[regime] for regime in config.regimes}


def describe_regimes(config: config_lib.Config) -> dict[str, str]:
  """Returns each regime in one line."""
  if config.published.finetuned:
    return {'published': ', '.join(config.published.finetuned)}
  until, rule = length(config), config.empirical
  lengths = {
      'exact': f'{until} {config.max_epochs} epochs',
      'empirical': f'{until} {rule.max_epochs} epochs',
  }
  if rule.task_epochs:
    lengths['empirical'] += f' ({", ".join(rule.task_epochs)})'
  return {
      regime: f'{line}, {lengths[regime]}'
      for regime, line in update_rules(config).items()
  }


def fewer_images(config: config_lib.Config) -> list[str]:
  """Returns a sentence for each split that is not used as a whole."""
  return [
      f'At most {number:,} {split} images a task are used.'
      for split, number in (
          ('training', config.max_train),
          ('validation', config.max_validation),
          ('test', config.max_test),
      )
      if number
  ]


def left_out(config: config_lib.Config) -> list[str]:
  """Returns sentences that say what the run left out, for time or in itself."""
  analysis, said = config.analysis, fewer_images(config)
  if len(config.seeds) > 1:
    said.append(
        'Rates, response map, ladder and eigenvalues are of the first seed'
        f' ({config.seeds[0]}) alone.'
    )
  if analysis.equality_examples:
    said.append(
        'The equality after one epoch is measured on at most'
        f' {analysis.equality_examples} training images a task.'
    )
  if analysis.num_examples:
    said.append(
        'The analysis of the first seed uses at most'
        f' {analysis.num_examples} training images a task.'
    )
  if not config_lib.has_gap(config):
    said.append(
        'One task with the coefficient 1 is its own merge and its own multitask'
        ' model: there is no gap, so rates, response map and ladder are left'
        ' out.'
    )
  for name, wanted in (
      ('The equality in float64', analysis.equality_float64),
      ('Rates', analysis.rates_epochs),
      ('The response map', analysis.map_sharpness),
      ('The ladder', analysis.ladder_epochs),
  ):
    if not wanted:
      said.append(f'{name} {"are" if name == "Rates" else "is"} left out.')
  if analysis.ladder_epochs:
    said.append(
        'The ladder is computed for k ='
        f' {", ".join(str(k) for k in analysis.ladder_epochs)} only.'
    )
  if isinstance(config.model, config_lib.ViTModel):
    said.append(
        'Rungs R0 to R2 and the certificates do not apply: they are products of'
        " the norms of a feed-forward network's layers, and an attention"
        ' multiplies its input with itself, whose derivatives no norm of its'
        ' weights bounds. This run has the rungs by Lanczos only.'
    )
  if config.published.weights:
    said.append(
        'Seeds change the order of mini-batches alone: weights and zero-shot'
        ' heads are published ones.'
    )
  if not config.published.finetuned:
    said.append(
        f'Finetuning is capped at {config.max_epochs} epochs in the exact'
        f' regime and {config.empirical.max_epochs} in the empirical one.'
    )
  return said
