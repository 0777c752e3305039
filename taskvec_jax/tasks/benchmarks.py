"""The nine image sets of the task-arithmetic literature, and their prompts.

  cars  dtd  eurosat  gtsrb  mnist  resisc45  svhn  sun397  cifar100

Each is read, never downloaded, from where `datasets.data_folder` points to:

  DATA_DIR/NAME/{train,test}/CLASS/*    an image folder, if there is one; CLASS
                                        is the data's own name of a class or
                                        the one that prompts use
  DATA_DIR/TFDS_NAME/VERSION/           else the prepared TFDS set, where TFDS
                                        has one: all but gtsrb

Names are compared by their letters and digits alone, in lower case, so that
'Ram C/V Cargo Van' may be a folder 'Ram C-V Cargo Van'. Labels are always in
the order of `Prompts.class_names`, which is TFDS's (sun397: 'jail indoor'
before 'jail cell', unlike published lists); a set of other classes is refused.
Names and templates lie in data/clip_benchmarks.json; a task of one's own has
its class names and one plain template.

Splits. Test is the authors' own where there is one (sun397: the first of the
ten official partitions). eurosat and resisc45 have none: a tenth and a fifth of
TFDS's set, stratified, seed 0, are the test set, as many as in the literature
but not the same images; image folders bring those. dtd's validation split is
training data, as in the literature. `load.load_task` then holds out
min(10 %, 5000) of train for validation and drops training images that are also
in test, which the literature does not.

Cost: every image is decoded once; TFDS sets of one small size (eurosat, mnist,
svhn, cifar100) keep it, all others hold 3 image_size^2 bytes an image.

Source: names and templates, Radford et al., arXiv:2103.00020, as Ilharco et
al., "Editing Models with Task Arithmetic", arXiv:2212.04089, use them: the
latter leave the underscores in cifar100's names ('maple_tree').
"""

from collections.abc import Sequence
import importlib.resources
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.tasks import datasets
from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import task as task_lib

NAMES = (
    'cars',
    'dtd',
    'eurosat',
    'gtsrb',
    'mnist',
    'resisc45',
    'svhn',
    'sun397',
    'cifar100',
)
_TEMPLATES = ('a photo of a {}.',)


class Prompts(NamedTuple):
  """What a zero-shot head is made of."""

  class_names: tuple[str, ...]  # in the order of the labels
  templates: tuple[str, ...]  # with '{}' for a class name


def prompts(name: str) -> Prompts:
  """Returns class names and templates of a benchmark.

  Raises:
    ValueError: if `name` is none of `NAMES`.
  """
  entry = _entry(name)
  return Prompts(tuple(entry['class_names']), tuple(entry['templates']))


def task_prompts(task: task_lib.Task) -> Prompts:
  """Returns the prompts of any task.

  A benchmark has its own; so has a task of the same name and classes, such as
  'tfds:mnist'. Every other has its class names, with spaces for underscores,
  and the template 'a photo of a {}.'.
  """
  if task.name in NAMES:
    known = prompts(task.name)
    if task.class_names == known.class_names:
      return known
  names = tuple(' '.join(name.split('_')) for name in task.class_names)
  return Prompts(names, _TEMPLATES)


def load_benchmark(
    name: str,
    *,
    data_dir: str | pathlib.Path | None,
    image_size: int,
    share: task_lib.Share = task_lib.WHOLE,
) -> task_lib.Task:
  """Returns a benchmark, its labels in the order of its class names.

  Args:
    name: one of `NAMES`.
    data_dir: where sets lie; None for TFDS's default.
    image_size: side in pixels that images of other sizes are brought to.
    share: what this process reads and holds of the images.

  Raises:
    ValueError: if the set is not there (says how to prepare it), cannot be
      read, or has other classes than its class list.
  """
  entry = _entry(name)
  folder = datasets.data_folder(data_dir) / name
  if (folder / 'train').is_dir():
    task = image_folder.load_image_folder(
        folder, image_size=image_size, share=share
    )
  elif 'tfds' in entry and datasets.is_prepared(entry['tfds'], data_dir):
    task = datasets.load_tfds(
        entry['tfds'],
        data_dir=data_dir,
        image_size=image_size,
        test_fraction=entry.get('test_fraction', 0.2),
        share=share,
    )
    if task.validation is not None:  # dtd: the literature trains on both
      train = _joined(task.train, task.validation)
      task = task._replace(train=train, validation=None)
  else:
    raise ValueError(_not_there(name, folder, entry, data_dir))
  return _in_order(task._replace(name=name), entry)


