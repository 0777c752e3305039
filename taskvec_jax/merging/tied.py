"""Tensors that are stored twice, such as an embedding and the head tied to it.

Methods give equal tensors equal results, except by random draws, which depend
on a tensor's name: copies must share a name there, or they were tied no longer.
Most tensors are told apart by the first few of their elements in all models; in
the base alone many are equal, such as biases of zeros.
"""

from collections.abc import Iterable
import hashlib

import numpy as np

from taskvec_jax.merging import streams
from taskvec_jax.task_vectors import files as files_lib

_HEAD_SIZE = 1024  # elements


def find(inputs: streams.Inputs, names: Iterable[str]) -> dict[str, str]:
  """Returns tensor -> an earlier one with the same bytes in every model.

  Args:
    inputs: the checkpoints.
    names: tensors, the earlier ones first.
  """
  candidates: dict[tuple, list[str]] = {}
  found = {}
  for name in names:
    tensor = inputs.base.tensors[name]
    heads = hashlib.sha256()
    for files in inputs.models:
      stop = min(tensor.size, _HEAD_SIZE)
      head = files_lib.read_range(files, name, 0, stop)
      heads.update(head.view(np.uint8).data)
    earlier = candidates.setdefault(
        (tensor.dtype, tensor.shape, heads.digest()), []
    )
    for other in earlier:
      if all(_same_bytes(files, name, other) for files in inputs.models):
        found[name] = other
        break
    else:
      earlier.append(name)
  return found


def _same_bytes(files: files_lib.TensorFiles, name: str, other: str) -> bool:
  first, second = files.tensors[name], files.tensors[other]
  if (first.dtype, first.shape) != (second.dtype, second.shape):
    return False
  for start in range(0, first.size, files_lib.SLICE_SIZE):
    stop = min(start + files_lib.SLICE_SIZE, first.size)
    one, two = (
        files_lib.read_range(files, n, start, stop).view(np.uint8)
        for n in (name, other)
    )
    if not np.array_equal(one, two):
      return False
  return True
