"""Alternating tuning and merging (ATM) against trainings of the same budget.

For every seed, from one base model: PA-ATM with the mean as merge step, for
every split of a budget of epochs into rounds; PH-ATM from the one-shot merge of
fully finetuned models, on validation data; and what each has to be compared
with, since ATM reads every task's images many times and sends parameters every
round.

PA-ATM with the mean IS federated averaging with one weight for all clients,
and with alpha other than 1 batched Reptile. The row 'FedAvg' differs in
nothing but the weights: each task's share of the training images in place of
1/T.

Source: Zhou et al., "ATM: Improving Model Merging by Alternating Tuning and
Merging", arXiv:2411.03055; the comparisons at equal budgets are this project's.
"""

import functools
import pathlib

import tqdm

from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import atm_identity
from taskvec_jax.experiments import atm_trainings
from taskvec_jax.experiments import checks
from taskvec_jax.experiments import description
from taskvec_jax.experiments import job as job_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import setting_summary
from taskvec_jax.report import atm_findings
from taskvec_jax.report import atm_page
from taskvec_jax.report import atm_results
from taskvec_jax.report import claims
from taskvec_jax.report import results as results_lib


def run(
    config: atm_config.ATMConfig,
    folder: str | pathlib.Path,
    *,
    command: str,
) -> atm_results.Results:
  """Runs the experiment in the work folder; returns and writes its results.

  Arguments and errors are those of `task_arithmetic.run`, but there are no
  bounds, and of several processes it refuses all.
  """
  atm_config.check(config)
  checks.one_process()
  job = job_lib.begin(config, folder, setting_lib.load_tasks(config))
  found = atm_results.Results(
      setting=setting_summary.summarise(
          config,
          job.setting_fn(config.seeds[0]),
          command=command,
          finetuning=description.update_rule(config.empirical)
          + ', the optimizer anew in every round',
          left_out=_left_out(config),
      ),
      budget=atm_config.budget(config),
      scaling=config.scaling,
      identity=[],
      references=[],
      curves=[],
      seconds=job.seconds,
  )
  trainings = atm_trainings.trainings(config)
  bar = tqdm.tqdm(
      total=len(config.seeds) * len(trainings), disable=None, leave=False
  )
  for seed in config.seeds:
    if config.identity_rounds and seed == config.seeds[0]:
      found.identity += job.once(
          f'identity-{seed}',
          list[atm_results.Identity],
          lambda seed=seed: atm_identity.identity(
              config, job.tasks, job.setting_fn(seed), seed
          ),
      )
    bench = atm_trainings.bench(config, seed, job.setting_fn)
    found.references.append(
        job.once(
            f'references-{seed}',
            atm_results.Reference,
            functools.partial(atm_trainings.reference, bench),
        )
    )
    for name, train in trainings.items():
      bar.set_description(f'seed {seed} {name}')
      found.curves.append(
          job.once(
              f'-{seed}-'.join(name.split()),
              atm_results.Curve,
              functools.partial(train, bench),
          )
      )
      bar.update()
  bar.close()
  results_lib.write(job.folder / 'results.json', found)
  atm_page.write_page(found, job.folder)
  return found


def summary(results: atm_results.Results) -> str:
  """Returns a table of what was asked and what was measured."""
  return claims.format_table(atm_findings.claims(results))


def _left_out(config: atm_config.ATMConfig) -> list[str]:
  """Returns sentences that say what the run's budget left out."""
  said = [
      'Step sizes are the same for all trainings, tuned for none; only the'
      ' multitask descent chooses its own, on validation data.',
      'All tasks take part in every round; clients that come and go, noise and'
      ' compression, which federated learning is about, are not simulated.',
  ]
  if config.identity_rounds:
    said.append(
        'The identity is measured for the first seed'
        f' ({config.seeds[0]}) alone'
        + (
            f', on at most {config.identity_examples} training images a task.'
            if config.identity_examples
            else '.'
        )
    )
  for name, wanted in (
      ('Rounds that merge by TIES', config.ties_density),
      ('Post-hoc rounds', config.posthoc_rounds),
      ('Multitask descent', config.descent_rates),
      ('The identity', config.identity_rounds),
  ):
    if not wanted:
      said.append(f'Left out: {name}.')
  return said