def _entry(name: str) -> dict[str, Any]:
  if name not in NAMES:
    raise ValueError(
        f'unknown benchmark {name!r}: known are {", ".join(NAMES)}.'
    )
  files = importlib.resources.files('taskvec_jax.tasks')
  text = (files / 'data' / 'clip_benchmarks.json').read_text(encoding='utf-8')
  return json.loads(text)[name]


def _not_there(
    name: str,
    folder: pathlib.Path,
    entry: dict[str, Any],
    data_dir: str | pathlib.Path | None,
) -> str:
  """Returns the sentence that says how to prepare a set."""
  labels = entry.get('labels', entry['class_names'])
  first, last = (
      label.strip('/').replace('/', '_') for label in (labels[0], labels[-1])
  )
  sentence = (
      f'The benchmark {name!r} is not in {folder}: put its images there as'
      f' train/CLASS/* and test/CLASS/*, with {len(labels)} folders {first!r}'
      f' to {last!r}'
  )
  if 'tfds' not in entry:
    return f'{sentence}.'
  return f'{sentence}, or {datasets.how_to_prepare(entry["tfds"], data_dir)}'


def _key(name: str) -> str:
  """Returns what two spellings of a class have in common."""
  return ''.join(char for char in name.casefold() if char.isalnum())


def _in_order(task: task_lib.Task, entry: dict[str, Any]) -> task_lib.Task:
  """Returns the task with the labels and class names of the class list."""
  class_names = tuple(entry['class_names'])
  labels = {}  # by each spelling
  for label, names in enumerate(
      zip(entry.get('labels', class_names), class_names, strict=True)
  ):
    labels.update({_key(name): label for name in names})
  found = [labels.get(_key(name), -1) for name in task.class_names]
  if sorted(found) != list(range(len(class_names))):
    raise ValueError(
        f'The benchmark {task.name!r} has the {len(class_names)} classes'
        f' {_some(entry.get("labels", class_names), found)} but the data has'
        f' {len(task.class_names)}, among them'
        f' {_strangers(task.class_names, found)}; the names must be the same.'
    )
  order = np.array(found, np.int32)
  task = task._replace(
      class_names=class_names,
      train=_relabelled(task.train, order),
      test=_relabelled(task.test, order),
  )
  if task.validation is not None:
    task = task._replace(validation=_relabelled(task.validation, order))
  return task_lib.check_task(task)


def _some(names: Sequence[str], found: Sequence[int]) -> str:
  """Returns up to three of `names`, those that were not found first."""
  missing = [name for i, name in enumerate(names) if i not in found]
  return ', '.join(map(repr, (missing or list(names))[:3])) + ', ...'


def _strangers(names: Sequence[str], found: Sequence[int]) -> str:
  """Returns up to three of `names` that the class list does not have."""
  others = [name for name, label in zip(names, found, strict=True) if label < 0]
  return ', '.join(map(repr, (others or list(names))[:3]))


def _relabelled(
    examples: task_lib.Examples, order: np.ndarray
) -> task_lib.Examples:
  return examples._replace(labels=order[examples.labels])


def _joined(
    first: task_lib.Examples, second: task_lib.Examples
) -> task_lib.Examples:
  holders = None
  if first.holders is not None and second.holders is not None:
    holders = np.concatenate([first.holders, second.holders])
  return task_lib.Examples(
      np.concatenate([first.images, second.images]),
      np.concatenate([first.labels, second.labels]),
      holders,
  )
