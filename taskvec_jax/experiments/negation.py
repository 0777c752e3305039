"""Editing models by task vectors: forgetting, disentanglement, analogies.

For every seed, from one base model:

* forgetting one task under control of the others, from three starts
  (`forgetting`);
* the weight disentanglement map of a pair of tasks, of the model and of its
  linearisation (`disentanglement`);
* an analogy between tasks and the same with inverted images (`analogy`).

Source: Ilharco et al., "Editing models with task arithmetic",
arXiv:2212.04089; Ortiz-Jimenez, Favero and Frossard, "Task arithmetic in the
tangent space", arXiv:2305.12827.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import pathlib
from typing import Any
from typing import NamedTuple

from taskvec_jax.experiments import accuracy
from taskvec_jax.experiments import analogy
from taskvec_jax.experiments import checks
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import disentanglement
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import forgetting
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import negation_config
from taskvec_jax.experiments import negation_models
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import setting_summary
from taskvec_jax.report import claims
from taskvec_jax.report import negation_findings
from taskvec_jax.report import negation_page
from taskvec_jax.report import negation_results
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_Job = job_lib.Job[negation_config.NegationConfig]


class _Bench(NamedTuple):
  """What is measured with of one seed."""

  config: negation_config.NegationConfig
  seed: int
  setting_fn: Callable[[], setting_lib.Setting]
  # (setting, task, name on disk) -> converged model, kept while the seed lasts
  finetune: Callable[..., Params]


def run(
    config: negation_config.NegationConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> negation_results.Results:
  """Runs the experiment in the work folder; returns and writes its results.

  Arguments and errors are those of `task_arithmetic.run`, but there are no
  bounds, and of several processes it refuses all.
  """
  negation_config.check(config)
  checks.one_process()
  tasks = setting_lib.load_tasks(config)
  negation_config.check_tasks(config, tasks)
  job = job_lib.begin(config, folder, tasks)
  found = negation_results.Results(
      setting=setting_summary.summarise(
          config,
          job.setting_fn(config.seeds[0]),
          command=command,
          finetuning=(
              f'{description.update_rule(config.empirical)},'
              f' {description.length(config)} {config.empirical.max_epochs}'
              ' epochs'
          ),
          left_out=_left_out(config),
      ),
      control=config.control,
      forgetting=[],
      disentanglement=[],
      analogies=[],
      seconds=job.seconds,
  )
  for seed in config.seeds:
    _add_seed(job, seed, found)
  results_lib.write(job.folder / 'results.json', found)
  negation_page.write_page(found, job.folder)
  return found


def summary(results: negation_results.Results) -> str:
  """Returns a table of what was asked and what was measured."""
  return claims.format_table(negation_findings.claims(results))


def _bench(job: _Job, seed: int) -> _Bench:
  models: dict[str, Params] = {}

  def finetune(setting, task, name=''):
    name = name or task
    if name not in models:
      models[name] = negation_models.finetuned(
          job.config, setting, job.folder, task, seed=seed, name=name
      )
    return models[name]

  setting_fn = functools.partial(job.setting_fn, seed)
  return _Bench(job.config, seed, setting_fn, finetune)


def _add_seed(job: _Job, seed: int, found: negation_results.Results) -> None:
  """Adds everything of one seed, from the folder what is there."""
  bench = _bench(job, seed)

  def once(part: str, kind: Any, compute) -> Any:
    make = functools.partial(compute, bench)
    return job.once(f'{part}-{seed}', list[kind], make)

  found.forgetting += once(
      'forgetting', negation_results.Forgetting, _forgetting
  )
  if job.config.map_scalings:
    found.disentanglement += once(
        'map', negation_results.Disentanglement, _maps
    )
  if job.config.analogy:
    found.analogies += once('analogy', negation_results.Analogy, _analogy)


def _task_vectors(bench: _Bench, tasks) -> dict[str, Params]:
  setting = bench.setting_fn()
  return {
      task: arithmetic.task_vector(
          bench.finetune(setting, task), setting.base_params
      )
      for task in tasks
  }


def _forgetting(bench: _Bench) -> list[negation_results.Forgetting]:
  setting, config = bench.setting_fn(), bench.config
  task_vectors = _task_vectors(bench, setting.data)
  targets = config.targets or tuple(setting.data)
  return forgetting.forget(
      setting,
      {
          'base': forgetting.Start(setting.base_params, {}),
          'merged': _merged_start(setting, task_vectors, config.alphas),
          'multitask': forgetting.Start(
              bench.finetune(setting, config_lib.MULTITASK),
              {target: _without(bench, target) for target in targets},
          ),
      },
      task_vectors,
      targets=targets,
      scalings=config.scalings,
      control=config.control,
      seed=bench.seed,
  )


def _merged_start(
    setting: setting_lib.Setting, task_vectors: Mapping[str, Params], alphas
) -> forgetting.Start:
  """Returns the merge of all tasks, its coefficient by validation data."""
  total = arithmetic.weighted_sum(
      task_vectors, dict.fromkeys(task_vectors, 1.0)
  )
  candidates = sorted({1 / len(task_vectors), *alphas})
  validation = evaluation.place(setting, 'validation')
  curves = evaluation.curves(validation, setting.base_params, total, candidates)
  alpha = accuracy.choose_alpha(curves, candidates)
  return forgetting.merged_start(setting.base_params, task_vectors, alpha)


def _without(bench: _Bench, target: str) -> Params:
  """Returns multitask training on all tasks but one."""
  setting = bench.setting_fn()
  others = [task for task in setting.data if task != target]
  return bench.finetune(
      negation_models.only(setting, others),
      config_lib.MULTITASK,
      f'without_{target}',
  )


def _maps(bench: _Bench) -> list[negation_results.Disentanglement]:
  setting, config = bench.setting_fn(), bench.config
  pair = config.pair or tuple(setting.data)[:2]
  return disentanglement.maps(
      setting,
      _task_vectors(bench, pair),
      scalings=config.map_scalings,
      num_images=config.map_images,
      seed=bench.seed,
  )


def _analogy(bench: _Bench) -> list[negation_results.Analogy]:
  return [
      analogy.analogy(
          bench.setting_fn(),
          bench.finetune,
          known=bench.config.analogy[0],
          asked=bench.config.analogy[1],
          scalings=bench.config.scalings,
          seed=bench.seed,
      )
  ]


def _left_out(config: negation_config.NegationConfig) -> list[str]:
  """Returns sentences that say what the run's budget left out."""
  said = [
      'Models that are FINETUNED in the tangent space are left out; the'
      ' linearised model is post hoc.',
  ]
  if config.targets:
    said.append(f'Only {", ".join(config.targets)} are forgotten.')
  if config.map_scalings:
    said.append(
        'The disentanglement map is of one pair of tasks'
        + (
            f', on at most {config.map_images:,} test images of each.'
            if config.map_images
            else '.'
        )
    )
  else:
    said.append('The disentanglement map is left out.')
  if not config.analogy:
    said.append('The analogy is left out.')
  return said
