"""Permuted images: a network meets the same images, their pixels reordered.

T tasks share images and labels; task t sees every image with its pixels in an
order of its own, the first in their natural order. One network, all of its
layers trained and its output layer shared by the tasks (no frozen heads here),
learns them

  in sequence   each task from where the last one ended, or
  for merging   each from theta_0, to theta_0 + alpha sum_t tau_t,

by plain full-batch gradient descent. The forgetting is what accuracy on a task
falls from the end of its own training to the end of the sequence, mean over all
tasks but the last.

The paper's network is a perceptron of two hidden layers on MNIST, all weights
drawn from U(-1/sqrt(i), 1/sqrt(i)) for i inputs, trained by SGD, and wider ones
forget less. Here: the same initial law, smooth activations only (`models.ffn`),
exact gradients.

Source: Goldfarb and Hand, "Analysis of Catastrophic Forgetting for Random
Orthogonal Transformation Tasks in the Overparameterized Regime",
arXiv:2207.06475, figure 1.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.studies import descent
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


def pixel_orders(
    rng: np.random.Generator, *, num_tasks: int, num_pixels: int
) -> np.ndarray:
  """Returns one order of the pixels a task, `[T, num_pixels]`.

  The first is the natural one.
  """
  orders = [np.arange(num_pixels)]
  orders += [rng.permutation(num_pixels) for _ in range(num_tasks - 1)]
  return np.stack(orders)


def permute(images: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Returns `images` `[N, H, W, C]` with their pixels in another order.

  Args:
    images: of any dtype.
    order: `[H * W]`, pixel i of the result is pixel `order[i]`.
  """
  flat = images.reshape((len(images), -1, images.shape[-1]))
  return flat[:, order].reshape(images.shape)


def init(
    rng: np.random.Generator, widths: Sequence[int], *, num_classes: int
) -> Params:
  """Returns `{'encoder': ..., 'head': ...}`, U(-1/sqrt(i), 1/sqrt(i)) in all.

  Args:
    rng: of the draws.
    widths: inputs of the network, then units of each layer of the encoder.
    num_classes: outputs of the head.

  Returns:
    Float32 parameters; those of the encoder are an `ffn.FFN`'s.
  """

  def layer(num_in, num_out):
    limit = 1 / np.sqrt(num_in)
    return {
        'kernel': rng.uniform(-limit, limit, (num_in, num_out)),
        'bias': rng.uniform(-limit, limit, num_out),
    }

  params = {
      'encoder': {
          f'layer_{i}': layer(*sizes)
          for i, sizes in enumerate(zip(widths[:-1], widths[1:], strict=True))
      },
      'head': layer(widths[-1], num_classes),
  }
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


# One function a module: tasks of equal shapes share one compiled program.
@functools.cache
def loss_sum_fn(module: nn.Module) -> Callable[[Params, batching.Batch], Array]:
  """Returns `loss_sum(params, batch)`, the cross-entropy, its head trained."""

  def loss_sum(params: Params, batch: batching.Batch) -> Array:
    logits = _logits(module, params, batch)
    return losses.cross_entropy_sum(logits, batch.labels, batch.mask)

  return loss_sum


@functools.cache
def correct_sum_fn(
    module: nn.Module,
) -> Callable[[Params, batching.Batch], Array]:
  """Returns `correct_sum(params, batch)`, how many labels are on top."""

  def correct_sum(params: Params, batch: batching.Batch) -> Array:
    logits = _logits(module, params, batch)
    return losses.num_correct(logits, batch.labels, batch.mask)

  return correct_sum


def sequence(
    base_params: Params,
    value_and_grad_fns: Sequence[ValueAndGradFn],
    *,
    learning_rate: float,
    num_epochs: int,
    what: str = 'sequence',
) -> Iterator[Params]:
  """Yields the parameters after each task, every one trained from the last.

  Args:
    base_params: `theta_0`.
    value_and_grad_fns: one a task, in the order of the sequence.
    learning_rate: eta.
    num_epochs: of each task.
    what: is trained, for errors.

  Raises:
    FloatingPointError: a training diverged, with its permutation, counted from
      0, and its epoch.
  """
  params = base_params
  for index, value_and_grad_fn in enumerate(value_and_grad_fns):
    params = descent.end(
        params,
        value_and_grad_fn,
        learning_rate=learning_rate,
        num_epochs=num_epochs,
        what=f'{what}, permutation {index}',
    )
    yield params


def forgetting(own: Sequence[float], final: Sequence[float]) -> float:
  """Returns the mean fall of accuracy, over all tasks but the last.

  Args:
    own: accuracy on each task at the end of its own training.
    final: on each task at the end of the sequence.

  Raises:
    ValueError: there are fewer than two tasks, or the lengths differ.
  """
  if len(own) < 2 or len(own) != len(final):
    raise ValueError(
        f'Forgetting needs two tasks or more, but own has {len(own)} accuracies'
        f' and final {len(final)}.'
    )
  return float(np.mean(np.subtract(own[:-1], final[:-1])))


def _logits(module: nn.Module, params: Params, batch: batching.Batch) -> Array:
  features = encoders.encode(module, params['encoder'], batch.inputs)
  return heads.logits(heads.Head(**params['head']), features)
