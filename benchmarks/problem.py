"""What a pass over one task needs, of the size that a config says.

Images and labels are noise: neither time nor memory depends on them.
"""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.tasks import batching
from taskvec_jax.typing import Params

_NUM_CLASSES = 10


class Problem(NamedTuple):
  """A task with a frozen head, and parameters and a direction to pass."""

  params: Params
  direction: Params  # a tree like `params`
  loss_sum: jax.tree_util.Partial  # `(params, batch) -> sum`
  batches: batching.Batch
  num_examples: int


def of_config(config: config_lib.Config, *, num_examples: int) -> Problem:
  """Returns a task for the encoder, image and batch size of a config."""
  shape = (config.image_size, config.image_size, config.num_channels)
  return of_module(
      config_lib.module(config),
      shape,
      num_examples=num_examples,
      batch_size=min(config.batch_size, num_examples),
  )


def of_module(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    num_examples: int,
    batch_size: int,
    seed: int = 0,
) -> Problem:
  """Returns a task of random images, `[num_examples, *image_shape]`."""
  rng = np.random.default_rng(seed)
  inputs = rng.standard_normal((num_examples, *image_shape), np.float32)
  labels = rng.integers(0, _NUM_CLASSES, num_examples).astype(np.int32)
  init = jax.jit(encoders.init, static_argnums=0)
  params = init(module, jax.random.key(0), inputs[:1])
  direction = init(module, jax.random.key(1), inputs[:1])
  features = jax.eval_shape(
      functools.partial(encoders.encode, module), params, inputs[:1]
  )
  kernel = rng.standard_normal((features.shape[-1], _NUM_CLASSES), np.float32)
  head = heads.Head(kernel, np.zeros(_NUM_CLASSES, np.float32))
  return Problem(
      params=params,
      direction=direction,
      loss_sum=jax.tree_util.Partial(losses.loss_sum_fn(module), head),
      batches=batching.make_batches(
          inputs,
          labels,
          batch_size=batch_size,
          num_shards=full_batch.num_devices(),
      ),
      num_examples=num_examples,
  )
