"""What a task is: labelled images in disjoint splits.

A task L_t is N images with labels. Everything downstream reads it through two
tuples, `Examples` and `Task`; images stay uint8 in their own size until
`preprocessing.preprocess`, so a task is small, can be compared byte by byte,
and is the same for every model.

No image stands in two of train, validation and test: `disjoint_splits` drops a
training image that is also in validation or test, and a validation image that
is also in test, so that the test set is never changed. All choices are drawn
by NumPy from an explicit seed and do not depend on the machine.

Cost: one pass over the images for the digests; nothing is copied but what is
selected.

In a run of several processes each holds a share of the images, and all know all
labels: what is drawn, cut and counted is drawn, cut and counted from labels
alone, so that it is the same on every process, and the same as in one.

Source: the split of min(10 %, 5000) training images for validation is that of
Ilharco et al., "Editing Models with Task Arithmetic", arXiv:2212.04089.
"""

from collections.abc import Callable
import hashlib
from typing import NamedTuple

import numpy as np

_DIGEST_BYTES = 16


class Examples(NamedTuple):
  """Labelled images of one split, all N of them or a process's n."""

  images: np.ndarray  # uint8 [n, H, W, C], C = 1 (grey) or 3 (RGB).
  labels: np.ndarray  # int32 [N], in 0 .. num_classes - 1; of all images.
  # int32 [N]: how many processes after this one the image is held; 0 is here.
  # None where all images are here, n = N.
  holders: np.ndarray | None = None


class Share(NamedTuple):
  """Which part of a task's images a process holds."""

  index: int  # of the process
  count: int  # of processes
  # Puts an array together of what each process has of it, zeros elsewhere; all
  # processes call it.
  joined: Callable[[np.ndarray], np.ndarray]


WHOLE = Share(0, 1, lambda array: array)


class Task(NamedTuple):
  """A classification task."""

  name: str
  train: Examples
  test: Examples
  num_classes: int
  class_names: tuple[str, ...]  # class_names[c] is what label c stands for.
  validation: Examples | None = None


def check_task(task: Task) -> Task:
  """Returns `task` unchanged if it is well formed.

  Raises:
    ValueError: one sentence that names the task, the split and both values,
      if shapes, dtypes, labels or class names do not fit together or a split
      is empty.
  """
  if task.num_classes < 2:
    raise ValueError(
        f'task {task.name!r} has {task.num_classes} classes, but at least 2'
        ' are needed to classify.'
    )
  if len(task.class_names) != task.num_classes:
    raise ValueError(
        f'task {task.name!r} has {task.num_classes} classes but'
        f' {len(task.class_names)} class names.'
    )
  shape = task.train.images.shape[1:]
  for split, examples in _splits(task).items():
    where = f'task {task.name!r}, split {split!r}:'
    images, labels, holders = examples
    num_held = len(labels) if holders is None else np.sum(holders == 0)
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(
          f'{where} images are {images.dtype}{list(images.shape)}, but uint8'
          ' [N, H, W, C] is needed.'
      )
    if images.shape[3] not in (1, 3):
      raise ValueError(
          f'{where} images have {images.shape[3]} channels, but only 1 (grey)'
          ' or 3 (RGB) are known.'
      )
    if images.shape[1:] != shape:
      raise ValueError(
          f'{where} images are {list(images.shape[1:])}, but those of train'
          f' are {list(shape)}.'
      )
    if labels.dtype != np.int32 or labels.ndim != 1 or num_held != len(images):
      raise ValueError(
          f'{where} labels are {labels.dtype}{list(labels.shape)}, but int32'
          f' [{len(images)}] is needed, one label an image.'
      )
    if not len(labels):
      raise ValueError(f'{where} has no examples, but needs at least one.')
    low, high = labels.min(), labels.max()
    if low < 0 or high >= task.num_classes:
      raise ValueError(
          f'{where} labels run from {low} to {high}, but must lie in 0 ..'
          f' {task.num_classes - 1} for {task.num_classes} classes.'
      )
  return task


def disjoint_splits(task: Task, share: Share = WHOLE) -> Task:
  """Returns `task` without images that stand in two splits.

  Test is kept whole; validation loses what is also in test; train loses what
  is also in validation or test. Two images are the same if their bytes are.

  Raises:
    ValueError: if nothing is left of a split.
  """
  seen = set(_digests(task.test, share))
  validation = task.validation
  if validation is not None:
    validation = _without(validation, seen, task.name, 'validation', share)
    seen = seen.union(_digests(validation, share))
  train = _without(task.train, seen, task.name, 'train', share)
  return task._replace(train=train, validation=validation)


def split_off(
    examples: Examples, num_examples: int, *, seed: int
) -> tuple[Examples, Examples]:
  """Returns `(rest, part)`, a random part of exactly `num_examples`.

  The part is stratified: each class has its share of it, to within one image.

  Args:
    examples: N of them.
    num_examples: size of the part, in 1 .. N - 1.
    seed: of the random choice.

  Raises:
    ValueError: if `num_examples` leaves one side empty.
  """
  total = len(examples.labels)
  if not 0 < num_examples < total:
    raise ValueError(
        f'cannot split {num_examples} examples off {total}: both sides need'
        ' at least one.'
    )
  order = np.random.default_rng(seed).permutation(total)
  order = order[np.argsort(examples.labels[order], kind='stable')]
  # Evenly spaced positions in an order sorted by class give each class its
  # share; the order inside a class is random.
  positions = ((np.arange(num_examples) + 0.5) * total / num_examples).astype(
      np.int64
  )
  chosen = np.zeros(total, bool)
  chosen[order[positions]] = True
  return _take(examples, ~chosen), _take(examples, chosen)


