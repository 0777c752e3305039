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
  """Returns the tasks by name, cut to the config's sizes; splits are fixed."""
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
  return _cut(setting, arrays, _largest_share(arrays))


def chosen(arrays: Arrays, index: np.ndarray) -> Arrays:
  """Returns the examples at positions `index` of the whole split."""
  rows, holders = task_lib.chosen_rows(arrays.holders, index)
  return Arrays(arrays.inputs[rows], arrays.labels[rows], len(index), holders)


def gathered(
    arrays: Arrays, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs and labels at positions of a whole split, on all processes.

  All processes call it.

  Args:
    arrays: the split.
    index: positions in it, of any shape; the results' leading axes.
  """
  if arrays.holders is None:
    return arrays.inputs[index], arrays.labels[index]
  mine = arrays.holders[index] == 0
  rows = (np.cumsum(arrays.holders == 0) - 1)[index[mine]]
  found = []
  for array in (arrays.inputs, arrays.labels):
    part = np.zeros((*index.shape, *array.shape[1:]), array.dtype)
    part[mine] = array[rows]
    found.append(full_batch.joined(part))
  return found[0], found[1]


def whole_train(setting: Setting) -> Setting:
  """Returns the setting with every training example, on all processes.

  For what looks at examples one by one; exact sums would count each example
  once a process. All processes call it.
  """

  def whole(train: Arrays) -> Arrays:
    everything = np.arange(train.num_examples)
    return Arrays(*gathered(train, everything), train.num_examples)

  return setting._replace(
      data={
          name: data._replace(train=whole(data.train))
          for name, data in setting.data.items()
      }
  )


def evaluation_batches(setting: Setting, split: str) -> dict[str, Any]:
  """Returns every task's 'validation' or 'test' examples, on the devices.

  All have the shape of the largest, so that one compiled program serves them:
  a forward pass over padding costs less than a compilation.
  """
  arrays = {name: getattr(data, split) for name, data in setting.data.items()}
  capacity = max(_largest_share(split) for split in arrays.values())
  return {
      name: full_batch.place(_cut(setting, split, capacity))
      for name, split in arrays.items()
  }


def _cut(setting: Setting, arrays: Arrays, capacity: int) -> full_batch.Batches:
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


def _largest_share(arrays: Arrays) -> int:
  """Returns the number of examples of the process that holds most."""
  if arrays.holders is None:
    return arrays.num_examples
  return int(np.bincount(arrays.holders).max())


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

  def fit():
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

  return _heads_from_first(fit)


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
