"""What the parts of the study of linear teachers share: training, judging."""

from collections.abc import Sequence

import jax
import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.report import verdicts
from taskvec_jax.studies import deep_linear
from taskvec_jax.studies import linear_flow
from taskvec_jax.studies import linear_merging
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_AGREEMENT = 0.95  # of cells outside the margin


def finding(
    where: str, predicted: str, measured: str, holds: bool, note: str
) -> verdicts.Finding:
  """Returns a part of a claim that holds or does not."""
  verdict = verdicts.of(holds)
  return verdicts.Finding(where, predicted, measured, verdict, note)


def agreement(
    config: config_lib.LinearTeachersStudyConfig,
    where: str,
    predicted: str,
    law: np.ndarray,
    measured: np.ndarray,
    region: np.ndarray,
) -> verdicts.Finding:
  """Returns the finding on the cells in which one risk should be the lower.

  Args:
    config: gives the margin: cells in which `law` is near 0 are not judged.
    where: which risks.
    predicted: by what.
    law: log10 of the predicted ratio of risks, a table.
    measured: of the measured one.
    region: whether it should be above 0.
  """
  same = region == (measured > 0)
  judged = np.abs(law) > np.log10(1 + config.map_margin)
  share = float(np.mean(same[judged])) if judged.any() else 1.0
  return finding(
      where,
      f'{predicted} in {_AGREEMENT:.0%} of cells',
      f'{share:.1%}',
      share >= _AGREEMENT,
      f'Of {judged.sum()} cells of {same.size} whose predicted ratio of risks'
      f' is more than {config.map_margin:.0%} from 1, {(judged & region).sum()}'
      f' of them above; of all cells {np.mean(same):.1%}. Means over'
      f' {len(config.seeds) * config.map_draws} draws.',
  )


def draw_problems(
    config: config_lib.LinearTeachersStudyConfig,
    part: int,
    *,
    sizes: Sequence[float],
    cosines: Sequence[float],
    num_draws: int,
) -> deep_linear.Problems:
  """Returns the problems of all seeds; kinds of one draw lie together."""
  found = [
      deep_linear.draw_problems(
          np.random.default_rng([part, seed]),
          sizes=sizes,
          cosines=cosines,
          dimension=config.dimension,
          num_examples=config.num_examples,
          num_draws=num_draws,
      )
      for seed in config.seeds
  ]
  return deep_linear.Problems(*map(np.concatenate, zip(*found, strict=True)))


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
