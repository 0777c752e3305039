"""Sources and targets of the bridge: images in, coefficients out.

Each task's classes are cut into parts; the model finetuned on one part is a
source. A target is one source, or a mixture of two of different tasks, known
by a few of its images, none of them trained on.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import config as main_config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.experiments.studies.sparse_predictors import (
    config as config_lib,
)
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.gradients import losses
from taskvec_jax.studies import sparse_coefficients
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params

_STEP = 1e-5  # of the central difference, in log(share)


class Source(NamedTuple):
  """A part of a task's classes and the model finetuned on it."""

  task: str
  train: setting_lib.Arrays
  few: setting_lib.Arrays  # validation images: to fit, then for the penalty
  test: setting_lib.Arrays


class Target(NamedTuple):
  """What is asked, and what was found; one seed."""

  sources: tuple[str, ...]
  coefficients: dict[str, np.ndarray]  # 'lasso', 'ridge' -> [B]
  accuracies: dict[str, float]  # method -> mean over the sources' test images


class Found(NamedTuple):
  """One seed."""

  names: list[str]  # of the sources, the coefficients' order
  targets: list[Target]
  derivative_error: float  # of dV/dlog(lambda), relative, of one target


def main_config(config: config_lib.Coefficients) -> main_config_lib.Config:
  """Returns what building base, heads and data needs of the main job's."""
  return main_config_lib.Config(
      name='sparse_predictors',
      tasks=config.tasks,
      model=main_config_lib.FFNModel(widths=config.widths),
      image_size=config.image_size,
      max_train=0,
      max_validation=0,
      max_test=0,
      batch_size=config.max_train,
      pretraining=config.pretraining,
  )


def _sources(config, setting: setting_lib.Setting) -> dict[str, Source]:
  sources = {}
  for task, data in setting.data.items():
    parts = np.array_split(np.arange(data.num_classes), config.num_parts)
    for index, classes in enumerate(parts):
      name = f'{task} {index + 1}'
      few = _of(data.validation, classes, 2 * config.shots)
      if len(few.labels) < 2 * config.shots:
        raise ValueError(
            f'{name} has {len(few.labels)} validation images, but needs 2'
            f' config.coefficients.shots = {2 * config.shots}.'
        )
      sources[name] = Source(
          task,
          _of(data.train, classes, config.max_train),
          few,
          _of(data.test, classes, config.max_test),
      )
  return sources


def _of(
    arrays: setting_lib.Arrays, classes: np.ndarray, at_most: int
) -> setting_lib.Arrays:
  """Returns images of the classes, at most so many, of each class alike."""
  chosen = np.isin(arrays.labels, classes)
  few = task_lib.subsample(
      task_lib.Examples(arrays.inputs[chosen], arrays.labels[chosen]),
      at_most,
      seed=0,
  )
  order = np.random.default_rng(0).permutation(len(few.labels))
  return setting_lib.Arrays(few.images[order], few.labels[order], len(order))


def _finetuned(config, setting: setting_lib.Setting, source: Source) -> Params:
  """Returns the source's task vector."""
  data = setting.data[source.task]._replace(train=source.train)
  fn = task_losses.value_and_grad_fn(
      setting._replace(data={**setting.data, source.task: data}), source.task
  )
  *_, (params, _) = gradient_descent.trajectory(
      setting.base_params,
      fn,
      learning_rate=config.learning_rate,
      num_epochs=config.num_epochs,
  )
  return arithmetic.task_vector(params, setting.base_params)


