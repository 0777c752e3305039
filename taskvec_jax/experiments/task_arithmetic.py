"""The main job: "On Task Vectors and Gradients" on real images, end to end.

Config in; in the work folder `results.json`, figures and `report.html` out.
The first seed carries the analysis (rates, response map, ladder); all seeds
carry the equality and the accuracies. Finished parts and finetuning runs are
kept, so the same command goes on where it was stopped.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments import accuracy
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import epochs
from taskvec_jax.experiments import equality
from taskvec_jax.experiments import ladder
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import rates
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import response_map
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import training
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.models import pretrained
from taskvec_jax.report import claims
from taskvec_jax.report import page
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params


class _Job(NamedTuple):
  """What every part needs."""

  config: config_lib.Config
  tasks: Mapping[str, task_lib.Task]
  folder: pathlib.Path
  weights: pretrained.Pretrained | None  # published ones, if any
  setting_fn: Callable[[int], setting_lib.Setting]  # of a seed; keeps the last
  seconds: dict[str, float]  # by group of parts


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
  tasks = setting_lib.load_tasks(config)
  folder = workdir_lib.open_workdir(folder, config)
  setting_fn = functools.lru_cache(maxsize=1)(
      lambda seed: setting_lib.build(config, tasks, seed=seed, weights=weights)
  )
  job = _Job(config, tasks, folder, weights, setting_fn, {})
  # Of models that others finetuned no derivative is taken.
  trains = not config.published.finetuned
  first = config.seeds[0]
  found = results_lib.Results(
      setting=description.describe(config, setting_fn(first), {}, command),
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
    _add_accuracies(job, seed, found)
    # After its finetuning, which so starts at once, and before the next seed's
    # setting takes the place of the first one's.
    if trains and seed == first:
      _add_analysis(job, found, command)
    if trains:
      found.equality += _equality(job, seed)
  if workdir_lib.is_writer():
    results_lib.write(folder / 'results.json', found)
    page.write_page(found, folder)
  return found


def summary(results: results_lib.Results) -> str:
  """Returns a table of what was claimed and what was measured."""
  return claims.format_table(claims.claims(results))


def _once(job: _Job, part: str, kind, compute):
  return workdir_lib.once(job.folder, part, kind, compute, job.seconds)


def _first_setting(job: _Job) -> setting_lib.Setting:
  """Returns the first seed's setting, on the examples of the analysis."""
  return setting_lib.limited(
      job.setting_fn(job.config.seeds[0]),
      job.config,
      job.tasks,
      num_examples=job.config.analysis.num_examples,
  )


def _add_analysis(job: _Job, found: results_lib.Results, command: str) -> None:
  """Adds what is of the first seed alone."""
  eigenvalues = _eigenvalues(job)
  lambda_max = max(highest for _, highest in eigenvalues.values())
  found.setting = description.describe(
      job.config, job.setting_fn(job.config.seeds[0]), eigenvalues, command
  )
  found.rates = _rates(job, lambda_max)
  found.response_map = _response_map(job, lambda_max)
  found.ladders = _ladders(job)


def _eigenvalues(job: _Job) -> dict[str, list[float]]:
  def compute():
    found = response_map.extreme_eigenvalues(
        _first_setting(job),
        num_iterations=job.config.analysis.lanczos_iterations,
        seed=job.config.seeds[0],
    )
    return {name: list(pair) for name, pair in found.items()}

  return _once(job, 'eigenvalues', dict[str, list[float]], compute)


def _rates(job: _Job, lambda_max: float) -> list[results_lib.Rates]:
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

    return in_float64(measure, _first_setting(job))

  kind = list[results_lib.Rates]
  return [
      entry
      for batches in ('full batch', 'mini-batches')
      for entry in _once(
          job,
          f'rates-{batches.replace(" ", "_")}',
          kind,
          functools.partial(compute, batches),
      )
  ]


def _response_map(job: _Job, lambda_max: float) -> results_lib.ResponseMap:
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
        in_float64(measure, setting)
        if analysis.map_float64
        else measure(setting)
    )

  return response_map.join_rows(
      [
          _once(
              job,
              f'map-{sharpness:g}',
              results_lib.ResponseMap,
              functools.partial(compute, sharpness),
          )
          for sharpness in analysis.map_sharpness
      ],
      lambda_max=lambda_max,
  )


