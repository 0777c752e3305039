"""Merges checkpoint files: `theta = theta_0 + scaling tau_m`, slice by slice.

Every method of `slice_methods` on safetensors of any architecture. Each tensor
of floats is merged in float32 (float64 where a file is) and written in the
base's dtype; integers and booleans are the base's. The output has the base's
shards, order, metadata and index, so tied tensors stay as they were stored;
configs and the tokenizer beside the base are copied, and a recipe is written.

The output folder is made whole under a hidden name and renamed. Inputs are
hashed as they are read, in the first pass and again in the last of several, and
their sizes and times are looked at before and after: a file that changes in
between is an error.

Memory: a few slices of (T + 1) n elements, about 2^20; a method on whole
matrices holds T + 1 copies of the largest and what its decompositions need.
"""

from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pathlib
import shutil
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import recipe as recipe_lib
from taskvec_jax.merging import slice_merging
from taskvec_jax.merging import slice_methods
from taskvec_jax.merging import streams
from taskvec_jax.merging import tied
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.task_vectors import files as files_lib

# Beside a base's weights: what else a library needs to load it.
_BESIDE = (
    '*config.json',
    'tokenizer*',
    'vocab.*',
    'merges.txt',
    'special_tokens_map.json',
    'added_tokens.json',
    'spiece.model',
    'chat_template*',
)


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
  files_lib.check_absent(folder)
  return _open(base, finetuned, method, checked, folder)


def prepare_again(folder: pathlib.Path) -> Job:
  """Returns the merge that a folder's recipe tells of, for `repeat`.

  Args:
    folder: the output of a merge.

  Raises:
    ValueError: there is no recipe or it cannot be read, or what it tells of
      can no longer be merged.
  """
  recipe = recipe_lib.read(folder)
  base, *finetuned = recipe_lib.checkpoints(recipe).values()
  numbers = slice_methods.check(
      recipe['method'],
      {name: str(value) for name, value in recipe['numbers'].items()},
      len(finetuned),
  )
  return _open(base, tuple(finetuned), recipe['method'], numbers, folder)


def _open(base, finetuned, method, numbers, folder) -> Job:
  inputs = streams.open_inputs(base, finetuned)
  stamps = {
      file: _stamp(file) for files in inputs.models for file in _files_of(files)
  }
  return Job(method, numbers, inputs, folder, stamps)


def num_bytes_read(job: Job) -> int:
  """Returns the bytes of tensors that all passes read together."""
  one_pass = sum(streams.num_bytes(job.inputs, item) for item in _plan(job))
  return _num_passes(job) * one_pass


def describe(job: Job) -> str:
  """Returns what would be read and written, and the memory it takes."""
  numbers = ', '.join(f'{k}={v}' for k, v in job.numbers.items())
  times = 'once' if _num_passes(job) == 1 else f'up to {_num_passes(job)} times'
  lines = [f'{job.method} with {numbers}', f'reads, {times}:']
  for role, files in _roles(job.inputs).items():
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
  copied = _copied(job.inputs.base)
  size = recipe_lib.num_bytes((*job.inputs.base.files, *copied))
  names = [file.name for file in (*job.inputs.base.files, *copied)]
  lines.append(
      f'writes {job.output}, {size / 1e6:.1f} MB:'
      f' {", ".join([*names, recipe_lib.NAME])}'
  )
  lines.append(f'memory: about {_memory(job) / 1e6:.0f} MB beyond the program')
  return '\n'.join(lines)


def merge(job: Job, *, progress: Callable[[int], Any]) -> None:
  """Writes the merged checkpoint.

  Args:
    job: of `prepare`.
    progress: called with numbers of bytes that were read, of tensors.

  Raises:
    ValueError: the output folder exists by now, or an input has a value that is
      NaN or infinite, with its file and tensor.
    FloatingPointError: a merged value is not finite in the base's dtype.
    OSError: an input changed meanwhile, or something cannot be written.
  """
  with files_lib.new_folder(job.output) as hidden:
    digests, tensors = _merge_into(hidden, job, progress)
    written = {hidden / name: digest for name, digest in tensors.items()}
    for file in _copied(job.inputs.base):
      shutil.copyfile(file, hidden / file.name)
      written[hidden / file.name] = streams.sha256(hidden / file.name)
    _check_unchanged(job)
    recipe_lib.write(
        hidden,
        recipe_lib.make(
            method=job.method,
            numbers=job.numbers,
            inputs={
                role: {
                    file: digests.get(file) or streams.sha256(file)
                    for file in _files_of(files)
                }
                for role, files in _roles(job.inputs).items()
            },
            outputs=written,
        ),
    )


