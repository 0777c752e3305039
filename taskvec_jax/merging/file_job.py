"""A merge of checkpoint files before it is done: checked, counted, described.

Nothing here reads a value of a tensor.
"""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any
from typing import NamedTuple

from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import recipe as recipe_lib
from taskvec_jax.merging import slice_merging
from taskvec_jax.merging import slice_methods
from taskvec_jax.merging import spectra
from taskvec_jax.merging import streams
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib


class Job(NamedTuple):
  """A merge that can be done."""

  method: str
  numbers: slice_methods.Numbers
  inputs: streams.Inputs
  output: pathlib.Path
  stamps: dict[pathlib.Path, tuple[int, ...]]  # of the input files


def prepare(
    *,
    base: str,
    finetuned: tuple[str, ...],
    method: str,
    numbers: dict[str, str],
    output: str,
) -> Job:
  """Returns the merge, after all that can be checked without the values.

  Args:
    base: path of a checkpoint, as `files.open_tensors` takes it.
    finetuned: paths of T checkpoints.
    method: a name in `slice_methods.METHODS`.
    numbers: number of the method -> value as text.
    output: a folder that does not exist.

  Raises:
    ValueError: a path, the method, a number or the output is wrong, or the
      checkpoints differ in architecture.
  """
  checked = slice_methods.check(method, numbers, max(len(finetuned), 1))
  folder = pathlib.Path(output).absolute()
  file_writing.check_absent(folder)
  return _open(base, finetuned, method, checked, folder)


def prepare_again(folder: pathlib.Path, recipe: Mapping[str, Any]) -> Job:
  """Returns the merge that a recipe tells of.

  Args:
    folder: the output of that merge.
    recipe: of `recipe.read`.

  Raises:
    ValueError: what it tells of can no longer be merged.
  """
  base, *finetuned = recipe_lib.checkpoints(recipe).values()
  numbers = slice_methods.check(
      recipe['method'],
      {name: str(value) for name, value in recipe['numbers'].items()},
      len(finetuned),
  )
  return _open(base, tuple(finetuned), recipe['method'], numbers, folder)


def num_bytes_read(job: Job) -> int:
  """Returns the bytes of tensors that all passes read together."""
  one_pass = sum(streams.num_bytes(job.inputs, item) for item in plan(job))
  return num_passes(job) * one_pass


def describe(job: Job) -> str:
  """Returns what would be read and written, and the memory it takes."""
  numbers = ', '.join(f'{k}={v}' for k, v in job.numbers.items())
  times = 'once' if num_passes(job) == 1 else f'up to {num_passes(job)} times'
  lines = [f'{job.method} with {numbers}', f'reads, {times}:']
  for role, files in roles(job.inputs).items():
    size = recipe_lib.num_bytes(files.files)
    lines.append(
        f'  {role}: {files.path}, {len(files.tensors)} tensors in'
        f' {len(files.files)} file(s), {size / 1e6:.1f} MB'
    )
  kept = [
      name
      for name, tensor in job.inputs.base.tensors.items()
      if not files_lib.is_float(tensor.dtype)
  ]
  if kept:
    lines.append(f'keeps {len(kept)} tensors of the base that are no floats')
  written = [*job.inputs.base.files, *copied(job.inputs.base)]
  names = [*(file.name for file in written), recipe_lib.NAME]
  lines.append(
      f'writes {job.output}, {recipe_lib.num_bytes(written) / 1e6:.1f} MB:'
      f' {", ".join(names)}'
  )
  lines.append(
      f'memory: at most about {memory(job) / 1e6:.0f} MB beyond the program'
  )
  return '\n'.join(lines)


def check_unchanged(job: Job) -> None:
  """Raises an OSError if an input is not what it was when it was opened."""
  for file, stamp in job.stamps.items():
    if _stamp(file) != stamp:
      raise OSError(
          f'{file} changed while it was read (its size or time did);'
          ' nothing was written'
      )


def plan(job: Job) -> list[streams.Slice]:
  """Returns the slices of a pass."""
  method = slice_methods.METHODS[job.method]
  return streams.plan(job.inputs, functools.partial(method.grain, job.numbers))


def num_passes(job: Job) -> int:
  """Returns how often all tensors are read, at most."""
  return slice_methods.METHODS[job.method].num_passes(job.numbers)


def memory(job: Job) -> int:
  """Returns about how many bytes a merge needs at most."""
  num_models = len(job.inputs.models)
  slices = plan(job)
  largest = max((item.size for item in slices), default=0)
  dtypes = {streams.vectors_dtype(job.inputs, item.name) for item in slices}
  itemsize = max((dtype.itemsize for dtype in dtypes), default=4)
  # A slice that is read, one that is worked on, and what that takes.
  found = 2**23 + 6 * itemsize * num_models * largest
  if job.method in slice_methods.BY_THRESHOLDS:
    # What is held, and counts: breadcrumbs' of two thresholds a task.
    found += slice_merging.NUM_BYTES_HELD + 2 * 2**17 * itemsize * num_models
  if job.method in slice_methods.ON_MATRICES:
    tensors, tolerance = job.inputs.base.tensors, job.numbers['rank_tolerance']
    size = max((tensors[item.name].size for item in slices), default=0)
    held = [
        spectra.num_bytes(
            size, dtype, numerical_rank.tolerance_of(dtype, tolerance)
        )
        for dtype in dtypes
    ]
    found += 2**26 + max(held, default=0)  # the former is what BLAS packs
  return found


def roles(inputs: streams.Inputs) -> dict[str, files_lib.TensorFiles]:
  """Returns 'base', 'finetuned 1', ... -> the checkpoint's files."""
  return {'base': inputs.base} | {
      f'finetuned {number}': files
      for number, files in enumerate(inputs.finetuned, 1)
  }


def files_of(files: files_lib.TensorFiles) -> tuple[pathlib.Path, ...]:
  """Returns a checkpoint's files, with the index of shards."""
  return (*files.files, *([files.index] if files.index else []))


def copied(base: files_lib.TensorFiles) -> list[pathlib.Path]:
  """Returns index of shards, configs and tokenizer files beside the weights."""
  found = set(files_lib.beside(base.files[0])) - set(base.files)
  return sorted(found | ({base.index} if base.index else set()))


def _open(base, finetuned, method, numbers, folder) -> Job:
  inputs = streams.open_inputs(base, finetuned)
  stamps = {
      file: _stamp(file) for files in inputs.models for file in files_of(files)
  }
  return Job(method, numbers, inputs, folder, stamps)


def _stamp(file: pathlib.Path) -> tuple[int, ...]:
  status = file.stat()
  return status.st_size, status.st_mtime_ns, status.st_ino
