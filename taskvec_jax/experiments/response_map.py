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
from taskvec_jax.typing import Params

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
  fns = task_losses.grad_and_hvp_fns(setting)
  for name, fn in tqdm.tqdm(
      fns.items(), desc='eigenvalues', disable=None, leave=False
  ):
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
  """Returns the map's row of one learning rate, as a map of one row.

  One prediction after the other: of a large model both at once, with what they
  carry for every task, need twice the memory.
  """
  base_params, scaling = setting.base_params, setting.scaling
  plain = task_losses.value_and_grad_fns(setting)
  curved = task_losses.grad_and_hvp_fns(setting)
  bar = tqdm.tqdm(
      desc=f'response at eta lambda = {learning_rate * lambda_max:.2g}',
      total=3 * max(epochs),
      disable=None,
      leave=False,
  )
  merged = _merged(setting, plain, learning_rate, epochs, bar)
  steps = [curved] * max(merged, default=0)
  cells = {epoch: dict.fromkeys(FIELDS) for epoch in epochs}
  for state in correction.corrections(
      base_params, steps, scaling, learning_rate=learning_rate
  ):
    bar.update()
    if state.step in merged:
      gap = tree.sub(merged[state.step], state.params)
      second = tree.scale(learning_rate**2, state.correction)
      moved = tree.norm(tree.sub(state.params, base_params))
      cells[state.step] |= {
          'correction_share': _ratio(tree.norm(second), moved),
          'left_by_correction': _ratio(
              tree.norm(tree.sub(gap, second)), tree.norm(gap)
          ),
      }
  for state in response.responses(
      base_params, steps, scaling, learning_rate=learning_rate
  ):
    bar.update()
    if state.step in merged:
      gap = tree.sub(merged[state.step], state.params)
      moved = tree.norm(tree.sub(state.params, base_params))
      cells[state.step] |= {
          'gap_share': _ratio(tree.norm(gap), moved),
          'response_share': _ratio(tree.norm(state.response), moved),
          'left_by_response': _ratio(
              tree.norm(tree.sub(gap, state.response)), tree.norm(gap)
          ),
          'indicator': _indicator(plain, curved, state),
      }
  bar.close()
  columns = {
      field: [cells[epoch][field] for epoch in epochs] for field in FIELDS
  }
  return results_lib.ResponseMap(
      dtype=str(jax.tree.leaves(base_params)[0].dtype),
      num_examples=setting_lib.largest_train(setting),
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


def _merged(setting, plain, learning_rate, epochs, bar) -> dict[int, Params]:
  """Returns theta_TA after each of `epochs`, up to where a task diverges."""
  base_params = setting.base_params
  tracks = {
      name: gradient_descent.trajectory(
          base_params, fn, learning_rate=learning_rate, num_epochs=max(epochs)
      )
      for name, fn in plain.items()
  }
  merged = {}
  try:
    for epoch in range(1, max(epochs) + 1):
      finetuned = {name: next(track)[0] for name, track in tracks.items()}
      bar.update()
      if epoch in epochs:
        task_vectors = {
            name: arithmetic.task_vector(params, base_params)
            for name, params in finetuned.items()
        }
        merged[epoch] = arithmetic.merge(
            base_params, task_vectors, setting.scaling
        )
  except FloatingPointError:
    pass  # beyond the edge of stability: the map shows it
  return merged


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
