"""Examples of a split on this machine: cut for its devices, or gathered.

Each process holds a slice of every split; positions are those of the whole.
"""

import numpy as np

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.gradients import full_batch
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import task as task_lib


def batches(
    setting: setting_lib.Setting,
    arrays: setting_lib.Arrays,
    *,
    capacity: int | None = None
) -> full_batch.Batches:
  """Returns a split's examples, cut and padded for this process's devices.

  More than `resident_bytes` of images come as a function that yields them.

  Args:
    setting: sizes of batches and of what may be resident.
    arrays: the split.
    capacity: examples that there is room for; those of the largest slice if it
      is None.
  """
  if capacity is None:
    capacity = largest_share(arrays)
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


def largest_share(arrays: setting_lib.Arrays) -> int:
  """Returns the number of examples of the process that holds most."""
  if arrays.holders is None:
    return arrays.num_examples
  return int(np.bincount(arrays.holders).max())


def chosen(arrays: setting_lib.Arrays, index: np.ndarray) -> setting_lib.Arrays:
  """Returns the examples at positions `index` of the whole split."""
  rows, holders = task_lib.chosen_rows(arrays.holders, index)
  return setting_lib.Arrays(
      arrays.inputs[rows], arrays.labels[rows], len(index), holders
  )


def gathered(
    arrays: setting_lib.Arrays, index: np.ndarray
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


def whole_train(setting: setting_lib.Setting) -> setting_lib.Setting:
  """Returns the setting with every training example, on all processes.

  For what looks at examples one by one; exact sums would count each example
  once a process. All processes call it.
  """

  def whole(train: setting_lib.Arrays) -> setting_lib.Arrays:
    everything = np.arange(train.num_examples)
    return setting_lib.Arrays(*gathered(train, everything), train.num_examples)

  return setting._replace(
      data={
          name: data._replace(train=whole(data.train))
          for name, data in setting.data.items()
      }
  )
