"""Claim 6: accuracy of merged models by epochs of finetuning before merging.

For one seed and regime: every task's own models, the merged models with
coefficient 1/T and with the coefficient that validation data choose, and the
multitask models, after each of the merged epochs and at convergence; the
coefficients are all evaluated in one compiled program.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import epochs as epochs_lib
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import coefficient_search
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def base_accuracy(
    setting: setting_lib.Setting, *, seed: int
) -> results_lib.Accuracy:
  """Returns the test accuracy of `theta_0` with the frozen heads."""
  return results_lib.Accuracy(
      seed=seed,
      regime='',
      model='base',
      epochs=None,
      converged=False,
      alpha_rule='',
      alpha=None,
      accuracy=_test(setting, dict.fromkeys(setting.data, setting.base_params)),
  )


class Which(NamedTuple):
  """Which models are compared."""

  seed: int
  regime: str
  epochs: int | None  # of finetuning; None for converged


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
  found = []
  for epochs in [*merge_epochs, None]:
    params = {name: _params(run, epochs) for name, run in runs.items()}
    multitask_params = params.pop(regimes.MULTITASK)
    which = Which(seed, regime, epochs)
    found.append(
        compare(setting, params, multitask_params, which, alphas=alphas)
    )
  return found


def compare(
    setting: setting_lib.Setting,
    finetuned_params: Mapping[str, Params],
    multitask_params: Params | None,
    which: Which,
    *,
    alphas: Sequence[float],
) -> results_lib.Models:
  """Returns the accuracies of single-task, merged and multitask models.

  Args:
    setting: of the seed.
    finetuned_params: each task's own.
    multitask_params: None where there are none.
    which: for the rows.
    alphas: coefficients to choose from; 1/T is always among them.
  """
  rows = []

  def add(model, params, alpha_rule='', alpha=None):
    rows.append(
        results_lib.Accuracy(
            seed=which.seed,
            regime=which.regime,
            model=model,
            epochs=which.epochs,
            converged=which.epochs is None,
            alpha_rule=alpha_rule,
            alpha=alpha,
            accuracy=_test(setting, params),
        )
    )

  tasks = list(setting.data)
  add('finetuned', finetuned_params)
  if multitask_params is not None:
    add('multitask', dict.fromkeys(tasks, multitask_params))
  task_vectors = {
      name: arithmetic.task_vector(finetuned_params[name], setting.base_params)
      for name in tasks
  }
  total = arithmetic.weighted_sum(task_vectors, dict.fromkeys(tasks, 1.0))
  uniform = 1 / len(tasks)
  chosen = choose_alpha(setting, total, sorted({uniform, *alphas}))
  for rule, alpha in (('1/T', uniform), ('validation', chosen)):
    merged_params = arithmetic.edit(setting.base_params, total, alpha)
    add('merged', dict.fromkeys(tasks, merged_params), rule, alpha)
  return results_lib.Models(rows, _similarity(task_vectors, which))


def _similarity(
    task_vectors: Mapping[str, Params], which: Which
) -> results_lib.Similarity:
  names = list(task_vectors)
  norms = {name: float(tree.norm(v)) for name, v in task_vectors.items()}
  return results_lib.Similarity(
      seed=which.seed,
      regime=which.regime,
      epochs=which.epochs,
      tasks=names,
      norms=list(norms.values()),
      cosines=[
          [_cosine(task_vectors, norms, first, second) for second in names]
          for first in names
      ],
  )


def _cosine(task_vectors, norms, first: str, second: str) -> float:
  # One order of the two, so that the table is symmetric to the last bit.
  first, second = sorted((first, second))
  length = norms[first] * norms[second]
  product = float(tree.vdot(task_vectors[first], task_vectors[second]))
  return product / length if length else 0.0


def choose_alpha(
    setting: setting_lib.Setting, total: Params, alphas: Sequence[float]
) -> float:
  """Returns the coefficient with the best mean accuracy on validation data.

  Args:
    setting: gives the base, the heads and the validation examples.
    total: `sum_t tau_t`.
    alphas: the candidates, rising; of equals the smallest is taken.
  """
  curves = evaluation.curve_fn(setting, 'validation')(
      setting.base_params, total, alphas
  )
  mean = np.mean([curves[name] for name in setting.data], axis=0)
  return coefficient_search.choose(alphas, mean)


def _params(run: epochs_lib.Run, epochs: int | None) -> Params:
  return run.converged if epochs is None else run.snapshots[epochs]


def _test(
    setting: setting_lib.Setting, params: Mapping[str, Params]
) -> dict[str, float]:
  """Returns each task's test accuracy under its own entry of `params`."""
  return evaluation.accuracy_fn(setting, 'test')(params)
