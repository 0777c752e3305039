"""Parameters and the state of a run on disk, by Orbax.

A folder holds numbered checkpoints, the last two of a run. Each is a tree of
arrays and a small JSON record, written beside its place and renamed, so that
one is whole or absent; a SHA-256 of both is stored with them, so that one
which was damaged later is noticed, said, and passed over for the one before.
Only plain nested dicts of arrays are stored: reading needs no template and
runs no code. A save costs about 30 ms; nothing else writes checkpoints.
"""

import hashlib
import json
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
  content = {'digest': _digest(tree, record), 'record': record}
  with _checkpointer() as checkpointer:
    checkpointer.save(
        folder / f'{step:06d}',
        args=ocp.args.Composite(
            tree=ocp.args.PyTreeSave(tree), content=ocp.args.JsonSave(content)
        ),
        force=True,
    )
  for old in _steps(folder)[:-_NUM_KEPT]:
    shutil.rmtree(folder / f'{old:06d}')


def restore_latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
  """Returns the newest undamaged checkpoint of `folder`; None without one.

  A damaged one is named in a warning and the one before is taken.
  """
  folder = pathlib.Path(folder).absolute()
  for step in reversed(_steps(folder)):
    try:
      return _restore(folder, step)
    # What Orbax raises for a damaged file is not documented, and differs with
    # the file; all of it means the same here and is said.
    except Exception as error:  # pylint: disable=broad-exception-caught
      logging.warning(
          'Checkpoint %s cannot be read (%s); going back to the one before.',
          folder / f'{step:06d}',
          str(error).splitlines()[0] if str(error) else type(error).__name__,
      )
  return None


def _restore(folder: pathlib.Path, step: int) -> Checkpoint:
  with _checkpointer() as checkpointer:
    restored = checkpointer.restore(
        folder / f'{step:06d}',
        args=ocp.args.Composite(
            tree=ocp.args.PyTreeRestore(), content=ocp.args.JsonRestore()
        ),
    )
  content = restored['content']
  tree = jax.tree.map(np.asarray, restored['tree'])
  if _digest(tree, content['record']) != content['digest']:
    raise ValueError('its contents do not match their SHA-256')
  return Checkpoint(step, tree, content['record'])


def _checkpointer() -> ocp.Checkpointer:
  return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def _steps(folder: pathlib.Path) -> list[int]:
  # Orbax names a half-written one otherwise, so a number means a whole one.
  if not folder.is_dir():
    return []
  return sorted(
      int(path.name) for path in folder.iterdir() if path.name.isdigit()
  )


def _digest(tree: Params, record: dict[str, Any]) -> str:
  digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(str((leaf.dtype, leaf.shape)).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
