"""Claim 1: after one epoch, merging IS multitask training (2.2).

  theta_TA^(1) = theta_0 + sum_t alpha_t tau_t^(1)
  theta_MT^(1) = theta_0 - eta grad( sum_t alpha_t L_t )(theta_0)

The multitask gradient is not put together from the tasks' own: it is one
`jax.grad` of the weighted sum of losses, over all tasks' batches at once. Both
sides differ by rounding alone, counted in units of
eps (|theta_0| + sum_t |alpha_t tau_t|).

Both sides see one example a batch here. Inside a batch a matrix product adds
examples in plain floats, and where their gradients cancel while theta_0 happens
to be near zero, a single parameter can then differ by ten such units; between
batches the sums are exact (`gradients.full_batch`).

What one example's backward pass rounds is not in the unit either, and no sum
can mend it. It is the same on both sides as long as the pass begins with the
same number, so what all weights alpha_t / N_t have in common is divided by in
the end, as the tasks' own gradients are by N_t. With equal alphas and as many
examples of each task nothing is left of it; elsewhere a few units may be.

The bias of an attention's keys has a gradient of exactly zero (softmax does not
see it), so both sides hold rounding noise there, which the unit does not cover
where theta_0 is near zero too.
"""

import sys

import jax
import numpy as np
import tqdm

from taskvec_jax import tree
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.gradients import full_batch
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.typing import ValueAndGradFn


def equality(
    setting: setting_lib.Setting, *, learning_rate: float, seed: int
) -> results_lib.Equality:
  """Returns how far theta_TA^(1) and theta_MT^(1) are apart."""
  setting = setting._replace(batch_size=1, resident_bytes=sys.maxsize)
  base_params = setting.base_params
  task_vectors = {}
  fns = task_losses.value_and_grad_fns(setting)
  for name, fn in tqdm.tqdm(
      fns.items(), desc=f'equality, seed {seed}', disable=None, leave=False
  ):
    ((params, _),) = gradient_descent.trajectory(
        base_params, fn, learning_rate=learning_rate, num_epochs=1
    )
    task_vectors[name] = arithmetic.task_vector(params, base_params)
  merged_params = arithmetic.merge(base_params, task_vectors, setting.scaling)
  ((multitask_params, _),) = gradient_descent.trajectory(
      base_params,
      joint_value_and_grad_fn(setting),
      learning_rate=learning_rate,
      num_epochs=1,
  )
  gap = tree.sub(merged_params, multitask_params)
  largest, leaf = largest_ulps(gap, base_params, task_vectors, setting.scaling)
  return results_lib.Equality(
      seed=seed,
      dtype=str(jax.tree.leaves(base_params)[0].dtype),
      num_examples=setting_lib.largest_train(setting),
      largest_ulps=largest,
      largest_leaf=leaf,
      step_norm=float(tree.norm(tree.sub(multitask_params, base_params))),
      gap_norm=float(tree.norm(gap)),
  )


def joint_value_and_grad_fn(setting: setting_lib.Setting) -> ValueAndGradFn:
  """Returns the gradient of `sum_t alpha_t L_t`, by one differentiation."""
  batches = {
      name: splits.batches(setting, data.train)
      for name, data in setting.data.items()
  }
  num_batches = max(batch.mask.shape[1] for batch in batches.values())
  batches = {
      name: batching.pad_batches(batch, num_batches)
      for name, batch in batches.items()
  }
  loss_sums = {name: task_losses.loss_sum(setting, name) for name in batches}
  weights = {
      name: setting.scaling[name] / data.train.num_examples
      for name, data in setting.data.items()
  }
  largest = max(map(abs, weights.values()))
  relative = {name: weight / largest for name, weight in weights.items()}
  joint_loss = jax.tree_util.Partial(_joint_loss, loss_sums, relative)
  return full_batch.exact_value_and_grad(joint_loss, batches, 1 / largest)


def _joint_loss(loss_sums, weights, params, batch):
  return sum(
      weights[name] * loss_sums[name](params, batch[name]) for name in weights
  )


def largest_ulps(gap, base_params, task_vectors, scaling) -> tuple[float, str]:
  """Returns the largest entry of `gap` in units of rounding, and its leaf."""
  sizes = jax.tree.map(np.abs, base_params)
  for name, vector in task_vectors.items():
    sizes = jax.tree.map(
        lambda size, v, a=scaling[name]: size + np.abs(a * v), sizes, vector
    )
  worst = (0.0, '')
  for (path, difference), size in zip(
      jax.tree_util.tree_leaves_with_path(gap),
      jax.tree.leaves(sizes),
      strict=True,
  ):
    difference, size = np.abs(difference), np.asarray(size)
    unit = np.finfo(size.dtype).eps * size
    # Where both sides are exactly equal there is nothing to count, even if
    # the unit is zero.
    ulps = np.divide(
        difference,
        unit,
        out=np.where(difference > 0, np.inf, 0.0).astype(size.dtype),
        where=unit > 0,
    )
    leaf = jax.tree_util.keystr(path, simple=True, separator='/')
    worst = max(worst, (float(ulps.max()), leaf))
  return worst