def hold_out_validation(
    task: Task,
    share: Share = WHOLE,
    *,
    fraction: float = 0.1,
    maximum: int = 5000,
    seed: int = 0,
) -> Task:
  """Returns `task` with a validation split, moved there from train.

  A task that comes with a validation split keeps it. Else
  `min(fraction * N, maximum)` training images, rounded down but at least one,
  are drawn at random, stratified by class; copies of them that remain in
  train are dropped.

  Args:
    task: with N >= 2 training images.
    share: what this process holds of them.
    fraction: of the training images, in (0, 1).
    maximum: number of images, at least 1.
    seed: of the random choice; a run keeps it, so that splits never change.

  Raises:
    ValueError: if `fraction` or `maximum` make no sense.
  """
  if not 0.0 < fraction < 1.0:
    raise ValueError(f'fraction is {fraction}, but must lie between 0 and 1.')
  if maximum < 1:
    raise ValueError(f'maximum is {maximum}, but must be at least 1.')
  if task.validation is not None:
    return task
  num_examples = max(1, min(int(fraction * len(task.train.labels)), maximum))
  train, validation = split_off(task.train, num_examples, seed=seed)
  return disjoint_splits(
      task._replace(train=train, validation=validation), share
  )


def subsample(examples: Examples, num_examples: int, *, seed: int) -> Examples:
  """Returns `num_examples` of them, as many of each class as can be.

  Classes are filled in turn until one runs out; the numbers of two classes
  that did not run out differ by at most one. A smaller subsample of the same
  seed is contained in a larger one. The order of `examples` is kept.

  Args:
    examples: N of them.
    num_examples: at least 1; if N or more, all are returned.
    seed: of the random choice.

  Raises:
    ValueError: if `num_examples` is below 1.
  """
  if num_examples < 1:
    raise ValueError(
        f'num_examples is {num_examples}, but a subsample needs at least 1.'
    )
  labels = examples.labels
  if num_examples >= len(labels):
    return examples
  order = np.random.default_rng(seed).permutation(len(labels))
  rank = np.empty(len(labels), np.int64)  # place of an image in its own class
  for label in np.unique(labels):
    members = order[labels[order] == label]
    rank[members] = np.arange(len(members))
  # Stable: among images of equal rank, the random order decides.
  chosen = order[np.argsort(rank[order], kind='stable')][:num_examples]
  return _take(examples, np.sort(chosen))


def process_slice(examples: Examples, share: Share) -> Examples:
  """Returns the examples of one process: every `count`-th image, all labels.

  The slices of all processes are disjoint and cover all images.

  Raises:
    ValueError: if the share's index is not one of its processes.
  """
  holders = holders_of(len(examples.labels), share)
  if holders is None:
    return examples
  return Examples(examples.images[holders == 0], examples.labels, holders)


def holders_of(num_examples: int, share: Share) -> np.ndarray | None:
  """Returns `Examples.holders` of images that are dealt out in turn.

  Raises:
    ValueError: if the share's index is not one of its processes.
  """
  if not 0 <= share.index < share.count:
    raise ValueError(
        f'The index of the process is {share.index}, but must lie in 0 ..'
        f' {share.count - 1} for {share.count} processes.'
    )
  if share.count == 1:
    return None
  return ((np.arange(num_examples) - share.index) % share.count).astype(
      np.int32
  )


def chosen_rows(
    holders: np.ndarray | None, index: np.ndarray | slice
) -> tuple[np.ndarray | slice, np.ndarray | None]:
  """Returns the rows of this process's images at `index`, and their holders.

  Args:
    holders: of all N images, as in `Examples`.
    index: positions among the N, booleans `[N]` or a slice.
  """
  if holders is None:
    return index, None
  chosen = np.arange(len(holders))[index]
  row_of = np.cumsum(holders == 0) - 1
  return row_of[chosen[holders[chosen] == 0]], holders[chosen]


def whole(examples: Examples, share: Share) -> Examples:
  """Returns all images on every process; all processes call it."""
  if examples.holders is None:
    return examples
  shape = (len(examples.labels), *examples.images.shape[1:])
  images = np.zeros(shape, examples.images.dtype)
  images[examples.holders == 0] = examples.images
  return Examples(share.joined(images), examples.labels)


def _splits(task: Task) -> dict[str, Examples]:
  splits = {'train': task.train, 'validation': task.validation}
  splits['test'] = task.test
  return {name: split for name, split in splits.items() if split is not None}


def _take(examples: Examples, index: np.ndarray | slice) -> Examples:
  rows, holders = chosen_rows(examples.holders, index)
  return Examples(examples.images[rows], examples.labels[index], holders)


def _digest(image: np.ndarray) -> bytes:
  return hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest()


def _digests(examples: Examples, share: Share) -> list[bytes]:
  """Returns the digest of each of the N images."""
  mine = [_digest(image) for image in examples.images]
  if examples.holders is None:
    return mine
  found = np.zeros((len(examples.labels), _DIGEST_BYTES), np.uint8)
  found[examples.holders == 0] = np.frombuffer(
      b''.join(mine), np.uint8
  ).reshape((-1, _DIGEST_BYTES))
  return [row.tobytes() for row in share.joined(found)]


def _without(
    examples: Examples, seen: set[bytes], name: str, split: str, share: Share
) -> Examples:
  digests = _digests(examples, share)
  fresh = np.array([digest not in seen for digest in digests], bool)
  if len(fresh) and not fresh.any():
    raise ValueError(
        f'task {name!r}: all {len(fresh)} images of {split!r} are also in'
        " another split; give 'train' and 'test' different images."
    )
  return examples if fresh.all() else _take(examples, fresh)