def targets(
    config: config_lib.Coefficients, setting: setting_lib.Setting, *, seed: int
) -> Found:
  """Returns every target of one seed with its coefficients.

  Args:
    config: sizes.
    setting: base, heads and images, of `main_config`.
    seed: of the order of the targets' images.

  Raises:
    ValueError: a source has too few images for a target.
  """
  sources = _sources(config, setting)
  task_vectors = [
      _finetuned(config, setting, source) for source in sources.values()
  ]
  names = list(sources)
  order = np.random.default_rng(seed).permutation(2 * config.shots)
  problems = {
      name: _problem(setting, source, task_vectors, order)
      for name, source in sources.items()
  }

  def part(name, first, last):
    return jax.tree.map(lambda leaf: leaf[first:last], problems[name])

  half, shots = config.shots // 2, config.shots
  asked: list[tuple[str, ...]] = [(name,) for name in names]
  fitted = [part(name, 0, shots) for name in names]
  held_out = [part(name, shots, 2 * shots) for name in names]
  for name, other in _pairs(config, names):
    asked.append((name, other))
    fitted.append(
        sparse_coefficients.joined(part(name, 0, half), part(other, 0, half))
    )
    held_out.append(
        sparse_coefficients.joined(
            part(name, shots, shots + half), part(other, shots, shots + half)
        )
    )
  fitted, held_out = _stacked(fitted), _stacked(held_out)
  coefficients = {
      method: np.asarray(
          _choose(
              fitted,
              held_out,
              sparse=method == 'lasso',
              share=config.share,
              num_steps=config.num_steps,
          ).coefficients
      )
      for method in ('lasso', 'ridge')
  }
  accuracy_fn = _accuracy_fn(setting, sources, task_vectors)
  uniform = np.full(len(names), 1 / len(names))
  found = []
  for index, wanted in enumerate(asked):
    known = np.isin(names, wanted).astype(float)
    rows = {
        'base': 0 * uniform,
        'mean': uniform,
        'known': known,
        **{method: a[index] for method, a in coefficients.items()},
    }
    found.append(
        Target(
            wanted,
            {method: a[index] for method, a in coefficients.items()},
            {method: accuracy_fn(wanted, row) for method, row in rows.items()},
        )
    )
  error = _derivative_error(fitted, held_out, share=config.share)
  return Found(names, found, error)


def _pairs(config, names: list[str]) -> list[tuple[str, str]]:
  """Returns one mixture a source, with one of the next task."""
  ahead = config.num_parts + 1
  return [
      (name, names[(index + ahead) % len(names)])
      for index, name in enumerate(names)
  ]


def _problem(setting, source: Source, task_vectors, order):
  head = task_losses.padded_head(setting, source.task)
  return _linearise(
      setting.module,
      head,
      setting.base_params,
      task_vectors,
      source.few.inputs[order],
      source.few.labels[order],
  )


@functools.partial(jax.jit, static_argnums=0)
def _linearise(module, head, base_params, task_vectors, inputs, labels):
  return sparse_coefficients.problem(
      functools.partial(losses.logits, module, head),
      base_params,
      task_vectors,
      inputs,
      labels,
  )


def _stacked(problems):
  return jax.tree.map(lambda *parts: jnp.stack(parts), *problems)


@functools.partial(jax.jit, static_argnames=('sparse', 'num_steps'))
def _choose(fitted, held_out, *, sparse, share, num_steps):
  choose = functools.partial(
      sparse_coefficients.choose,
      sparse=sparse,
      share=share,
      num_steps=num_steps,
  )
  return jax.vmap(choose)(fitted, held_out)


def _derivative_error(fitted, held_out, *, share: float) -> float:
  """Returns the implicit derivative's relative error in log(share)."""
  first, second = (
      jax.tree.map(lambda leaf: np.asarray(leaf[0]), part)
      for part in (fitted, held_out)
  )
  with jax.enable_x64(True):
    first, second = (
        part._replace(
            offsets=part.offsets.astype(np.float64),
            columns=part.columns.astype(np.float64),
        )
        for part in (first, second)
    )
    value, slope = _held_out_loss(first, second, np.log(share))
    del value
    ahead, _ = _held_out_loss(first, second, np.log(share) + _STEP)
    behind, _ = _held_out_loss(first, second, np.log(share) - _STEP)
    expected = (float(ahead) - float(behind)) / (2 * _STEP)
    return abs(float(slope) - expected) / abs(expected)


@jax.jit
def _held_out_loss(fitted, held_out, log_share):
  def value(log_share):
    top = sparse_coefficients.largest_penalty(fitted)
    a = sparse_coefficients.solve(
        fitted, top * jnp.exp(log_share), sparse=True, num_steps=3000
    )
    return sparse_coefficients.loss(held_out, a)

  return jax.value_and_grad(value)(log_share)


def _accuracy_fn(
    setting, sources, task_vectors
) -> Callable[[Sequence[str], np.ndarray], float]:
  """Returns (sources, coefficients) to the mean accuracy on their images."""

  def measure(wanted, coefficients):
    params = arithmetic.edit(
        setting.base_params,
        sparse_coefficients.combined(task_vectors, coefficients),
    )
    hits = []
    for name in wanted:
      test, task = sources[name].test, sources[name].task
      head = task_losses.padded_head(setting, task)
      found = _predict(setting.module, head, params, test.inputs)
      hits.append(float(np.mean(np.asarray(found) == test.labels)))
    return float(np.mean(hits))

  return measure


@functools.partial(jax.jit, static_argnums=0)
def _predict(module, head, params, inputs):
  return jnp.argmax(losses.logits(module, head, params, inputs), axis=1)
