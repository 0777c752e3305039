"""Functions of a run's model that merging methods are handed.

One function a module, not one a task: heads and examples are passed as data, so
that tasks of equal shapes share a compiled program.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import task_losses
from taskvec_jax.gradients import losses
from taskvec_jax.merging import adamerging
from taskvec_jax.merging import regmean
from taskvec_jax.models import encoders
from taskvec_jax.tasks import batching


def batch_loss(
    fn: Callable,
    inputs: merging_inputs.Inputs,
    split: str,
    *,
    batch_size: int,
    num_steps: int
) -> jax.tree_util.Partial:
  """Returns `(params, step) -> loss` of one batch a task and step.

  Batches go through a split in a random order, again and again.

  Args:
    fn: `(heads, arrays, orders, params, step) -> loss`, of this file.
    inputs: the seed's.
    split: 'validation' or 'test'.
    batch_size: examples a task and step; of a smaller split all.
    num_steps: how many steps there are.
  """
  arrays, orders = [], []
  for index, data in enumerate(inputs.setting.data.values()):
    one = getattr(data, split)
    size = min(batch_size, len(one.labels))
    rng = np.random.default_rng([inputs.seed, index])
    num_passes = -(-num_steps * size // len(one.labels))
    order = np.concatenate(
        [rng.permutation(len(one.labels)) for _ in range(num_passes)]
    )
    orders.append(order[: num_steps * size].reshape(num_steps, size))
    arrays.append((jnp.asarray(one.inputs), jnp.asarray(one.labels)))
  own = [
      task_losses.padded_head(inputs.setting, t) for t in inputs.setting.data
  ]
  return jax.tree_util.Partial(
      fn, own, arrays, [jnp.asarray(order, jnp.int32) for order in orders]
  )


@functools.cache
def logits_fn(module: nn.Module) -> Callable:
  """Returns `(head, params, inputs) -> logits`."""
  return functools.partial(losses.logits, module)


@functools.cache
def entropy_fn(module: nn.Module) -> Callable:
  """Returns the summed mean entropy of a step's batches, for `batch_loss`."""
  logits = logits_fn(module)

  def entropy(own, arrays, orders, params, step):
    return sum(
        jnp.mean(adamerging.entropy(logits(head, params, images[order[step]])))
        for head, (images, _), order in zip(own, arrays, orders, strict=True)
    )

  return entropy


@functools.cache
def mean_loss_fn(module: nn.Module) -> Callable:
  """Returns the summed mean loss of a step's batches, for `batch_loss`."""
  loss_sum = losses.loss_sum_fn(module)

  def mean_loss(own, arrays, orders, params, step):
    total = 0.0
    for head, (images, labels), order in zip(own, arrays, orders, strict=True):
      rows = order[step]
      batch = batching.Batch(
          images[rows], labels[rows], np.ones(rows.shape, bool)
      )
      total += loss_sum(head, params, batch) / len(rows)
    return total

  return mean_loss


@functools.cache
def gradient_fn(module: nn.Module) -> Callable:
  """Returns `(head, params, images, labels) -> gradient` of the summed loss."""
  loss_sum = losses.loss_sum_fn(module)

  @jax.jit
  def gradient(head, params, images, labels):
    batch = batching.Batch(images, labels, np.ones(labels.shape, bool))
    return jax.grad(loss_sum, argnums=1)(head, params, batch)

  return gradient


@functools.cache
def gram_fn(module: nn.Module) -> Callable:
  """Returns `(params, batch) -> Gram matrices` of every linear map."""

  def grams(params, batch):
    dtype = jax.tree.leaves(params)[0].dtype
    images = encoders.normalize(module, batch.inputs, dtype)
    return regmean.gram_sums(module, params, images, batch.mask)

  return grams
