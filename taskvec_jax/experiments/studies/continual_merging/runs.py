"""Trains and merges a sequence of tasks by every method; numbers out."""

from collections.abc import Mapping
import functools

import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments.studies.continual_merging import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.continual_merging import (
    measures as measures_lib,
)
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.experiments.studies.continual_merging import tasks as tasks_lib
from taskvec_jax.merging import magmax
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.studies import continual_merging
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_GRID = np.linspace(0, 1, 11)  # scalings that a measured loss is sampled at


def run(
    config: config_lib.ContinualMergingStudyConfig, sequence: str, seed: int
) -> records.Sequence:
  """Returns all that is measured on one sequence with one seed.

  Raises:
    FloatingPointError: a loss became NaN or infinite; names sequence, task,
      method, seed and epoch.
  """
  setting = tasks_lib.build(config, sequence, seed)
  measures = measures_lib.measures(config, setting, seed)
  base, tasks = setting.base_params, list(setting.data)

  def train_fn(training, method):
    train = tasks_lib.train_fn(
        config,
        setting,
        training,
        functools.partial(measures.fisher_fn, records.EMPIRICAL),
        seed=seed,
    )

    def named(task, previous, seen):
      try:
        return train(task, previous, seen)
      except FloatingPointError as error:
        raise FloatingPointError(
            f'{sequence}, task {task!r}, {method}, seed {seed}: {error}'
        ) from error

    return named

  alone = train_fn(records.PLAIN, 'a model for each task')
  own = {task: alone(task, base, {}) for task in tasks}
  found = records.Sequence(
      sequence=sequence,
      seed=seed,
      base=measures.accuracy_fn(dict.fromkeys(tasks, base)),
      own=measures.accuracy_fn(own),
      posthoc={},
      walks=[],
      comparisons=[],
      penalties=[],
  )
  _add_posthoc(
      found,
      measures,
      base,
      records.AVERAGE,
      arithmetic.weighted_sum(
          _task_vectors(own, base), arithmetic.uniform_scaling(tasks)
      ),
  )
  for method in records.METHODS:
    training, rule = method
    steps = list(
        continual_merging.sequence(
            base,
            tasks,
            train_fn(training, f'{training} training with coefficient {rule}'),
            coefficient_fn(measures, rule),
        )
    )
    found.walks.append(_walk(measures, method, steps))
    if method == records.SEQUENTIAL:
      finetuned = {step.task: step.finetuned_params for step in steps}
      largest = magmax.magmax(_task_vectors(finetuned, base))
      largest = tree.scale(config.magmax_scaling, largest)
      _add_posthoc(found, measures, base, records.MAGMAX, largest)
    if method in (records.MERGED, records.PAPER):
      found.comparisons += _comparisons(measures, training, steps)
      found.penalties.append(
          measures_lib.penalty(setting, training, steps[1], config=config)
      )
  return found


def coefficient_fn(
    measures: measures_lib.Measures, rule: str
) -> continual_merging.CoefficientFn:
  """Returns the rule for `alpha_t`, one of `records`."""
  if rule == records.LAST:
    return continual_merging.last_model
  if rule == records.MEAN:
    return continual_merging.running_mean
  if rule == records.MEASURED:
    return functools.partial(_measured, measures)
  if rule == records.HESSIAN:
    return lambda previous, direction, seen: closed_form(
        previous, direction, seen, _products(measures, direction, seen)
    )
  kept = {}  # every task's diagonal is taken once, when it has been trained

  def by_fisher(previous, direction, seen):
    for task in seen.keys() - kept.keys():
      kept[task] = measures.fisher_fn(rule, task, seen[task])
    fns = perturb_and_merge.fisher_product_fns(kept)
    products = {task: fns[task](direction) for task in seen}
    return closed_form(previous, direction, seen, products)

  return by_fisher


def closed_form(
    previous: Params,
    direction: Params,
    seen: Mapping[str, Params],
    products: Mapping[str, Params],
) -> float:
  """Returns the paper's coefficient, of products `H_i Delta` that are there."""
  # It reads differences alone: parameters stand for task vectors.
  return perturb_and_merge.coefficient(
      previous,
      direction,
      seen,
      {task: (lambda _, p=p: p) for task, p in products.items()},
  )


def _measured(measures, previous, direction, seen) -> float:
  losses = measures.losses_fn(previous, direction, list(seen), _GRID)
  return continual_merging.sampled_minimiser(_GRID, losses.sum(0))


def _products(measures, direction, seen) -> dict[str, Params]:
  """Returns task -> `H_i Delta`, at each task's own optimum."""
  return {
      task: measures.hvp_fns[task](params, direction)[1]
      for task, params in seen.items()
  }


def _comparisons(measures, training, steps) -> list[records.Comparison]:
  rules = {
      rule: coefficient_fn(measures, rule)
      for rule in records.RULES
      if rule != records.HESSIAN
  }
  found, seen = [], {}
  for step in steps:
    seen[step.task] = step.finetuned_params
    if len(seen) > 1:
      found.append(_compare(measures, rules, training, step, dict(seen)))
  return found


def _compare(measures, rules, training, step, seen) -> records.Comparison:
  """Returns what every rule makes of one step's Delta."""
  previous = step.previous_params
  direction = tree.sub(step.finetuned_params, previous)
  products = _products(measures, direction, seen)
  alphas = {
      records.HESSIAN: closed_form(previous, direction, seen, products),
      **{rule: fn(previous, direction, seen) for rule, fn in rules.items()},
  }
  # [tasks, rules and both ends]; the new task's is the last row.
  losses = measures.losses_fn(
      previous, direction, list(seen), [*alphas.values(), 0.0, 1.0]
  )
  curvature = float(tree.vdot(direction, products[step.task]))
  return records.Comparison(
      training=training,
      step=len(seen),
      alphas=alphas,
      losses={
          rule: float(loss)
          for rule, loss in zip(alphas, losses.mean(0)[:-2], strict=True)
      },
      predicted_rise=curvature / 2,
      measured_rise=float(losses[-1, -2] - losses[-1, -1]),
  )


def _walk(measures, method, steps) -> records.Walk:
  training, rule = method
  tasks = [step.task for step in steps]
  last = steps[-1].merged_params
  accuracies = [
      measures.accuracy_fn(dict.fromkeys(tasks[:t], step.merged_params))
      for t, step in enumerate(steps, start=1)
  ]
  return records.Walk(
      training=training,
      rule=rule,
      alphas=[step.alpha for step in steps],
      seen=[evaluation.mean(found) for found in accuracies],
      final=measures.accuracy_fn(dict.fromkeys(tasks, last)),
      own=measures.accuracy_fn({s.task: s.finetuned_params for s in steps}),
  )


def _add_posthoc(found, measures, base, name, vector) -> None:
  params = arithmetic.edit(base, vector)
  found.posthoc[name] = measures.accuracy_fn(dict.fromkeys(found.own, params))


def _task_vectors(finetuned, base) -> dict[str, Params]:
  return {
      task: arithmetic.task_vector(params, base)
      for task, params in finetuned.items()
  }
