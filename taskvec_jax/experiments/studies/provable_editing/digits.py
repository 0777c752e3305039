"""Coloured digits: experts of two tasks of parity, edited.

One FFN per seed learns parity on digits whose colour says nothing, with the
head a frozen linear probe; experts go on from there on one redness each, by
full-batch gradient descent. Everything is the main job's: the network, the
head, exact gradients, trajectories and task arithmetic.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.studies import coloured_digits
from taskvec_jax.studies import descent
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import load
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

_PROBES = 200  # images that the head is fitted on
_jitted_logits = jax.jit(losses.logits, static_argnums=0)


class Experts(NamedTuple):
  """Of one seed; the first task has redness `config.redness`."""

  module: ffn.FFN
  head: heads.Head
  base_params: Params
  task_vectors: dict[float, Params]  # redness -> tau
  tests: dict[float, task_lib.Examples]  # redness -> test images


def train(config: config_lib.ProvableEditingStudyConfig, seed: int) -> Experts:
  """Returns base model and experts of all rednesses of one seed.

  Raises:
    FloatingPointError: a training diverged, with redness, seed and epoch.
  """
  task = load.load_task(config.digits)
  module = ffn.FFN(config.digit_widths, activation='gelu')
  plain = _draw(config, task.train, 0.5, seed, 0)
  start = encoders.init(
      module, jax.random.key(seed), jnp.asarray(plain.images[:1], jnp.float32)
  )
  probes = task_lib.subsample(plain, _PROBES, seed=seed)
  head = heads.linear_probe(
      np.asarray(encoders.encode(module, start, probes.images)),
      probes.labels,
      num_classes=2,
  )
  base_params = _descend(
      config,
      module,
      head,
      start,
      plain,
      config.digit_base_epochs,
      f'{config.digits} of random colour, seed {seed}',
  )
  rednesses = {config.redness, *config.rednesses, *config.transfer_redness}
  vectors, tests = {}, {}
  for number, redness in enumerate(sorted(rednesses), start=1):
    examples = _draw(config, task.train, redness, seed, number)
    params = _descend(
        config,
        module,
        head,
        base_params,
        examples,
        config.digit_epochs,
        f'{config.digits} of redness {redness:g}, seed {seed}',
    )
    vectors[redness] = arithmetic.task_vector(params, base_params)
    tests[redness] = _draw(config, task.test, redness, seed, 0)
  return Experts(module, head, base_params, vectors, tests)


def accuracy(
    experts: Experts, scaling: Mapping[float, float], redness: float
) -> float:
  """Returns the accuracy of an edited model on the test images of one task."""
  examples = experts.tests[redness]
  found = _logits(experts, scaling, examples.images)
  return float(np.mean(np.argmax(np.asarray(found), 1) == examples.labels))


def correlation(experts: Experts, first: float, second: float) -> float:
  """Returns alpha of two experts, on the test images of both tasks."""
  images = np.concatenate(
      [experts.tests[redness].images for redness in (first, second)]
  )
  outputs = [
      _logits(experts, {redness: 1.0}, images) for redness in (first, second)
  ]
  return coloured_digits.output_correlation(*outputs)


def _logits(experts: Experts, scaling, images: np.ndarray) -> Array:
  """Returns an edited model's logits `[N, 2]` of uint8 images."""
  params = _edited(experts, scaling)
  return _jitted_logits(experts.module, experts.head, params, images)


def _edited(experts: Experts, scaling: Mapping[float, float]) -> Params:
  """Returns theta_0 + sum of lambda tau over redness -> lambda."""
  return arithmetic.merge(
      experts.base_params,
      {f'{redness:g}': experts.task_vectors[redness] for redness in scaling},
      {f'{redness:g}': alpha for redness, alpha in scaling.items()},
  )


def _draw(config, digits, redness, seed, number) -> task_lib.Examples:
  """Returns a task; test draws are those of number 0 for every redness."""
  return coloured_digits.examples(
      digits, redness=redness, noise=config.noise, seed=(seed, 4, number)
  )


def _descend(
    config, module, head, params, examples, num_epochs, what
) -> Params:
  batches = batching.make_batches(
      examples.images, examples.labels, batch_size=len(examples.labels)
  )
  value_and_grad_fn = full_batch.exact_value_and_grad(
      jax.tree_util.Partial(losses.loss_sum_fn(module), head),
      batches,
      len(examples.labels),
  )
  return descent.end(
      params,
      value_and_grad_fn,
      learning_rate=config.digit_learning_rate,
      num_epochs=num_epochs,
      what=what,
  )
