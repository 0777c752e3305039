"""A run's tasks and base model, ready for the machine.

From a config and a seed: the tasks' arrays (each process its own slice), the
pretrained base parameters theta_0, one frozen head a task, and from those the
functions that the theory is about: `value_and_grad_fns` and
`grad_and_hvp_fns`, exact over all training examples of a task.

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
from taskvec_jax.experiments import published_weights
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.models import pretrained
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import load
from taskvec_jax.tasks import preprocessing
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class Arrays(NamedTuple):
  """Examples of one split at the model's size: this process's slice of them."""

  inputs: np.ndarray  # uint8 [n, H, W, C] of num_examples in all
  labels: np.ndarray  # int32 [n]
  num_examples: int  # over all processes


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
  """Returns the tasks by name, cut to the config's sizes; splits are fixed."""
  tasks = {}
  for spec in config.tasks:
    task = load.load_task(
        spec, data_dir=config.data_dir or None, image_size=config.image_size
    )
    if task.name in tasks:
      raise ValueError(
          f'Two of config.tasks are called {task.name!r}; rename a folder so'
          ' that every task has its own name.'
      )
    assert task.validation is not None  # load_task holds it out
    tasks[task.name] = task._replace(
        train=_at_most(task.train, config.max_train),
        validation=_at_most(task.validation, config.max_validation),
        test=_at_most(task.test, config.max_test),
    )
  return tasks


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
    base_params = pretraining.pretrain(
        module,
        seed=seed,
        image_size=config.image_size,
        num_channels=config.num_channels,
        num_images=config.pretraining.num_images,
        num_epochs=config.pretraining.num_epochs,
        batch_size=config.pretraining.batch_size,
        learning_rate=config.pretraining.learning_rate,
    )
    fitted = _fit_heads(config, tasks, module, base_params, seed=seed)
  else:
    base_params = weights.vision
    fitted = published_weights.heads(
        config.published,
        weights,
        tasks,
        activation=config.model.activation,
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


def batches(setting: Setting, arrays: Arrays) -> full_batch.Batches:
  """Returns a split's examples, cut and padded for this process's devices.

  More than `resident_bytes` of images come as a function that yields them.
  """
  return _cut(setting, arrays, arrays.num_examples)


def evaluation_batches(setting: Setting, split: str) -> dict[str, Any]:
  """Returns every task's 'validation' or 'test' examples, on the devices.

  All have the shape of the largest, so that one compiled program serves them:
  a forward pass over padding costs less than a compilation.
  """
  arrays = {name: getattr(data, split) for name, data in setting.data.items()}
  capacity = max(split.num_examples for split in arrays.values())
  return {
      name: full_batch.place(_cut(setting, split, capacity))
      for name, split in arrays.items()
  }


def _cut(setting: Setting, arrays: Arrays, capacity: int) -> full_batch.Batches:
  _, num_processes = full_batch.process()
  capacity = -(-capacity // num_processes)
  numbers = dict(
      batch_size=setting.batch_size,
      num_shards=full_batch.num_devices(),
      capacity=capacity,
  )
  # Of the largest slice: all processes must decide alike.
  image_bytes = int(np.prod(arrays.inputs.shape[1:]))
  if capacity * image_bytes <= setting.resident_bytes:
    return batching.make_batches(arrays.inputs, arrays.labels, **numbers)
  return batching.stream(
      arrays.inputs,
      arrays.labels,
      **numbers,
      max_bytes=max(setting.resident_bytes // 4, 1),
  )


def padded_head(setting: Setting, task: str) -> heads.Head:
  """Returns a task's head with as many classes as the largest task has."""
  num_classes = max(data.num_classes for data in setting.data.values())
  return heads.pad_classes(setting.heads[task], num_classes=num_classes)


def loss_sum(setting: Setting, task: str) -> jax.tree_util.Partial:
  """Returns `(params, batch) -> summed loss` of one task."""
  return jax.tree_util.Partial(
      losses.loss_sum_fn(setting.module), padded_head(setting, task)
  )


def score_sum(setting: Setting, task: str) -> jax.tree_util.Partial:
  """Returns `(params, batch) -> (summed loss, number correct)` of one task."""
  return jax.tree_util.Partial(
      losses.score_sum_fn(setting.module), padded_head(setting, task)
  )


def value_and_grad_fn(setting: Setting, task: str) -> ValueAndGradFn:
  """Returns one task's exact `params -> (L_t, grad L_t)`."""
  train = setting.data[task].train
  return full_batch.exact_value_and_grad(
      loss_sum(setting, task), batches(setting, train), train.num_examples
  )


def value_and_grad_fns(setting: Setting) -> dict[str, ValueAndGradFn]:
  """Returns each task's exact `params -> (L_t, grad L_t)`."""
  return {name: value_and_grad_fn(setting, name) for name in setting.data}


def grad_and_hvp_fns(setting: Setting) -> dict[str, GradAndHvpFn]:
  """Returns each task's exact `(params, v) -> (grad L_t, H_t v)`."""
  return {
      name: full_batch.exact_gradient_and_hvp(
          loss_sum(setting, name),
          batches(setting, data.train),
          data.train.num_examples,
      )
      for name, data in setting.data.items()
  }


_encode = jax.jit(encoders.encode, static_argnums=0)


def _fit_heads(config, tasks, module, base_params, *, seed):
  """Returns one linear probe a task, on a few examples a class."""
  few = {
      name: task_lib.subsample(
          task.train,
          config.heads.examples_per_class * task.num_classes,
          seed=seed,
      )
      for name, task in tasks.items()
  }
  # One pass for all tasks: one compiled program.
  inputs = np.concatenate([_inputs(config, part) for part in few.values()])
  features = np.asarray(_encode(module, base_params, inputs))
  ends = np.cumsum([len(part.labels) for part in few.values()])
  return {
      name: heads.linear_probe(
          part,
          few[name].labels,
          num_classes=tasks[name].num_classes,
          regularization=config.heads.regularization,
      )
      for name, part in zip(few, np.split(features, ends[:-1]), strict=True)
  }


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
  index, count = full_batch.process()
  mine = task_lib.process_slice(
      examples, process_index=index, process_count=count
  )
  return Arrays(_inputs(config, mine), mine.labels, len(examples.labels))


def _inputs(
    config: config_lib.Config, examples: task_lib.Examples
) -> np.ndarray:
  return preprocessing.to_size(
      examples.images,
      image_size=config.image_size,
      num_channels=config.num_channels,
  )
