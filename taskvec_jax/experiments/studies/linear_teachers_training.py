"""What the parts of the study of linear teachers share: training, judging."""

from collections.abc import Sequence

import jax
import numpy as np

from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_flow
from taskvec_jax.studies import linear_merging
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def finding(
    where: str, predicted: str, measured: str, holds: bool, note: str
) -> study_results.Finding:
  """Returns a part of a claim that holds or does not."""
  verdict = verdicts.of(holds)
  return study_results.Finding(where, predicted, measured, verdict, note)


def means(values: np.ndarray) -> tuple[list[float], list[float]]:
  """Returns mean and standard error over the last axis of `values [x, draw]`.

  One draw has no spread; its standard error is given as 0.
  """
  num_draws = values.shape[-1]
  errors = np.zeros(len(values))
  if num_draws > 1:
    errors = np.std(values, axis=-1, ddof=1) / np.sqrt(num_draws)
  return np.mean(values, axis=-1).tolist(), errors.tolist()


def series(
    label: str,
    color: int,
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float],
) -> study_results.Series:
  """Returns a measured line with a band of one standard error."""
  at, error = np.asarray(y), np.asarray(errors)
  return study_results.Series(
      label,
      study_results.MEASURED,
      color,
      list(x),
      list(y),
      (at - error).tolist(),
      (at + error).tolist(),
  )


def one_layer(problems: deep_linear.Problems) -> np.ndarray:
  """Returns the ends of gradient descent on one layer, `[P, d]`."""
  # With one layer the step size leaves no trace in the limit.
  params = descent(
      problems, num_layers=1, width=1, step_size=1.0, tolerance=1e-14
  )
  return deep_linear.end_to_end(params)


def descent(
    problems: deep_linear.Problems,
    *,
    num_layers: int,
    width: int,
    step_size: float,
    tolerance: float,
) -> Params:
  """Returns where descent from balanced starts ends; float64."""
  with jax.enable_x64(True):
    start, fn = _start(problems, num_layers=num_layers, width=width)
    return linear_flow.descend(
        start, fn, step_size=step_size, tolerance=tolerance
    )


def flow(
    problems: deep_linear.Problems,
    *,
    num_layers: int,
    width: int,
    start: Params | None = None,
) -> Params:
  """Returns where the flow ends, from `start` or a balanced one; float64."""
  with jax.enable_x64(True):
    balanced, fn = _start(problems, num_layers=num_layers, width=width)
    return linear_flow.gradient_flow(start or balanced, fn)


def _start(problems, *, num_layers, width):
  # The seed moves nothing that is measured: it draws the hidden directions.
  params = deep_linear.balanced_params(
      problems.source, num_layers=num_layers, width=width, seed=num_layers
  )
  units = deep_linear.time_units(problems, num_layers=num_layers)
  return params, deep_linear.value_and_grad_fn(
      problems, units, num_layers=num_layers, width=width
  )


def draw_tasks(config, part, *, num_tasks, cosine, num_examples, num_draws):
  """Returns tasks `[draw, T, d]` as problems of one layer, from the base 0."""
  differences, inputs = [], []
  for seed in config.seeds:
    rng = np.random.default_rng([part, seed])
    for _ in range(num_draws):
      differences.append(
          linear_merging.equicorrelated(
              rng,
              num_tasks=num_tasks,
              dimension=config.dimension,
              cosine=cosine,
          )
      )
      inputs.append(
          rng.normal(size=(num_tasks, num_examples, config.dimension))
      )
  return np.stack(differences), np.stack(inputs)


def task_vectors(differences, inputs) -> dict[str, np.ndarray]:
  """Trains every task of every draw from zero; task -> `tau [draw, d]`."""
  num_draws, num_tasks, d = differences.shape
  problems = deep_linear.Problems(
      np.zeros((num_draws * num_tasks, d)),
      differences.reshape((-1, d)),
      inputs.reshape((num_draws * num_tasks, -1, d)),
  )
  ends = one_layer(problems).reshape((num_draws, num_tasks, d))
  return {f'{t}': ends[:, t] for t in range(num_tasks)}


def merged_risks(task_vectors, differences, alphas) -> np.ndarray:
  """Returns the risk of merges, mean over tasks, `[alpha, draw]`."""
  base = np.zeros_like(differences[:, 0])
  found = []
  for alpha in alphas:
    with jax.enable_x64(True):
      merged = np.asarray(
          arithmetic.merge(
              base,
              task_vectors,
              arithmetic.uniform_scaling(task_vectors, alpha),
          )
      )
    missed = merged[:, None] - differences
    found.append(np.mean(np.sum(missed**2, axis=-1), axis=-1))
  return np.array(found)