def repeat(
    job: Job, *, progress: Callable[[int], Any]
) -> list[recipe_lib.Checked]:
  """Merges again, writes nothing, and compares with the job's recipe.

  Args:
    job: of `prepare_again`.
    progress: called with numbers of bytes that were read, of tensors.

  Returns:
    Every file of merged tensors, by the bytes that come out of it now.

  Raises:
    OSError, FloatingPointError, ValueError: as `merge` does.
  """
  _, tensors = _merge_into(None, job, progress)
  _check_unchanged(job)
  said = {
      entry['file']: entry['sha256']
      for entry in recipe_lib.read(job.output)['outputs']
  }
  return [
      recipe_lib.Checked(
          job.output / name,
          None
          if digest == said.get(name)
          else f'comes out with SHA-256 {digest[:12]}...',
      )
      for name, digest in tensors.items()
  ]


def _merge_into(
    folder: pathlib.Path | None, job: Job, progress: Callable[[int], Any]
) -> tuple[dict[pathlib.Path, str], dict[str, str]]:
  """Writes the tensors; returns SHA-256 of the files read, and written."""
  inputs, slices = job.inputs, _plan(job)
  finite: set[str] = set()  # tensors whose values were looked at

  def read(items, hashes):
    for item, values in streams.read(inputs, items, hashes):
      if item.name not in finite:
        _check_finite(inputs, item, values.vectors)
        if item.stop == inputs.base.tensors[item.name].size:
          finite.add(item.name)
      progress(streams.num_bytes(inputs, item))
      yield item, values
      del values

  def survey_vectors(names=None):
    wanted = None if names is None else set(names)
    items = [s for s in slices if wanted is None or s.name in wanted]
    for item, values in read(items, survey_hashes):
      yield item, values.vectors

  survey_hashes = streams.start_hashes(inputs)
  survey = _survey(job, slices, survey_vectors)
  method = slice_methods.METHODS[job.method]
  merge_fn = method.prepare(survey, job.numbers)
  if _num_passes(job) > 1:
    before = streams.finish_hashes(survey_hashes)
  else:
    before = {}

  def merged():
    for item, values in read(slices, hashes):
      with np.errstate(over='ignore'):  # it is looked for here
        found = arithmetic.edit(
            values.base,
            merge_fn(item, values.vectors),
            job.numbers['scaling'],
        )
        if not np.isfinite(found).all():
          raise FloatingPointError(
              f'merged values of tensor {item.name!r} are too large for'
              f' {found.dtype}, the dtype of the base; nothing was written'
          )
      yield found

  hashes = streams.start_hashes(inputs)
  with contextlib.closing(merged()) as pieces:
    written = _write(folder, inputs.base, pieces)
  digests = streams.finish_hashes(hashes)
  for file, digest in before.items():
    if digests[file] != digest:
      raise OSError(
          f'{file} changed while it was read: its SHA-256 was {digest[:12]}...'
          f' at first and {digests[file][:12]}... in the end'
      )
  return digests, written


def _write(
    folder: pathlib.Path | None,
    base: files_lib.TensorFiles,
    merged: Iterator[np.ndarray],
) -> dict[str, str]:
  """Writes files like the base's; returns name -> SHA-256.

  Args:
    folder: is there, and empty; None: nothing is kept.
    base: gives everything but the floating-point values.
    merged: those, piece by piece in the order of the base.
  """
  digests = {}
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    for file in base.files:
      sha256 = hashlib.sha256()
      path = os.devnull if folder is None else folder / file.name
      with open(path, 'wb', buffering=0) as stream:
        waiting = None
        for piece in _pieces(base, file, merged):
          if waiting:
            waiting.result()
          waiting = pool.submit(_put, stream, sha256, piece)
        if waiting:
          waiting.result()
      digests[file.name] = sha256.hexdigest()
  return digests


