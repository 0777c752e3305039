"""All merging methods on the same models, and what each was allowed to see.

For every seed and regime each task's model is finetuned from one base for a
stated number of epochs, and a multitask model for as many. Every method of
`merging` then merges the same task vectors. Measured are accuracy on every
task, distance and direction to the multitask model, which is what merging
approximates by the paper's account, time, and the examples that were read.

The corrected merges (3.6), (3.7) are about full-batch descent, so they stand
in the exact regime only, at its practical step size; at the small ones of the
slope test, in float64, their distance to multitask training is measured as
well. Finished rows are kept: the same command goes on where it was stopped.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082, for the
view; each method's own paper is named in its file.
"""

import dataclasses
import functools
import pathlib

import tqdm

from taskvec_jax.experiments import description
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import merging_gaps
from taskvec_jax.experiments import merging_methods
from taskvec_jax.experiments import merging_models
from taskvec_jax.experiments import merging_rows
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import setting_summary
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.report import merging_page
from taskvec_jax.report import merging_results
from taskvec_jax.report import merging_table
from taskvec_jax.report import results as results_lib


def run(
    config: merging_config.MergingConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> merging_results.Results:
  """Runs the comparison in the work folder; returns and writes its results.

  Args:
    config: all settings.
    folder: the work folder, new or of an earlier run of the same config.
    command: what repeats the run, for the page.

  Raises:
    ValueError: one sentence, before any work, for a config, a task or a work
      folder that makes no sense.
    FloatingPointError: a loss became NaN or infinite; names task and epoch.
  """
  merging_config.check(config)
  setting_summary.check_one_process()
  weights = published_weights.base(config)
  tasks = setting_lib.load_tasks(config)
  folder = workdir_lib.open_workdir(folder, config)
  setting_fn = functools.lru_cache(maxsize=1)(
      lambda seed: setting_lib.build(config, tasks, seed=seed, weights=weights)
  )
  seconds: dict[str, float] = {}
  once = functools.partial(_once, folder, seconds)
  first = config.seeds[0]
  found = merging_results.Results(
      setting=_described(config, setting_fn(first), {}, command),
      num_epochs={
          regime: merging_config.num_epochs(config, regime)
          for regime in config.regimes
      },
      numbers=dataclasses.asdict(config.numbers),
      trained=[],
      merges=[],
      gaps=[],
      small_steps=[],
      seconds=seconds,
  )
  for seed in config.seeds:
    for regime in config.regimes:
      _add_regime(config, folder, setting_fn, once, seed, regime, found)
    # After its finetuning, which so starts at once, and before the next seed's
    # setting takes the place of the first one's.
    if seed == first:
      eigenvalues = once(
          'eigenvalues',
          dict[str, list[float]],
          lambda: merging_gaps.eigenvalues(config, setting_fn(first)),
      )
      found.small_steps = merging_gaps.small_steps(
          config, lambda: setting_fn(first), eigenvalues, once
      )
      found.setting = _described(
          config, setting_fn(first), eigenvalues, command
      )
  merging_results.write(folder / 'results.json', found)
  merging_page.write_page(found, folder)
  return found


def summary(results: merging_results.Results) -> str:
  """Returns a plain table of all methods, at most 96 columns."""
  return merging_table.format_table(results)


def _described(
    config: merging_config.MergingConfig,
    setting: setting_lib.Setting,
    eigenvalues: dict[str, list[float]],
    command: str,
) -> results_lib.Setting:
  """Returns the description of the main job, as it applies here."""
  found = description.describe(config, setting, eigenvalues, command)
  lines = {}
  for regime, line in found.regimes.items():
    how, _, _ = line.partition(', until ')
    epochs = merging_config.num_epochs(config, regime)
    lines[regime] = f'{how}, {epochs} epochs'
  said = [
      f'At most {number:,} {split} images a task are used.'
      for split, number in (
          ('training', config.max_train),
          ('validation', config.max_validation),
          ('test', config.max_test),
      )
      if number
  ]
  if config.methods:
    missing = [m for m in merging_methods.METHODS if m not in config.methods]
    said.append(f'Methods that were left out: {", ".join(missing)}.')
  return dataclasses.replace(found, regimes=lines, left_out=said)


def _once(folder, seconds, part: str, kind, compute):
  return workdir_lib.once(folder, part, kind, compute, seconds)


def _add_regime(config, folder, setting_fn, once, seed, regime, found) -> None:
  """Adds the models of one seed and regime, and every row about them."""

  @functools.cache
  def models():
    return merging_models.models(config, setting_fn(seed), folder, seed, regime)

  bench = functools.cache(
      lambda: merging_rows.bench(
          config, setting_fn(seed), models(), seed, regime
      )
  )
  which = f'{regime}-{seed}'
  found.trained += once(
      f'finetuning-{which}',
      list[merging_results.Trained],
      lambda: models().trained,
  )
  if regime == 'exact':
    found.gaps.append(
        once(
            f'gap-{which}',
            merging_results.Gap,
            lambda: merging_gaps.gap(
                setting_fn(seed),
                models(),
                seed=seed,
                learning_rate=config.learning_rate,
                num_epochs=config.num_epochs,
            ),
        )
    )
  wanted = config.methods or tuple(merging_methods.METHODS)
  names = [
      name for name in wanted if regime in merging_methods.METHODS[name].regimes
  ]
  for name in tqdm.tqdm(
      [*merging_rows.REFERENCES, *names],
      desc=f'seed {seed} {regime}',
      disable=None,
      leave=False,
  ):
    measure = merging_rows.rows
    if name in merging_rows.REFERENCES:
      measure = merging_rows.reference
    found.merges += once(
        f'merging-{which}-{name}',
        list[merging_results.Merge],
        lambda name=name, measure=measure: measure(bench(), name),
    )
