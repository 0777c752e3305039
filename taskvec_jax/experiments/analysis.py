"""The analysis of the main job: eigenvalues, rates, response map and ladder.

Of the first seed alone, each on as many training examples as the config says.
"""

from collections.abc import Mapping
import functools

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import ladder
from taskvec_jax.experiments import rates
from taskvec_jax.experiments import response_map
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.report import results as results_lib
from taskvec_jax.tasks import task as task_lib

Job = job_lib.Job[config_lib.Config]


def add(job: Job, found: results_lib.Results, command: str) -> None:
  """Adds what is of the first seed alone."""
  config = job.config
  eigenvalues = job.once(
      'eigenvalues',
      dict[str, list[float]],
      lambda: response_map.extreme_eigenvalues(
          _first_setting(job),
          num_iterations=config.analysis.lanczos_iterations,
          seed=config.seeds[0],
      ),
  )
  lambda_max = max(highest for _, highest in eigenvalues.values())
  found.setting = description.describe(
      config, job.setting_fn(config.seeds[0]), eigenvalues, command
  )
  if config_lib.has_gap(job.config):
    found.rates = _rates(job, lambda_max)
    found.response_map = _response_map(job, lambda_max)
    found.ladders = _ladders(job)


def check(
    config: config_lib.Config, tasks: Mapping[str, task_lib.Task]
) -> None:
  """Refuses a task with fewer training images than the rates take steps."""
  num_steps = max(config.analysis.rates_epochs, default=0)
  for name, task in tasks.items():
    num_train = len(task.train.labels)
    used = min(num_train, config.analysis.num_examples or num_train)
    if used < num_steps and config_lib.has_gap(config):
      raise ValueError(
          f'Task {name!r} has {used} training images for the rates, but'
          f' config.analysis.rates_epochs is {config.analysis.rates_epochs} and'
          ' every step needs a mini-batch of its own; leave larger numbers out.'
      )


def _first_setting(job: Job) -> setting_lib.Setting:
  """Returns the first seed's setting, on the examples of the analysis."""
  return setting_lib.limited(
      job.setting_fn(job.config.seeds[0]),
      job.config,
      job.tasks,
      num_examples=job.config.analysis.num_examples,
  )


def _rates(job: Job, lambda_max: float) -> list[results_lib.Rates]:
  analysis = job.config.analysis
  if not analysis.rates_epochs:
    return []
  num_steps = max(analysis.rates_epochs)

  def compute(batches: str):
    def measure(setting):
      if batches == 'full batch':
        steps = rates.full_batch_steps(setting, num_steps)
      else:
        steps = rates.minibatch_steps(
            setting,
            num_steps,
            batch_size=analysis.rates_batch_size,
            seed=job.config.seeds[0],
        )
      return rates.rates(
          setting,
          steps,
          learning_rates=[s / lambda_max for s in analysis.rates_sharpness],
          epochs=analysis.rates_epochs,
          batches=batches,
      )

    return setting_lib.in_float64(measure, _first_setting(job))

  kind = list[results_lib.Rates]
  return [
      entry
      for batches in ('full batch', 'mini-batches')
      for entry in job.once(
          f'rates-{batches.replace(" ", "_")}',
          kind,
          functools.partial(compute, batches),
      )
  ]


def _response_map(job: Job, lambda_max: float) -> results_lib.ResponseMap:
  analysis = job.config.analysis

  def compute(sharpness: float):
    def measure(setting):
      return response_map.map_row(
          setting,
          learning_rate=sharpness / lambda_max,
          lambda_max=lambda_max,
          epochs=response_map.map_epochs(job.config.num_epochs),
      )

    setting = _first_setting(job)
    return (
        setting_lib.in_float64(measure, setting)
        if analysis.map_float64
        else measure(setting)
    )

  return response_map.join_rows(
      [
          job.once(
              f'map-{sharpness:g}',
              results_lib.ResponseMap,
              functools.partial(compute, sharpness),
          )
          for sharpness in analysis.map_sharpness
      ],
      lambda_max=lambda_max,
  )


def _ladders(job: Job) -> list[results_lib.Ladder]:
  if not job.config.analysis.ladder_epochs:
    return []

  def compute():
    return ladder.ladders(
        _first_setting(job),
        learning_rate=job.config.learning_rate,
        epochs=job.config.analysis.ladder_epochs,
        lanczos_iterations=job.config.analysis.lanczos_iterations,
        seed=job.config.seeds[0],
    )

  return job.once('ladder', list[results_lib.Ladder], compute)
