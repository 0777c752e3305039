"""A run's tasks and base model, ready for the machine.

From a config and a seed: the tasks' arrays (each process its own slice), the
pretrained base parameters theta_0 and one frozen head a task.

Base and heads are pretrained on glyphs and fitted on a few examples, or are
published CLIP weights and their zero-shot heads. The seed changes pretraining,
the examples the heads are fitted on and the order of mini-batches, of published
weights the last alone; the splits stay.
"""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import jax
import numpy as np

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import pretraining
from taskvec_jax.experiments import probe_heads
from taskvec_jax.experiments import published_weights
from taskvec_jax.gradients import full_batch
from taskvec_jax.models import heads
from taskvec_jax.models import pretrained
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import load
from taskvec_jax.tasks import preprocessing
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params


class Arrays(NamedTuple):
  """Examples of one split at the model's size: this process's slice of them."""

  inputs: np.ndarray  # uint8 [n, H, W, C] of num_examples in all
  labels: np.ndarray  # int32 [n]
  num_examples: int  # over all processes
  holders: np.ndarray | None = None  # [num_examples], as in task.Examples


class Data(NamedTuple):
  """One task's splits."""

  train: Arrays
  validation: Arrays
  test: Arrays
  num_classes: int


class Setting(NamedTuple):
  """All that an experiment works on."""

  module: nn.Module
  base_params: Params  # theta_0
  heads: dict[str, heads.Head]
  data: dict[str, Data]
  scaling: dict[str, float]  # alpha_t
  batch_size: int  # examples a device and batch
  resident_bytes: int  # a split with more bytes of images is streamed


def load_tasks(config: config_lib.Config) -> dict[str, task_lib.Task]:
  """Returns the tasks by name, cut to the config's sizes; splits are fixed.

  Raises:
    ValueError: one sentence, for a task that cannot be loaded or used.
  """
  tasks = {}
  for spec in config.tasks:
    task = load.load_task(
        spec,
        data_dir=config.data_dir or None,
        image_size=config.image_size,
        share=_share(),
    )
    if task.name in tasks:
      raise ValueError(
          f'Two of config.tasks are called {task.name!r}; rename a folder so'
          ' that every task has its own name.'
      )
    if task.name == config_lib.MULTITASK:
      raise ValueError(
          f'{spec!r} is a task called {task.name!r}, which is what the run on'
          ' all tasks is called; rename the folder.'
      )
    assert task.validation is not None  # load_task holds it out
    tasks[task.name] = task._replace(
        train=_at_most(task.train, config.max_train),
        validation=_at_most(task.validation, config.max_validation),
        test=_at_most(task.test, config.max_test),
    )
    if not config.published.weights:
      _check_classes(tasks[task.name])
  return tasks


def _check_classes(task: task_lib.Task) -> None:
  """Refuses a task whose head, a linear probe, cannot be fitted."""
  missing = set(range(task.num_classes)) - set(task.train.labels.tolist())
  if missing:
    names = [task.class_names[label] for label in sorted(missing)]
    raise ValueError(
        f'Task {task.name!r} has no training image of {len(names)} of its'
        f' {task.num_classes} classes, such as {names[0]!r}, once validation'
        ' images are held out and max_train is applied; its head needs one of'
        ' each class.'
    )


def build(
    config: config_lib.Config,
    tasks: Mapping[str, task_lib.Task],
    *,
    seed: int,
    weights: pretrained.Pretrained | None = None,
) -> Setting:
  """Returns the setting of one seed, pretraining the base if it must.

  Args:
    config: all settings.
    tasks: of `load_tasks`.
    seed: of the run.
    weights: of `published_weights.base`; None to pretrain on glyphs.
  """
  module = config_lib.module(config)
  if weights is None:
    base_params = full_batch.from_first(
        lambda: pretraining.pretrain(
            module,
            seed=seed,
            image_size=config.image_size,
            num_channels=config.num_channels,
            num_images=config.pretraining.num_images,
            num_epochs=config.pretraining.num_epochs,
            batch_size=config.pretraining.batch_size,
            learning_rate=config.pretraining.learning_rate,
        )
    )
    fitted = _fit_heads(config, tasks, module, base_params, seed=seed)
  else:
    base_params = weights.vision
    fitted = _heads_from_first(
        lambda: published_weights.heads(
            config.published,
            weights,
            tasks,
            activation=config.model.activation,
        )
    )
  return Setting(
      module=module,
      base_params=base_params,
      heads=fitted,
      data={name: _data(config, task) for name, task in tasks.items()},
      scaling=arithmetic.uniform_scaling(tasks, config.alpha or None),
      batch_size=config.batch_size,
      resident_bytes=config.resident_megabytes * 2**20,
  )


