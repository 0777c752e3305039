"""Forgetting a task by subtracting its vector, the others being the control.

  theta(lambda) = start - lambda tau_t,   tau_t = theta_t - theta_0.

lambda is chosen on validation data, the lowest accuracy on t among those that
keep the mean accuracy on the other tasks at 95 % of the start's. The paper
starts from the pretrained model, theta_0. That suits a model that knows its
tasks before it is finetuned, as CLIP does; on a base that is little better than
chance there is little to forget. So two starts that have learned the task stand
beside it:

* the merged model, theta_0 + alpha sum_s tau_s: lambda = alpha takes the task
  out again exactly, and gives the merge that never held it;
* the multitask model, which never held tau_t as such. What it has to be
  compared with is multitask training on the other tasks alone.

Source: Ilharco et al., "Editing models with task arithmetic",
arXiv:2212.04089, for negation under control; the two other starts are this
project's.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import coefficient_search
from taskvec_jax.report import negation_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


class Start(NamedTuple):
  """A model, and what it would be had it never learned a task."""

  params: Params
  never: dict[str, Params]  # target -> parameters; {} where there is no such


def merged_start(
    base_params: Params, task_vectors: Mapping[str, Params], alpha: float
) -> Start:
  """Returns `theta_0 + alpha sum_t tau_t`, and the merges of the others."""
  return Start(
      arithmetic.merge(
          base_params, task_vectors, dict.fromkeys(task_vectors, alpha)
      ),
      {
          target: arithmetic.merge(
              base_params,
              task_vectors,
              {task: alpha * (task != target) for task in task_vectors},
          )
          for target in task_vectors
      },
  )


def forget(
    setting: setting_lib.Setting,
    starts: Mapping[str, Start],
    task_vectors: Mapping[str, Params],
    *,
    targets: Sequence[str],
    scalings: Sequence[float],
    control: float,
    seed: int,
) -> list[negation_results.Forgetting]:
  """Returns every target forgotten from every start.

  Args:
    setting: gives heads and examples.
    starts: name of `negation_results.STARTS` -> the model.
    task_vectors: task -> `tau_t`.
    targets: tasks to forget.
    scalings: candidates for lambda, rising from 0.
    control: share of the start's control accuracy to be kept.
    seed: for the rows.
  """
  validation = evaluation.place(setting, 'validation')
  test = evaluation.place(setting, 'test')

  def accuracies(params):
    return evaluation.accuracies(test, dict.fromkeys(setting.data, params))

  found = []
  for name, start in starts.items():
    before = accuracies(start.params)
    for target in targets:
      negated = tree.scale(-1.0, task_vectors[target])
      curves = evaluation.curves(validation, start.params, negated, scalings)
      others = [curve for task, curve in curves.items() if task != target]
      kept = np.mean(others, axis=0)
      scaling = coefficient_search.choose_under_control(
          scalings,
          curves[target],
          kept,
          minimum_control=control * float(kept[0]),
      )
      after = arithmetic.edit(start.params, negated, scaling)
      never = start.never.get(target)
      found.append(
          negation_results.Forgetting(
              seed=seed,
              start=name,
              target=target,
              chance=1 / setting.data[target].num_classes,
              scalings=list(scalings),
              target_curve=curves[target].tolist(),
              control_curve=kept.tolist(),
              scaling=scaling,
              before=before,
              after=accuracies(after),
              never=None if never is None else accuracies(never),
          )
      )
  return found
