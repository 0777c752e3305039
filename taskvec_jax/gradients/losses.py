"""Cross-entropy of a classifier with a frozen head, summed over examples.

`L_t(theta)` is the mean over task t's examples of
`-log softmax(head(encoder(theta, x)))[y]`. Here it is a SUM over one batch;
`full_batch` adds batches and devices up and divides once, by the true number
of examples.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def logits(
    module: nn.Module, head: heads.Head, params: Params, inputs: Array
) -> Array:
  """Returns logits `[N, C]` of `inputs [N, H, W, C']` under a head."""
  return heads.logits(head, encoders.encode(module, params, inputs))


def cross_entropy_sum(logits: Array, labels: Array, mask: Array) -> Array:
  """Returns the cross-entropy in nats, summed over the unmasked examples.

  Args:
    logits: `[B, C]`.
    labels: int `[B]`, in `0..C-1`.
    mask: bool `[B]`, False where the example is padding.
  """
  log_probabilities = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
  return -jnp.sum(jnp.where(mask, chosen[:, 0], 0))


def num_correct(logits: Array, labels: Array, mask: Array) -> Array:
  """Returns how many unmasked examples have their label on top, as a float."""
  hits = (jnp.argmax(logits, axis=1) == labels) & mask
  return jnp.sum(hits.astype(logits.dtype))


# One function a module, not one a task: with the head passed as data, tasks
# of equal shapes share one compiled program.
@functools.cache
def loss_sum_fn(
    module: nn.Module,
) -> Callable[[heads.Head, Params, batching.Batch], Array]:
  """Returns `loss_sum(head, params, batch)` of an encoder `module`.

  Bind a task's head with `jax.tree_util.Partial(loss_sum_fn(module), head)`.
  """

  def loss_sum(
      head: heads.Head, params: Params, batch: batching.Batch
  ) -> Array:
    found = logits(module, head, params, batch.inputs)
    return cross_entropy_sum(found, batch.labels, batch.mask)

  return loss_sum


@functools.cache
def correct_sum_fn(
    module: nn.Module,
) -> Callable[[heads.Head, Params, batching.Batch], Array]:
  """Returns `correct_sum(head, params, batch)`, how many are right."""

  def correct_sum(
      head: heads.Head, params: Params, batch: batching.Batch
  ) -> Array:
    found = logits(module, head, params, batch.inputs)
    return num_correct(found, batch.labels, batch.mask)

  return correct_sum


@functools.cache
def weighted_value_and_grad_fn(
    module: nn.Module,
) -> Callable[..., tuple[Array, Params]]:
  """Returns `(heads, weights, params, batches) -> (loss, gradient)`.

  Of mini-batches: `heads`, `weights` and `batches` are sequences, one entry a
  task; the loss is the weighted sum of the mean losses of the batches `[B]`.
  Bind heads and weights as data, as for `loss_sum_fn`.
  """
  loss_sum = loss_sum_fn(module)

  def loss(params, heads, weights, batches):
    return sum(
        weight * loss_sum(head, params, batch) / jnp.sum(batch.mask)
        for head, weight, batch in zip(heads, weights, batches, strict=True)
    )

  def value_and_grad(heads, weights, params, batches):
    return jax.value_and_grad(loss)(params, heads, weights, batches)

  return value_and_grad