def _ladders(job: _Job) -> list[results_lib.Ladder]:
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

  return _once(job, 'ladder', list[results_lib.Ladder], compute)


def _equality(job: _Job, seed: int) -> list[results_lib.Equality]:
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
      found.append(in_float64(measure, setting))
    return found

  return _once(job, f'equality-{seed}', list[results_lib.Equality], compute)


def _add_accuracies(job: _Job, seed: int, found: results_lib.Results) -> None:
  """Adds all finetuning runs of one seed, and what they lead to."""
  config = job.config
  found.accuracies += _once(
      job,
      f'base-{seed}',
      list[results_lib.Accuracy],
      lambda: [accuracy.base_accuracy(job.setting_fn(seed), seed=seed)],
  )
  if config.published.finetuned:
    models = [
        _once(
            job,
            f'accuracy-published-{seed}',
            results_lib.Models,
            functools.partial(_published, job, seed),
        )
    ]
  else:
    models = []
    for regime in config.regimes:
      runs, compared = _regime(job, seed, regime)
      found.finetuning += runs
      models += compared
  for one in models:
    found.accuracies += one.accuracies
    found.similarities.append(one.similarity)


def _regime(
    job: _Job, seed: int, regime: str
) -> tuple[list[results_lib.Finetuning], list[results_lib.Models]]:
  """Returns the runs of one regime and their models, compared."""
  finished = {}  # the runs themselves, only if accuracies are to be computed
  names = [*job.tasks, regimes.MULTITASK]

  def finetune(task: str):
    finished[task] = _finetune(job, seed, regime, task)
    return finished[task].finetuning

  runs = [
      _once(
          job,
          f'{regime}-{seed}-{task}',
          results_lib.Finetuning,
          functools.partial(finetune, task),
      )
      for task in names
  ]

  def compare():
    # A run that ended before a kill is read back from its checkpoint.
    for task in names:
      if task not in finished:
        finished[task] = _finetune(job, seed, regime, task)
    setting = job.setting_fn(seed)
    models = accuracy.accuracy_by_epochs(
        setting,
        finished,
        seed=seed,
        regime=regime,
        merge_epochs=job.config.merge_epochs,
        alphas=job.config.alphas,
    )
    converged = {name: finished[name].converged for name in job.tasks}
    _write_merged(job, seed, converged, models[-1])
    return models

  return runs, _once(
      job, f'accuracy-{regime}-{seed}', list[results_lib.Models], compare
  )


def _published(job: _Job, seed: int) -> results_lib.Models:
  """Returns how models that others finetuned, and their merge, do."""
  assert job.weights is not None  # config.check has seen to it
  finetuned_params = published_weights.finetuned(
      job.config.published, job.weights, job.tasks
  )
  models = accuracy.compare(
      job.setting_fn(seed),
      finetuned_params,
      None,
      accuracy.Which(seed=seed, regime='published', epochs=None),
      alphas=job.config.alphas,
  )
  _write_merged(job, seed, finetuned_params, models)
  return models


def _write_merged(
    job: _Job,
    seed: int,
    finetuned_params: Mapping[str, Params],
    models: results_lib.Models,
) -> None:
  """Writes the first seed's merge with the tuned coefficient, if asked for."""
  wanted = job.config.published.write_merged and seed == job.config.seeds[0]
  if not wanted or job.weights is None or not workdir_lib.is_writer():
    return
  (alpha,) = (
      row.alpha or 0.0
      for row in models.accuracies
      if row.alpha_rule == 'validation'
  )
  base_params = job.weights.vision
  task_vectors = {
      name: arithmetic.task_vector(params, base_params)
      for name, params in finetuned_params.items()
  }
  published_weights.write_merged(
      job.folder / 'merged' / models.similarity.regime,
      job.weights,
      arithmetic.merge(
          base_params, task_vectors, dict.fromkeys(task_vectors, alpha)
      ),
  )


def _finetune(job: _Job, seed: int, regime: str, task: str) -> epochs.Run:
  config = job.config
  return training.run(
      config,
      job.setting_fn(seed),
      job.folder,
      task,
      seed=seed,
      regime=regime,
      max_epochs=config_lib.max_epochs(config, regime, task),
      patience=config.patience,
      merge_epochs=config.merge_epochs,
  )


def in_float64(measure, setting: setting_lib.Setting):
  """Returns `measure(setting)` evaluated in float64."""
  with jax.enable_x64(True):
    return measure(setting_lib.cast(setting, np.float64))
