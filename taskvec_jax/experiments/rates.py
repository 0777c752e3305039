"""Claim 2: the gap is second order in eta, what predictions leave is third.

For step sizes that halve, in float64: the measured gap theta_TA - theta_MT,
what `eta^2 C_k` (3.3) leaves of it and what linear response (3.7) leaves, with
the slopes of their logarithms. Full batch and mini-batches (3.5): in the
latter every step has its own batch, the same on both sides.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from taskvec_jax import tree
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import minibatch
from taskvec_jax.finetuning import multitask
from taskvec_jax.report import results as results_lib
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class Steps(NamedTuple):
  """What every step of a run differentiates, one mapping a step."""

  plain: list[Mapping[str, ValueAndGradFn]]
  curved: list[Mapping[str, GradAndHvpFn]]


class Norms(NamedTuple):
  """At one learning rate and one k."""

  gap: float
  left_by_correction: float
  left_by_response: float


def full_batch_steps(setting: setting_lib.Setting, num_steps: int) -> Steps:
  """Returns the same exact functions for every step."""
  plain = task_losses.value_and_grad_fns(setting)
  curved = task_losses.grad_and_hvp_fns(setting)
  return Steps([plain] * num_steps, [curved] * num_steps)


def minibatch_steps(
    setting: setting_lib.Setting,
    num_steps: int,
    *,
    batch_size: int,
    seed: int,
) -> Steps:
  """Returns one mini-batch a task and step, from one seeded permutation."""
  plain, curved = [], []
  orders = {
      name: minibatch.batch_order(
          seed,
          1,
          num_examples=data.train.num_examples,
          batch_size=min(batch_size, data.train.num_examples // num_steps),
      )
      for name, data in setting.data.items()
  }
  for step in range(num_steps):
    data = {
        name: task._replace(train=splits.chosen(task.train, orders[name][step]))
        for name, task in setting.data.items()
    }
    one = setting._replace(data=data)
    plain.append(task_losses.value_and_grad_fns(one))
    curved.append(task_losses.grad_and_hvp_fns(one))
  return Steps(plain, curved)


def rates(
    setting: setting_lib.Setting,
    steps: Steps,
    *,
    learning_rates: Sequence[float],
    epochs: Sequence[int],
    batches: str,
) -> list[results_lib.Rates]:
  """Returns norms and slopes for every k of `epochs`, at most `len(steps)`."""
  by_rate = [
      norms_by_epoch(setting, steps, epochs, eta)
      for eta in tqdm.tqdm(
          learning_rates, desc=f'rates, {batches}', disable=None, leave=False
      )
  ]
  out = []
  for k in epochs:
    norms = [by_epoch[k] for by_epoch in by_rate]
    columns = {
        field: [float(getattr(n, field)) for n in norms]
        for field in Norms._fields
    }
    slopes = {f: slope(learning_rates, column) for f, column in columns.items()}
    out.append(
        results_lib.Rates(
            batches=batches,
            num_epochs=k,
            num_examples=setting_lib.largest_train(setting),
            learning_rates=list(learning_rates),
            gap=columns['gap'],
            left_by_correction=columns['left_by_correction'],
            left_by_response=columns['left_by_response'],
            gap_slope=slopes['gap'],
            correction_slope=slopes['left_by_correction'],
            response_slope=slopes['left_by_response'],
        )
    )
  return out


def norms_by_epoch(
    setting: setting_lib.Setting,
    steps: Steps,
    epochs: Sequence[int],
    learning_rate: float,
) -> dict[int, Norms]:
  """Returns the norms after each of `epochs` steps."""
  base_params, scaling = setting.base_params, setting.scaling
  tracks = {
      name: descent(
          base_params, [fns[name] for fns in steps.plain], learning_rate
      )
      for name in scaling
  }
  objectives = [
      multitask.multitask_value_and_grad(fns, scaling) for fns in steps.plain
  ]
  multitask_track = descent(base_params, objectives, learning_rate)
  second = correction.corrections(
      base_params, steps.curved, scaling, learning_rate=learning_rate
  )
  linear = response.responses(
      base_params, steps.curved, scaling, learning_rate=learning_rate
  )
  out = {}
  for k in range(1, max(epochs) + 1):
    task_vectors = {
        name: arithmetic.task_vector(next(track), base_params)
        for name, track in tracks.items()
    }
    merged_params = arithmetic.merge(base_params, task_vectors, scaling)
    gap = tree.sub(merged_params, next(multitask_track))
    corrected = tree.add_scale(
        gap, -(learning_rate**2), next(second).correction
    )
    responded = tree.sub(gap, next(linear).response)
    if k in epochs:
      out[k] = Norms(
          *(float(tree.norm(x)) for x in (gap, corrected, responded))
      )
  return out


def descent(base_params: Params, fns: Sequence[ValueAndGradFn], eta: float):
  """Yields the parameters after each step of descent on a step's own loss."""
  params = base_params
  for epoch, fn in enumerate(fns, 1):
    loss, gradient = fn(params)
    gradient_descent.check_finite(float(loss), epoch)
    params = tree.add_scale(params, -eta, gradient)
    yield params


def slope(learning_rates: Sequence[float], norms: Sequence[float]) -> float:
  """Returns the least-squares slope of log norm against log learning rate.

  Raises:
    ArithmeticError: a norm is 0.
  """
  if not all(norms):
    raise ArithmeticError(
        f'At learning rates {list(learning_rates)} the norms of the gap, or of'
        f' what a prediction leaves of it, are {list(norms)}, and a zero has no'
        ' slope; are two tasks the same images? Without rates:'
        ' --config.analysis.rates_epochs="()".'
    )
  return float(np.polyfit(np.log(learning_rates), np.log(norms), 1)[0])
