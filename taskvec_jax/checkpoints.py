"""Parameters and the state of a run on disk, by Orbax.

A folder holds numbered checkpoints, the last two of a run. Each is a tree of
arrays and a small JSON record, written beside its place and renamed; then the
SHA-256 of its files is, in the same way. So a checkpoint is whole or it does
not count, and one that was damaged later is noticed before anything is read
from it, said, and passed over for the one before.
Only plain nested dicts of arrays are stored: reading needs no template and
runs no code. Of several processes the first alone reads and writes. A save
costs about 30 ms; nothing else writes checkpoints.
"""

import hashlib
import logging
import os
import pathlib
import shutil
from typing import Any
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from taskvec_jax.typing import Params

_NUM_KEPT = 2


class Checkpoint(NamedTuple):
  """What a folder holds of one step."""

  step: int
  tree: dict[str, Any]  # nested dicts of NumPy arrays
  record: dict[str, Any]  # as JSON gives it


def save(
    folder: str | os.PathLike[str],
    step: int,
    tree: Params,
    record: dict[str, Any],
) -> None:
  """Writes checkpoint `step` into `folder`, and drops all but the last two.

  Args:
    folder: made if it does not exist.
    step: its number, larger than those already there.
    tree: nested dicts, with string keys, of arrays.
    record: what JSON can hold.
  """
  folder = pathlib.Path(folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  # NumPy, since Orbax refuses the host-local arrays of a run of several
  # processes; one process writes.
  tree = jax.tree.map(np.asarray, tree)
  path = folder / f'{step:06d}'
  with _checkpointer() as checkpointer:
    checkpointer.save(
        path,
        args=ocp.args.Composite(
            tree=ocp.args.PyTreeSave(tree), record=ocp.args.JsonSave(record)
        ),
        force=True,
    )
  beside = folder / f'{path.name}.tmp'
  beside.write_text(_digest(path))
  os.replace(beside, _digest_path(path))
  for old in _paths(folder)[:-_NUM_KEPT]:
    _digest_path(old).unlink()
    shutil.rmtree(old)


def restore_latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
  """Returns the newest undamaged checkpoint of `folder`; None without one.

  A damaged one is named in a warning and the one before is taken.
  """
  for path in reversed(_paths(pathlib.Path(folder).absolute())):
    if _digest(path) != _digest_path(path).read_text():
      logging.warning(
          'Checkpoint %s is damaged (its files do not match their SHA-256);'
          ' going back to the one before.',
          path,
      )
      continue
    with _checkpointer() as checkpointer:
      restored = checkpointer.restore(
          path,
          args=ocp.args.Composite(
              tree=ocp.args.PyTreeRestore(), record=ocp.args.JsonRestore()
          ),
      )
    tree = jax.tree.map(np.asarray, restored['tree'])
    return Checkpoint(int(path.name), tree, restored['record'])
  return None


def _checkpointer() -> ocp.Checkpointer:
  # One process reads and writes: Orbax would wait for the others.
  alone = ocp.options.MultiprocessingOptions(
      primary_host=0,
      active_processes={0},
      barrier_sync_key_prefix='taskvec_jax',
  )
  return ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(
          composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
          # Weights hardly compress, and trying takes as much memory again.
          tree=ocp.PyTreeCheckpointHandler(
              use_compression=False, multiprocessing_options=alone
          ),
          record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
      ),
      multiprocessing_options=alone,
  )


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the whole checkpoints of a folder, oldest first."""
  digests = sorted(folder.glob('*.sha256'), key=lambda path: int(path.stem))
  return [path.with_suffix('') for path in digests]


def _digest_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix('.sha256')


def _digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of all files under `path`, names and contents."""
  digest = hashlib.sha256()
  for file in sorted(path.rglob('*')):
    if file.is_file():
      digest.update(str(file.relative_to(path)).encode())
      with file.open('rb') as data:
        digest.update(hashlib.file_digest(data, 'sha256').digest())
  return digest.hexdigest()
