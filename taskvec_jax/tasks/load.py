"""One name or path in, one task with train, validation and test out.

  'digits', 'mnist5k', ...   a packaged task, see `packaged`
  'fashion_mnist'            IDX files on this machine, see `idx`
  'cars', 'dtd', ...         a benchmark of CLIP's literature, see `benchmarks`
  'idx:PATH'                 a folder of IDX files
  'folder:PATH'              ROOT/{train,test}/CLASS/*.png, see `image_folder`
  'tfds:NAME'                a prepared TFDS set, see `datasets`

Whatever the source, identical images are dropped so that none stands in two
splits, and validation is held out of train with a fixed seed: the splits of a
task are the same in every run.

In a run of several processes each ends with its share of the images. Folders
and TFDS sets are decoded by shares; packaged sets and IDX files, which are
small or not encoded, are read whole by every process and then cut.
"""

import pathlib

from taskvec_jax.tasks import benchmarks
from taskvec_jax.tasks import datasets
from taskvec_jax.tasks import idx
from taskvec_jax.tasks import image_folder
from taskvec_jax.tasks import packaged
from taskvec_jax.tasks import task as task_lib

_PREFIXES = ('idx', 'folder', 'tfds')
_NAMES = (*packaged.PACKAGED, 'fashion_mnist', *benchmarks.NAMES)
KNOWN = f'{", ".join(_NAMES)}, idx:PATH, folder:PATH and tfds:NAME'


def is_known(spec: str) -> bool:
  """Returns whether a name or PREFIX:PATH can be a task; opens no file."""
  prefix, _, rest = spec.partition(':')
  return spec in _NAMES or (prefix in _PREFIXES and bool(rest))


def load_task(
    spec: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    image_size: int = 32,
    share: task_lib.Share = task_lib.WHOLE,
) -> task_lib.Task:
  """Returns the task that `spec` names, with validation held out.

  Args:
    spec: a name or PREFIX:PATH, see the module's docstring.
    data_dir: where TFDS sets were prepared, where benchmarks lie, and where
      fashion_mnist is looked for before Debian's folder; None for TFDS's own
      default.
    image_size: side in pixels that folders and large TFDS images are brought
      to; the others keep their own size until `preprocessing.preprocess`.
    share: what this process holds; all processes of a run load alike.

  Raises:
    ValueError: one sentence, if there is no such task or its files are bad.
  """
  if image_size < 1:
    raise ValueError(f'image_size is {image_size}, but must be at least 1.')
  if not is_known(spec):
    raise ValueError(f'unknown task {spec!r}: known are {KNOWN}.')
  prefix, _, rest = spec.partition(':')
  if spec in packaged.PACKAGED:
    task = packaged.PACKAGED[spec]()
  elif spec == 'fashion_mnist':
    task = idx.load_fashion_mnist(data_dir)
  elif spec in benchmarks.NAMES:
    task = benchmarks.load_benchmark(
        spec, data_dir=data_dir, image_size=image_size, share=share
    )
  elif prefix == 'idx':
    task = idx.load_idx(rest)
  elif prefix == 'folder':
    task = image_folder.load_image_folder(
        rest, image_size=image_size, share=share
    )
  else:
    task = datasets.load_tfds(
        rest, data_dir=data_dir, image_size=image_size, share=share
    )
  task = task_lib.disjoint_splits(_shared(task, share), share)
  return task_lib.check_task(task_lib.hold_out_validation(task, share))


def _shared(task: task_lib.Task, share: task_lib.Share) -> task_lib.Task:
  """Returns the task cut to a process's share, if it was read whole."""
  if task.train.holders is not None:
    return task
  task = task._replace(
      train=task_lib.process_slice(task.train, share),
      test=task_lib.process_slice(task.test, share),
  )
  if task.validation is not None:
    validation = task_lib.process_slice(task.validation, share)
    task = task._replace(validation=validation)
  return task
