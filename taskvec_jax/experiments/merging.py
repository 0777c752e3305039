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

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import description
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import merging_gaps
from taskvec_jax.experiments import merging_methods
from taskvec_jax.experiments import merging_models
from taskvec_jax.experiments import merging_rows
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import response_map
from taskvec_jax.experiments import setting as setting_lib
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

  Arguments and errors are those of `task_arithmetic.run`, but there are no
  bounds, and of several processes it refuses all.
  """
  merging_config.check(config)
  checks.one_process()
  weights = published_weights.base(config)
  tasks = setting_lib.load_tasks(config)
  job = job_lib.begin(config, folder, tasks, weights)
  first = config.seeds[0]
  found = merging_results.Results(
      setting=_described(config, job.setting_fn(first), {}, command),
      num_epochs={
          regime: merging_config.num_epochs(config, regime)
          for regime in config.regimes
      },
      numbers=dataclasses.asdict(config.numbers),
      trained=[],
      merges=[],
      gaps=[],
      small_steps=[],
      ranks=[],
      seconds=job.seconds,
  )
  for seed in config.seeds:
    for regime in config.regimes:
      _add_regime(job, seed, regime, found)
    # After its finetuning, which so starts at once, and before the next seed's
    # setting takes the place of the first one's.
    if seed == first:
      eigenvalues = job.once(
          'eigenvalues',
          dict[str, list[float]],
          lambda: response_map.extreme_eigenvalues(
              job.setting_fn(first),
              num_iterations=config.analysis.lanczos_iterations,
              seed=first,
          ),
      )
      found.small_steps = merging_gaps.small_steps(job, eigenvalues)
      found.setting = _described(
          config, job.setting_fn(first), eigenvalues, command
      )
  results_lib.write(job.folder / 'results.json', found)
  merging_page.write_page(found, job.folder)
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
  lines = {
      regime: f'{rule}, {merging_config.num_epochs(config, regime)} epochs'
      for regime, rule in description.update_rules(config).items()
  }
  said = description.fewer_images(config)
  if config.methods:
    missing = [m for m in merging_methods.METHODS if m not in config.methods]
    said.append(f'Methods that were left out: {", ".join(missing)}.')
  return dataclasses.replace(found, regimes=lines, left_out=said)


def _add_regime(job, seed, regime, found) -> None:
  """Adds the models of one seed and regime, and every row about them."""

  @functools.cache
  def models():
    return merging_models.models(
        job.config, job.setting_fn(seed), job.folder, seed, regime
    )

  bench = functools.cache(
      lambda: merging_rows.bench(
          job.config, job.setting_fn(seed), models(), seed, regime
      )
  )
  which = f'{regime}-{seed}'
  found.trained += job.once(
      f'finetuning-{which}',
      list[merging_results.Trained],
      lambda: models().trained,
  )
  if regime == 'exact':
    found.gaps.append(
        job.once(
            f'gap-{which}',
            merging_results.Gap,
            lambda: merging_gaps.gap(
                job.setting_fn(seed),
                models(),
                seed=seed,
                learning_rate=job.config.learning_rate,
                num_epochs=job.config.num_epochs,
            ),
        )
    )
  if seed == job.config.seeds[0]:
    found.ranks += job.once(
        f'ranks-{regime}',
        list[merging_results.Ranks],
        lambda: merging_models.ranks(
            models(), job.setting_fn(seed).base_params, regime
        ),
    )
  wanted = job.config.methods or tuple(merging_methods.METHODS)
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
    found.merges += job.once(
        f'merging-{which}-{name}',
        list[merging_results.Merge],
        lambda name=name, measure=measure: measure(bench(), name),
    )
