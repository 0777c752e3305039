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

Source: the split of min(10 %, 5000) training images for validation is that of
Ilharco et al., "Editing Models with Task Arithmetic", arXiv:2212.04089.
"""

import hashlib
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
  """Labelled images of one split."""

  images: np.ndarray  # uint8 [N, H, W, C], C = 1 (grey) or 3 (RGB).
  labels: np.ndarray  # int32 [N], in 0 .. num_classes - 1.


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
    images, labels = examples
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
    if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
      raise ValueError(
          f'{where} labels are {labels.dtype}{list(labels.shape)}, but int32'
          f' [{len(images)}] is needed, one label an image.'
      )
    if not len(images):
      raise ValueError(f'{where} has no examples, but needs at least one.')
    low, high = labels.min(), labels.max()
    if low < 0 or high >= task.num_classes:
      raise ValueError(
          f'{where} labels run from {low} to {high}, but must lie in 0 ..'
          f' {task.num_classes - 1} for {task.num_classes} classes.'
      )
  return task


def disjoint_splits(task: Task) -> Task:
  """Returns `task` without images that stand in two splits.

  Test is kept whole; validation loses what is also in test; train loses what
  is also in validation or test. Two images are the same if their bytes are.

  Raises:
    ValueError: if nothing is left of a split.
  """
  seen = _digests(task.test)
  validation = task.validation
  if validation is not None:
    validation = _without(validation, seen, task.name, 'validation')
    seen = seen | _digests(validation)
  train = _without(task.train, seen, task.name, 'train')
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
    task: Task, *, fraction: float = 0.1, maximum: int = 5000, seed: int = 0
) -> Task:
  """Returns `task` with a validation split, moved there from train.

  A task that comes with a validation split keeps it. Else
  `min(fraction * N, maximum)` training images, rounded down but at least one,
  are drawn at random, stratified by class; copies of them that remain in
  train are dropped.

  Args:
    task: with N >= 2 training images.
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
  return disjoint_splits(task._replace(train=train, validation=validation))


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


def process_slice(
    examples: Examples, *, process_index: int, process_count: int
) -> Examples:
  """Returns the examples of one process: every `process_count`-th of them.

  The slices of all processes are disjoint and cover all examples; the first
  has ceil(N / process_count) of them and no other has more, which is the
  `capacity` that `batching.make_batches` needs for equal shapes everywhere.

  Raises:
    ValueError: if `process_index` is not one of the processes.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
        f'process_index is {process_index}, but must lie in 0 ..'
        f' {process_count - 1} for {process_count} processes.'
    )
  return _take(examples, slice(process_index, None, process_count))


def _splits(task: Task) -> dict[str, Examples]:
  splits = {'train': task.train, 'validation': task.validation}
  splits['test'] = task.test
  return {name: split for name, split in splits.items() if split is not None}


def _take(examples: Examples, index: np.ndarray | slice) -> Examples:
  return Examples(examples.images[index], examples.labels[index])


def _digest(image: np.ndarray) -> bytes:
  return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _digests(examples: Examples) -> set[bytes]:
  return {_digest(image) for image in examples.images}


def _without(
    examples: Examples, seen: set[bytes], name: str, split: str
) -> Examples:
  fresh = np.array([_digest(x) not in seen for x in examples.images], bool)
  if len(fresh) and not fresh.any():
    raise ValueError(
        f'task {name!r}: all {len(fresh)} images of {split!r} are also in'
        " another split; give 'train' and 'test' different images."
    )
  return examples if fresh.all() else _take(examples, fresh)
