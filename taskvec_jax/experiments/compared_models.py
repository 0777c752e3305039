"""The models of one seed: finetuned, multitask and merged, and how they do."""

from collections.abc import Mapping
import functools

from taskvec_jax.experiments import accuracy
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import epochs
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import training
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

Job = job_lib.Job[config_lib.Config]


def add(job: Job, seed: int, found: results_lib.Results) -> None:
  """Adds all finetuning runs of one seed, and what they lead to."""
  if job.config.published.finetuned:
    models = [
        job.once(
            f'accuracy-published-{seed}',
            results_lib.Models,
            functools.partial(_published, job, seed),
        )
    ]
  else:
    models = []
    for regime in job.config.regimes:
      runs, compared = _regime(job, seed, regime)
      found.finetuning += runs
      models += compared
  found.accuracies += job.once(
      f'base-{seed}',
      list[results_lib.Accuracy],
      lambda: [accuracy.base_accuracy(job.setting_fn(seed), seed=seed)],
  )
  for one in models:
    found.accuracies += one.accuracies
    found.similarities.append(one.similarity)


def _regime(
    job: Job, seed: int, regime: str
) -> tuple[list[results_lib.Finetuning], list[results_lib.Models]]:
  """Returns the runs of one regime and their models, compared."""
  finished = {}  # the runs themselves, only if accuracies are to be computed
  names = [*job.tasks, config_lib.MULTITASK]

  def finetune(task: str):
    finished[task] = _finetune(job, seed, regime, task)
    return finished[task].finetuning

  runs = [
      job.once(
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

  return runs, job.once(
      f'accuracy-{regime}-{seed}', list[results_lib.Models], compare
  )


def _published(job: Job, seed: int) -> results_lib.Models:
  """Returns how models that others finetuned, and their merge, do."""
  assert job.weights is not None  # config.check has seen to it
  finetuned_params = published_weights.finetuned(
      job.config, job.weights, job.tasks
  )
  (models,) = accuracy.compare(
      job.setting_fn(seed),
      [accuracy.Trained(None, finetuned_params, None)],
      seed=seed,
      regime='published',
      alphas=job.config.alphas,
  )
  _write_merged(job, seed, finetuned_params, models)
  return models


def _write_merged(
    job: Job,
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


def _finetune(
    job: Job,
    seed: int,
    regime: str,
    task: str,
) -> epochs.Run:
  return training.run(
      job.config,
      job.setting_fn(seed),
      job.folder,
      task,
      seed=seed,
      regime=regime,
      max_epochs=config_lib.max_epochs(job.config, regime, task),
      patience=job.config.patience,
      merge_epochs=job.config.merge_epochs,
  )