def _pieces(
    base: files_lib.TensorFiles,
    file: pathlib.Path,
    merged: Iterator[np.ndarray],
) -> Iterator[np.ndarray]:
  """Yields all bytes of an output file in pieces, uint8 `[n]`."""
  yield np.frombuffer(files_lib.header_bytes(file), np.uint8)
  for name, tensor in base.tensors.items():
    if tensor.file != file:
      continue
    if not files_lib.is_float(tensor.dtype):
      for start in range(0, tensor.size, files_lib.SLICE_SIZE):
        stop = min(start + files_lib.SLICE_SIZE, tensor.size)
        yield files_lib.read_range(base, name, start, stop).view(np.uint8)
      continue
    num_left = tensor.size
    while num_left:
      piece = next(merged)
      num_left -= piece.size
      yield piece.view(np.uint8)


def _put(stream, sha256, piece: np.ndarray) -> None:
  view = piece.data
  sha256.update(view)
  while view:
    view = view[stream.write(view) :]


def _survey(job: Job, slices, vectors) -> slice_merging.Survey:
  names = dict.fromkeys(item.name for item in slices)
  tensors = job.inputs.base.tensors
  draws = {name: name for name in names}
  if 'drop_rate' in job.numbers:
    draws |= tied.find(job.inputs, names)
  return slice_merging.Survey(
      tasks=tuple(str(task) for task in range(len(job.inputs.finetuned))),
      shapes={name: tensors[name].shape for name in names},
      dtypes={name: streams.vectors_dtype(job.inputs, name) for name in names},
      stored={
          name: tuple(f.tensors[name].dtype for f in job.inputs.models)
          for name in names
      },
      draw_names=draws,
      vectors=vectors,
  )


def _check_finite(
    inputs: streams.Inputs, item: streams.Slice, vectors: np.ndarray
) -> None:
  """Raises an error that says where values that are not finite come from."""
  if np.isfinite(vectors).all():
    return
  for files in inputs.models:
    values = files_lib.read_range(files, item.name, item.start, item.stop)
    files_lib.check_finite(values, item.name, files.tensors[item.name].file)
  raise FloatingPointError(
      f'the task vectors of tensor {item.name!r} are too large for'
      f' {vectors.dtype}'
  )


def _check_unchanged(job: Job) -> None:
  for file, stamp in job.stamps.items():
    if _stamp(file) != stamp:
      raise OSError(
          f'{file} changed while it was read (its size or time did);'
          ' nothing was written'
      )


def _stamp(file: pathlib.Path) -> tuple[int, ...]:
  status = file.stat()
  return status.st_size, status.st_mtime_ns, status.st_ino


def _plan(job: Job) -> list[streams.Slice]:
  method = slice_methods.METHODS[job.method]
  return streams.plan(job.inputs, functools.partial(method.grain, job.numbers))


def _num_passes(job: Job) -> int:
  return slice_methods.METHODS[job.method].num_passes(job.numbers)


def _roles(inputs: streams.Inputs) -> dict[str, files_lib.TensorFiles]:
  return {'base': inputs.base} | {
      f'finetuned {number}': files
      for number, files in enumerate(inputs.finetuned, 1)
  }


def _files_of(files: files_lib.TensorFiles) -> tuple[pathlib.Path, ...]:
  """Returns a checkpoint's files, with the index of shards."""
  return (*files.files, *([files.index] if files.index else []))


def _copied(base: files_lib.TensorFiles) -> list[pathlib.Path]:
  """Returns index of shards, configs and tokenizer files beside the weights."""
  beside = base.files[0].parent
  found = {file for pattern in _BESIDE for file in beside.glob(pattern)}
  found |= {base.index} if base.index else set()
  return sorted(file for file in found if file.is_file())


def _memory(job: Job) -> int:
  """Returns an estimate, in bytes, of what a merge needs."""
  num_models = len(job.inputs.models)
  largest = max((item.size for item in _plan(job)), default=0)
  # One slice that is read, one that is worked on, and what that takes.
  sliced = 8 * 4 * largest * num_models
  tensors = job.inputs.base.tensors.values()
  if job.method in slice_methods.ON_MATRICES:
    # Vectors, the result, and the parts of a decomposition.
    sliced = 4 * (num_models + 8) * max(tensor.size for tensor in tensors)
  return 32 * 2**20 + sliced
