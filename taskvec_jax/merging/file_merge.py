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

Memory: a few slices of (T + 1) n elements, about 2^20; for methods on whole
matrices two copies of the largest in float32, or three in float64, too.
Matrices that wait lie in files without a name in the hidden folder.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np

from taskvec_jax.merging import file_hashes
from taskvec_jax.merging import file_job
from taskvec_jax.merging import recipe as recipe_lib
from taskvec_jax.merging import slice_merging
from taskvec_jax.merging import slice_methods
from taskvec_jax.merging import streams
from taskvec_jax.merging import tied
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import headers

_NUM_BYTES_WAITING = 2**23  # that are written while the next are merged


def merge(job: file_job.Job, *, progress: Callable[[int], Any]) -> None:
  """Writes the merged checkpoint.

  Args:
    job: of `file_job.prepare`.
    progress: called with numbers of bytes that were read, of tensors.

  Raises:
    ValueError: the output folder exists by now, or an input has a value that is
      NaN or infinite, with its file and tensor.
    FloatingPointError: a merged value is not finite in the base's dtype.
    OSError: an input changed meanwhile, or something cannot be written.
  """
  with file_writing.new_folder(job.output) as hidden:
    digests, tensors = _merge_into(hidden, job, progress)
    written = {hidden / name: digest for name, digest in tensors.items()}
    for file in file_job.copied(job.inputs.base):
      shutil.copyfile(file, hidden / file.name)
      written[hidden / file.name] = file_hashes.sha256(hidden / file.name)
    file_job.check_unchanged(job)
    recipe_lib.write(
        hidden,
        recipe_lib.make(
            method=job.method,
            numbers=job.numbers,
            inputs={
                role: {
                    file: digests.get(file) or file_hashes.sha256(file)
                    for file in file_job.files_of(files)
                }
                for role, files in file_job.roles(job.inputs).items()
            },
            outputs=written,
        ),
    )


def repeat(
    job: file_job.Job,
    recipe: Mapping[str, Any],
    *,
    progress: Callable[[int], Any],
) -> list[recipe_lib.Checked]:
  """Merges again, writes nothing, and compares with a recipe.

  Args:
    job: of `file_job.prepare_again`.
    recipe: the one that it was prepared from.
    progress: called with numbers of bytes that were read, of tensors.

  Returns:
    Every file of merged tensors, and their index, by the bytes that come out
    of it now.

  Raises:
    OSError, FloatingPointError, ValueError: as `merge` does.
  """
  _, digests = _merge_into(None, job, progress)
  if index := job.inputs.base.index:
    digests[index.name] = file_hashes.sha256(index)
  file_job.check_unchanged(job)
  said = {entry['file']: entry['sha256'] for entry in recipe['outputs']}
  return [
      recipe_lib.Checked(
          job.output / name,
          None
          if digest == said.get(name)
          else f'comes out with SHA-256 {digest[:12]}...',
      )
      for name, digest in digests.items()
  ]


def _merge_into(
    folder: pathlib.Path | None,
    job: file_job.Job,
    progress: Callable[[int], Any],
) -> tuple[dict[pathlib.Path, str], dict[str, str]]:
  """Writes the tensors; returns SHA-256 of the files read, and written."""
  inputs, slices = job.inputs, file_job.plan(job)
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

  survey_hashes = file_hashes.start(inputs.models)
  scratch = folder or pathlib.Path(tempfile.gettempdir())
  survey = _survey(job, slices, survey_vectors, scratch)
  method = slice_methods.METHODS[job.method]
  merge_fn = method.prepare(survey, job.numbers)

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
      del values  # or two slices would be held while the next is read
      yield found
      del found  # and here, while the next is merged

  hashes = file_hashes.start(inputs.models)
  with contextlib.closing(merged()) as pieces:
    written = _write(folder, inputs.base, pieces)
  digests = file_hashes.finish(hashes)
  surveyed = file_job.num_passes(job) > 1
  before = file_hashes.finish(survey_hashes) if surveyed else {}
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
          if piece.nbytes > _NUM_BYTES_WAITING:
            waiting.result()
          del piece
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
  yield np.frombuffer(headers.read_bytes(file), np.uint8)
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
      del piece


def _put(stream, sha256, piece: np.ndarray) -> None:
  view = piece.data
  sha256.update(view)
  while view:
    view = view[stream.write(view) :]


def _survey(
    job: file_job.Job, slices, vectors, scratch: pathlib.Path
) -> slice_merging.Survey:
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
      scratch=scratch,
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
