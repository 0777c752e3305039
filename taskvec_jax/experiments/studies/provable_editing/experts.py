"""Experts on token patterns for every seed and correlation, and their merges.

All runs train as one program: per seed one expert on task 1 and one on task 2
for each correlation. A merge with one coefficient is then scored on both tasks
for all seeds and correlations at once.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.gradients import full_batch
from taskvec_jax.studies import descent
from taskvec_jax.studies import pattern_tasks
from taskvec_jax.studies import provable_editing
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_FIRST = np.array([1.0, 0.0, 0.0])  # mu_1


class Experts(NamedTuple):
  """Task vectors of S seeds, A correlations; leaves `[S, A, ...]`."""

  base_params: Params  # the same along A
  first: Params  # tau_1, the same along A
  second: Params  # tau_2
  train_loss: float  # the largest of all runs, after training
  experts: list[provable_editing.Expert]  # of task 1, one a seed


def train(config: config_lib.ProvableEditingStudyConfig) -> Experts:
  """Returns the experts of all seeds and correlations.

  Raises:
    FloatingPointError: training diverged, with its epoch.
  """
  sizes, num = _sizes(config), config.num_train
  second = pattern_tasks.correlated(np.array(config.alphas))
  bases, batches = [], []
  for seed in config.seeds:
    base = pattern_tasks.init(
        (seed, 0),
        dim=pattern_tasks.dimension(sizes),
        width=config.width,
        scale=config.init_scale,
    )
    runs = 1 + len(second)
    bases.append(jax.tree.map(lambda x, n=runs: np.stack([x] * n), base))
    batches += [
        pattern_tasks.draw((seed, 1), _FIRST[None], sizes, num=num),
        pattern_tasks.draw((seed, 2), second, sizes, num=num),
    ]
  start = jax.tree.map(lambda *x: np.concatenate(x), *bases)
  # One batch on one device: [1, 1, R, ...].
  batch = jax.tree.map(lambda *x: np.concatenate(x)[None, None], *batches)
  value_and_grad_fn = full_batch.exact_value_and_grad(
      pattern_tasks.hinge_sum, batch, num
  )
  params = descent.end(
      start,
      value_and_grad_fn,
      learning_rate=config.learning_rate,
      num_epochs=config.num_epochs,
      what='experts on token patterns, all seeds and tasks at once',
  )
  final = _run_scores(params, jax.tree.map(lambda x: x[0, 0], batch))
  shape = (len(config.seeds), 1 + len(second))
  start, params = (
      jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape[1:]), tree)
      for tree in (start, params)
  )
  vectors = arithmetic.task_vector(params, start)
  vectors = jax.tree.map(np.asarray, vectors)
  first = jax.tree.map(
      lambda x: np.broadcast_to(x[:, :1], x[:, 1:].shape), vectors
  )
  experts = Experts(
      base_params=jax.tree.map(lambda x: x[:, 1:], start),
      first=first,
      second=jax.tree.map(lambda x: x[:, 1:], vectors),
      train_loss=float(np.max(final.loss)),
      experts=[],
  )
  alone, _ = scores(config, experts, (1.0, 0.0))
  kernel = params['attention']['kernel'][:, 0, 0, 0]  # mu_1' W mu_1
  found = [
      provable_editing.Expert(float(c), float(margin))
      for c, margin in zip(kernel, alone.margin[:, 0], strict=True)
  ]
  return experts._replace(experts=found)


def merged(experts: Experts, scalings) -> Params:
  """Returns theta_0 + lambda_1 tau_1 + lambda_2 tau_2, leaves `[S, A, ...]`."""
  return arithmetic.merge(
      experts.base_params,
      {'first': experts.first, 'second': experts.second},
      dict(zip(('first', 'second'), scalings, strict=True)),
  )


def scores(
    config: config_lib.ProvableEditingStudyConfig, experts: Experts, scalings
) -> tuple[pattern_tasks.Scores, pattern_tasks.Scores]:
  """Returns scores on tasks 1 and 2 of one merge, NumPy `[S, A]` each."""
  params = merged(experts, scalings)
  alphas = np.array(config.alphas)
  first = np.broadcast_to(_FIRST, (len(alphas), 3))
  return (
      scores_on(config, params, first),
      scores_on(config, params, pattern_tasks.correlated(alphas)),
  )


def scores_on(
    config: config_lib.ProvableEditingStudyConfig,
    params: Params,
    patterns: np.ndarray,
) -> pattern_tasks.Scores:
  """Returns scores of models `[S, A, ...]` on test examples, `[S, A]` each.

  Args:
    config: sizes and seeds.
    params: leaves `[S, A, ...]`.
    patterns: mu of each model's task, `[A, 3]`.
  """
  batch = _test_examples(
      _sizes(config),
      config.seeds,
      config.num_test,
      tuple(map(tuple, patterns.tolist())),
  )
  found = _grid_scores(params, batch)
  return jax.tree.map(np.asarray, found)


def sweep(
    config: config_lib.ProvableEditingStudyConfig, experts: Experts, scalings
) -> tuple[pattern_tasks.Scores, pattern_tasks.Scores]:
  """Returns `scores` of theta_0 + tau_1 + lambda tau_2, `[L, S, A]` each.

  Args:
    config: sizes and seeds.
    experts: task vectors.
    scalings: lambda, L of them.
  """
  firsts, seconds = zip(
      *(scores(config, experts, (1.0, x)) for x in scalings), strict=True
  )
  return (
      jax.tree.map(lambda *x: np.stack(x), *firsts),
      jax.tree.map(lambda *x: np.stack(x), *seconds),
  )


def irrelevant(
    config: config_lib.ProvableEditingStudyConfig, experts: Experts
) -> tuple[config_lib.ProvableEditingStudyConfig, Experts]:
  """Returns config and experts of alpha = 0 alone, leaves `[S, 1, ...]`."""
  index = config.alphas.index(0.0)
  base, first, second = (
      jax.tree.map(lambda x: x[:, index : index + 1], tree)
      for tree in (experts.base_params, experts.first, experts.second)
  )
  return (
      dataclasses.replace(config, alphas=(0.0,)),
      experts._replace(base_params=base, first=first, second=second),
  )


def values_alone(experts: Experts) -> Experts:
  """Returns experts whose second task vector leaves the attention alone."""
  attention = jax.tree.map(np.zeros_like, experts.second['attention'])
  return experts._replace(second={**experts.second, 'attention': attention})


def _sizes(config) -> pattern_tasks.Sizes:
  return config_lib.sizes(config)


@functools.lru_cache(maxsize=4)
def _test_examples(sizes, seeds, num, patterns):
  drawn = [
      pattern_tasks.draw((seed, 3), np.array(patterns), sizes, num=num)
      for seed in seeds
  ]
  return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *drawn)


_run_scores = jax.jit(jax.vmap(pattern_tasks.scores))
_grid_scores = jax.jit(jax.vmap(jax.vmap(pattern_tasks.scores)))
