"""Claim 3: where linear response predicts the gap, over (eta, k).

For step sizes up to the edge of stability, `eta lambda_max = 2`, and epochs up
to k: the measured gap, what `eta^2 C_k` leaves of it, what linear response
leaves of it, and the a posteriori indicator, which knows no finetuned model.
One learning rate is one part of the run; it costs, a task and epoch, one
gradient and two jvp-of-grad passes.
"""

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np
import tqdm

from taskvec_jax import tree
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.report import results as results_lib
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import lanczos
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic

FIELDS = (
    'gap_share',
    'correction_share',
    'response_share',
    'left_by_correction',
    'left_by_response',
    'indicator',
)


def map_epochs(num_epochs: int) -> list[int]:
  """Returns the epochs of the map: 2, 3, 5, 10, 20, 50, ... up to k."""
  steps = [2, 3, 5, 10, 20, 50, 100, 200, 500]
  return sorted({*(e for e in steps if e < num_epochs), max(num_epochs, 2)})


def extreme_eigenvalues(
    setting: setting_lib.Setting, *, num_iterations: int, seed: int
) -> dict[str, list[float]]:
  """Returns each task's (lowest, highest) eigenvalue of `H_t(theta_0)`."""
  base_params = setting.base_params
  out = {}
  for name, fn in task_losses.grad_and_hvp_fns(setting).items():
    pair = lanczos.extreme_eigenvalues(
        jax.random.key(seed),
        lambda v, fn=fn: fn(base_params, v)[1],
        base_params,
        num_iterations=num_iterations,
    )
    out[name] = list(pair)
  return out


def map_row(
    setting: setting_lib.Setting,
    *,
    learning_rate: float,
    lambda_max: float,
    epochs: Sequence[int],
) -> results_lib.ResponseMap:
  """Returns the map's row of one learning rate, as a map of one row."""
  base_params, scaling = setting.base_params, setting.scaling
  plain = task_losses.value_and_grad_fns(setting)
  curved = task_losses.grad_and_hvp_fns(setting)
  last = max(epochs)
  tracks = {
      name: gradient_descent.trajectory(
          base_params, fn, learning_rate=learning_rate, num_epochs=last
      )
      for name, fn in plain.items()
  }
  steps = [curved] * last
  second = correction.corrections(
      base_params, steps, scaling, learning_rate=learning_rate
  )
  linear = response.responses(
      base_params, steps, scaling, learning_rate=learning_rate
  )
  columns = {field: [] for field in FIELDS}
  diverged = False
  for epoch in tqdm.trange(
      1,
      last + 1,
      desc=f'response at eta lambda = {learning_rate * lambda_max:.2g}',
      disable=None,
      leave=False,
  ):
    cell: dict[str, float | None] = dict.fromkeys(FIELDS)
    try:
      if not diverged:
        finetuned = {name: next(track)[0] for name, track in tracks.items()}
        corrected, responded = next(second), next(linear)
        if epoch in epochs:
          cell = _cell(setting, finetuned, corrected, responded, learning_rate)
          cell['indicator'] = _indicator(plain, curved, responded)
    except FloatingPointError:
      diverged = True  # beyond the edge of stability: the map shows it
    if epoch in epochs:
      for field, column in columns.items():
        column.append(cell[field])
  return results_lib.ResponseMap(
      dtype=str(jax.tree.leaves(base_params)[0].dtype),
      num_examples=max(d.train.num_examples for d in setting.data.values()),
      lambda_max=lambda_max,
      learning_rates=[learning_rate],
      epochs=list(epochs),
      **{name: [column] for name, column in columns.items()},
  )


def join_rows(
    rows: Sequence[results_lib.ResponseMap], *, lambda_max: float
) -> results_lib.ResponseMap:
  """Returns the rows, all of the same epochs, as one map; of none, an empty."""
  if not rows:
    return results_lib.ResponseMap(
        dtype='',
        num_examples=0,
        lambda_max=lambda_max,
        learning_rates=[],
        epochs=[],
        **{field: [] for field in FIELDS},
    )
  joined = {
      field: [entry for row in rows for entry in getattr(row, field)]
      for field in ('learning_rates', *FIELDS)
  }
  return dataclasses.replace(rows[0], **joined)


def _cell(setting, finetuned, corrected, responded, learning_rate):
  """Returns the norms and ratios of one (eta, k), without the indicator."""
  base_params = setting.base_params
  task_vectors = {
      name: arithmetic.task_vector(params, base_params)
      for name, params in finetuned.items()
  }
  merged_params = arithmetic.merge(base_params, task_vectors, setting.scaling)
  gap = tree.sub(merged_params, responded.params)
  moved = tree.norm(tree.sub(responded.params, base_params))
  second = tree.scale(learning_rate**2, corrected.correction)
  linear = responded.response
  return {
      'gap_share': _ratio(tree.norm(gap), moved),
      'correction_share': _ratio(tree.norm(second), moved),
      'response_share': _ratio(tree.norm(linear), moved),
      'left_by_correction': _ratio(
          tree.norm(tree.sub(gap, second)), tree.norm(gap)
      ),
      'left_by_response': _ratio(
          tree.norm(tree.sub(gap, linear)), tree.norm(gap)
      ),
  }


def _indicator(plain, curved, responded: response.ResponseState):
  """Returns the largest indicator, at theta_MT^(e) and D_t^(e)."""
  return _finite(
      max(
          response.indicator(
              plain[name],
              curved[name],
              responded.params,
              responded.drift[name],
          )
          for name in plain
      )
  )


def _ratio(part, whole) -> float | None:
  return _finite(float(part) / float(whole)) if float(whole) else None


def _finite(value: float) -> float | None:
  return float(value) if np.isfinite(value) else None