def limited(
    setting: Setting,
    config: config_lib.Config,
    tasks: Mapping[str, task_lib.Task],
    *,
    num_examples: int,
) -> Setting:
  """Returns the setting with at most so many training examples; 0: all."""
  if not num_examples:
    return setting
  return setting._replace(
      data={
          name: _data(
              config, task._replace(train=_at_most(task.train, num_examples))
          )
          for name, task in tasks.items()
      }
  )


def largest_train(setting: Setting) -> int:
  """Returns how many training examples the task with most of them has."""
  return max(data.train.num_examples for data in setting.data.values())


def cast(setting: Setting, dtype: Any) -> Setting:
  """Returns the setting in another float type, as NumPy arrays.

  Float64 needs `jax.enable_x64` around every use of it.
  """

  def convert(leaf):
    leaf = np.asarray(leaf)
    return leaf.astype(dtype) if leaf.dtype.kind == 'f' else leaf

  return setting._replace(
      base_params=jax.tree.map(convert, setting.base_params),
      heads=jax.tree.map(convert, setting.heads),
  )


def in_float64(measure, setting: Setting):
  """Returns `measure(setting)` evaluated in float64."""
  with jax.enable_x64(True):
    return measure(cast(setting, np.float64))


def _fit_heads(config, tasks, module, base_params, *, seed):
  """Returns one linear probe a task, on a few examples a class."""
  few = {
      name: task_lib.whole(
          task_lib.subsample(
              task.train,
              config.heads.examples_per_class * task.num_classes,
              seed=seed,
          ),
          _share(),
      )
      for name, task in tasks.items()
  }
  return _heads_from_first(
      lambda: probe_heads.fit(
          module,
          base_params,
          {
              name: (_inputs(config, part), part.labels)
              for name, part in few.items()
          },
          {name: task.num_classes for name, task in tasks.items()},
          regularization=config.heads.regularization,
      )
  )


def _heads_from_first(make) -> dict[str, heads.Head]:
  """Returns the heads that the first process makes, on all."""
  found = full_batch.from_first(
      lambda: {name: head._asdict() for name, head in make().items()}
  )
  return {name: heads.Head(**head) for name, head in found.items()}


def _at_most(
    examples: task_lib.Examples, num_examples: int
) -> task_lib.Examples:
  if not num_examples:
    return examples
  return task_lib.subsample(examples, num_examples, seed=0)


def _data(config: config_lib.Config, task: task_lib.Task) -> Data:
  return Data(
      train=_arrays(config, task.train),
      validation=_arrays(config, task.validation),
      test=_arrays(config, task.test),
      num_classes=task.num_classes,
  )


def _arrays(
    config: config_lib.Config, examples: task_lib.Examples | None
) -> Arrays:
  assert examples is not None
  labels, holders = examples.labels, examples.holders
  return Arrays(
      _inputs(config, examples),
      labels if holders is None else labels[holders == 0],
      len(labels),
      holders,
  )


def _share() -> task_lib.Share:
  return task_lib.Share(*full_batch.process(), full_batch.joined)


def _inputs(
    config: config_lib.Config, examples: task_lib.Examples
) -> np.ndarray:
  return preprocessing.to_size(
      examples.images,
      image_size=config.image_size,
      num_channels=config.num_channels,
  )
