"""Claim 6: accuracy of merged models by epochs of finetuning before merging.

For one seed and regime: every task's own models, the merged models with
coefficient 1/T and with the coefficient that validation data choose, and the
multitask models, after each of the merged epochs and at convergence; the
coefficients are all evaluated in one compiled program.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from taskvec_jax import tree
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import epochs as epochs_lib
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import coefficient_search
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


class Trained(NamedTuple):
  """Models after as many epochs of one regime."""

  epochs: int | None  # of finetuning; None for converged
  finetuned_params: Mapping[str, Params]  # each task's own
  multitask_params: Params | None  # None where there are none


def base_accuracy(
    setting: setting_lib.Setting, *, seed: int
) -> results_lib.Accuracy:
  """Returns the test accuracy of `theta_0` with the frozen heads."""
  base = dict.fromkeys(setting.data, setting.base_params)
  return results_lib.Accuracy(
      seed=seed,
      regime='',
      model='base',
      epochs=None,
      converged=False,
      alpha_rule='',
      alpha=None,
      accuracy=evaluation.accuracies(evaluation.place(setting, 'test'), base),
  )


def accuracy_by_epochs(
    setting: setting_lib.Setting,
    runs: Mapping[str, epochs_lib.Run],
    *,
    seed: int,
    regime: str,
    merge_epochs: Sequence[int],
    alphas: Sequence[float],
) -> list[results_lib.Models]:
  """Returns the models of one seed and regime, those of converged runs last.

  Args:
    setting: of the seed.
    runs: the finished run of each task, and of 'multitask'.
    seed: for the rows.
    regime: for the rows.
    merge_epochs: after each of these all models are compared, and converged.
    alphas: coefficients to choose from; 1/T is always among them.
  """
  trained = []
  for epochs in [*merge_epochs, None]:
    params = {name: _params(run, epochs) for name, run in runs.items()}
    multitask_params = params.pop(config_lib.MULTITASK)
    trained.append(Trained(epochs, params, multitask_params))
  return compare(setting, trained, seed=seed, regime=regime, alphas=alphas)


def compare(
    setting: setting_lib.Setting,
    trained: Iterable[Trained],
    *,
    seed: int,
    regime: str,
    alphas: Sequence[float],
) -> list[results_lib.Models]:
  """Returns the accuracies of single-task, merged and multitask models.

  Args:
    setting: of the seed.
    trained: what is compared; images are placed once for all of them.
    seed: for the rows.
    regime: for the rows.
    alphas: coefficients to choose from; 1/T is always among them.
  """
  test = evaluation.place(setting, 'test')
  validation = evaluation.place(setting, 'validation')
  base_params, tasks = setting.base_params, list(setting.data)
  uniform = 1 / len(tasks)
  candidates = sorted({uniform, *alphas})

  def compared(one: Trained) -> results_lib.Models:
    rows = []

    def add(model, params, alpha_rule='', alpha=None):
      rows.append(
          results_lib.Accuracy(
              seed=seed,
              regime=regime,
              model=model,
              epochs=one.epochs,
              converged=one.epochs is None,
              alpha_rule=alpha_rule,
              alpha=alpha,
              accuracy=evaluation.accuracies(test, params),
          )
      )

    add('finetuned', one.finetuned_params)
    if one.multitask_params is not None:
      add('multitask', dict.fromkeys(tasks, one.multitask_params))
    task_vectors = {
        name: arithmetic.task_vector(one.finetuned_params[name], base_params)
        for name in tasks
    }
    total = arithmetic.weighted_sum(task_vectors, dict.fromkeys(tasks, 1.0))
    curves = evaluation.curves(validation, base_params, total, candidates)
    chosen = choose_alpha(curves, candidates)
    for rule, alpha in (('1/T', uniform), ('validation', chosen)):
      merged_params = arithmetic.edit(base_params, total, alpha)
      add('merged', dict.fromkeys(tasks, merged_params), rule, alpha)
    similarity = _similarity(task_vectors, seed, regime, one.epochs)
    return results_lib.Models(rows, similarity)

  bar = tqdm.tqdm(
      trained,
      desc=f'seed {seed} {regime} accuracies',
      disable=None,
      leave=False,
  )
  return [compared(one) for one in bar]


def choose_alpha(
    curves: Mapping[str, np.ndarray], alphas: Sequence[float]
) -> float:
  """Returns the coefficient with the best mean accuracy on validation data.

  Args:
    curves: task name -> accuracies `[A]` of `theta_0 + alpha * sum_t tau_t`.
    alphas: the candidates `[A]`, rising; of equals the smallest is taken.
  """
  return coefficient_search.choose(alphas, np.mean([*curves.values()], axis=0))


def _similarity(
    task_vectors: Mapping[str, Params],
    seed: int,
    regime: str,
    epochs: int | None,
) -> results_lib.Similarity:
  tasks = list(task_vectors)
  norms = {name: float(tree.norm(v)) for name, v in task_vectors.items()}
  return results_lib.Similarity(
      seed=seed,
      regime=regime,
      epochs=epochs,
      tasks=tasks,
      norms=list(norms.values()),
      cosines=[
          [_cosine(task_vectors, norms, first, second) for second in tasks]
          for first in tasks
      ],
  )


def _cosine(task_vectors, norms, first: str, second: str) -> float:
  # One order of the two, so that the table is symmetric to the last bit.
  first, second = sorted((first, second))
  length = norms[first] * norms[second]
  product = float(tree.vdot(task_vectors[first], task_vectors[second]))
  return product / length if length else 0.0


def _params(run: epochs_lib.Run, epochs: int | None) -> Params:
  return run.converged if epochs is None else run.snapshots[epochs]
