"""A full-batch single-epoch round IS a step of multitask descent.

  theta_ATM^(k+1) = theta^(k) - (alpha eta / T) sum_t grad L_t(theta^(k))

On the left the rounds of `merging.atm`, whose finetuning is one full-batch step
a task; on the right descent along ONE derivative of the mean of the losses,
computed independently. Both paths are followed for several rounds, so rounding
errors of early rounds travel through the later ones.

As in `equality`, both sides see one example a batch.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import sys

import jax
import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import equality
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.merging import atm
from taskvec_jax.merging import averaging
from taskvec_jax.report import atm_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


def identity(
    config: atm_config.ATMConfig,
    tasks: Mapping[str, task_lib.Task],
    setting: setting_lib.Setting,
    seed: int,
) -> list[atm_results.Identity]:
  """Returns how far the two paths are apart, in float32 and in float64."""
  setting = setting_lib.limited(
      setting, config, tasks, num_examples=config.identity_examples
  )._replace(
      scaling=arithmetic.uniform_scaling(setting.data),
      batch_size=1,
      resident_bytes=sys.maxsize,
  )
  measure = functools.partial(_identity, config, seed)
  return [measure(setting), setting_lib.in_float64(measure, setting)]


def _identity(config, seed: int, setting) -> atm_results.Identity:
  base_params, num_rounds = setting.base_params, config.identity_rounds
  # |theta_0| and sum of |alpha tau_t / T|, whose roundings can add up.
  at_base = jax.tree.map(np.abs, base_params)
  walked = [tree.zeros_like(base_params)]

  def merge(task_vectors):
    for task, vector in task_vectors.items():
      part = tree.scale(config.scaling * setting.scaling[task], vector)
      walked[0] = tree.add(walked[0], jax.tree.map(np.abs, part))
    return averaging.average(task_vectors)

  rounds = atm.rounds(
      base_params,
      {
          task: _one_step(fn, config.learning_rate)
          for task, fn in task_losses.value_and_grad_fns(setting).items()
      },
      merge,
      scaling=config.scaling,
      num_rounds=num_rounds,
  )
  descent = gradient_descent.trajectory(
      base_params,
      equality.joint_value_and_grad_fn(setting),
      learning_rate=config.scaling * config.learning_rate,
      num_epochs=num_rounds,
  )
  dtype = jax.tree.leaves(base_params)[0].dtype
  eps = float(np.finfo(dtype).eps)
  found = atm_results.Identity(
      seed=seed,
      dtype=str(dtype),
      num_examples=setting_lib.largest_train(setting),
      learning_rate=config.learning_rate,
      gap_norms=[],
      path_norms=[],
      gap_ulps=[],
      largest_ulps=[],
  )
  for (params, _), (multitask_params, _) in zip(rounds, descent, strict=True):
    gap = tree.sub(params, multitask_params)
    largest, _ = equality.largest_ulps(
        gap, base_params, {'walked': walked[0]}, {'walked': 1.0}
    )
    found.gap_norms.append(float(tree.norm(gap)))
    unit = eps * float(tree.norm(tree.add(at_base, walked[0])))
    found.gap_ulps.append(found.gap_norms[-1] / unit)
    found.path_norms.append(
        float(tree.norm(tree.sub(multitask_params, base_params)))
    )
    found.largest_ulps.append(largest)
  return found


def _one_step(
    fn: ValueAndGradFn, learning_rate: float
) -> Callable[[Params, int], Params]:
  def finetune(params: Params, number: int) -> Params:
    del number
    ((params, _),) = gradient_descent.trajectory(
        params, fn, learning_rate=learning_rate, num_epochs=1
    )
    return params

  return finetune
