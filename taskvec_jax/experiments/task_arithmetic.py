"""The main job: "On Task Vectors and Gradients" on real images, end to end.

Config in; in the work folder `results.json`, figures and `report.html` out.
The first seed carries the analysis (rates, response map, ladder); all seeds
carry the equality and the accuracies. Finished parts and finetuning runs are
kept, so the same command goes on where it was stopped.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082.
"""

import pathlib

from taskvec_jax.experiments import analysis
from taskvec_jax.experiments import compared_models
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import equality
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import response_map
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.report import claims
from taskvec_jax.report import page
from taskvec_jax.report import results as results_lib


def run(
    config: config_lib.Config, folder: str | pathlib.Path, *, command: str
) -> results_lib.Results:
  """Runs the main job in the work folder; returns and writes its results.

  Args:
    config: all settings.
    folder: the work folder, new or of an earlier run of the same config.
    command: what repeats the run, for the page.

  Raises:
    ValueError: one sentence, before any work, for a config, a task or a work
      folder that makes no sense.
    FloatingPointError: a loss became NaN or infinite; names task and epoch.
    ArithmeticError: a bound below what it bounds; names both numbers.
  """
  config_lib.check(config)
  weights = published_weights.base(config)
  published_weights.check(config, weights)
  tasks = setting_lib.load_tasks(config)
  published_weights.check_tasks(config, tasks)
  analysis.check(config, tasks)
  job = job_lib.begin(config, folder, tasks, weights)
  # Of models that others finetuned no derivative is taken.
  trains = not config.published.finetuned
  first = config.seeds[0]
  found = results_lib.Results(
      setting=description.describe(config, job.setting_fn(first), {}, command),
      equality=[],
      rates=[],
      response_map=response_map.join_rows([], lambda_max=0.0),
      ladders=[],
      finetuning=[],
      accuracies=[],
      similarities=[],
      seconds=job.seconds,
  )
  for seed in config.seeds:
    compared_models.add(job, seed, found)
    # After its finetuning, which so starts at once, and before the next seed's
    # setting takes the place of the first one's.
    if trains and seed == first:
      analysis.add(job, found, command)
    if trains:
      found.equality += _equality(job, seed)
  if workdir_lib.is_writer():
    results_lib.write(job.folder / 'results.json', found)
    page.write_page(found, job.folder)
  return found


def summary(results: results_lib.Results) -> str:
  """Returns a table of what was claimed and what was measured."""
  return claims.format_table(claims.claims(results))


def _equality(job: analysis.Job, seed: int) -> list[results_lib.Equality]:
  def compute():
    def measure(setting):
      return equality.equality(
          setting, learning_rate=job.config.learning_rate, seed=seed
      )

    setting = setting_lib.limited(
        job.setting_fn(seed),
        job.config,
        job.tasks,
        num_examples=job.config.analysis.equality_examples,
    )
    found = [measure(setting)]
    if job.config.analysis.equality_float64:
      found.append(setting_lib.in_float64(measure, setting))
    return found

  return job.once(f'equality-{seed}', list[results_lib.Equality], compute)
