"""The folder of a run: made, recognised, gone on with.

Parts of a run that are finished lie in `parts/`, one JSON file each; a run
that was killed reads them and goes on. Of several processes only the first
reads and writes the folder and tells the others what is in it: hosts need not
share a file system.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import time
from typing import Any

import jax

from taskvec_jax.gradients import full_batch
from taskvec_jax.report import results as results_lib

_PACKAGES = (
    'taskvec_jax',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'numpy',
    'scikit-learn',
)


def is_writer() -> bool:
  """Returns whether this process writes the run's files."""
  return full_batch.process()[0] == 0


def open_workdir(folder: str | os.PathLike[str], config: Any) -> pathlib.Path:
  """Returns the folder of this run, new or of the same config, a dataclass.

  Raises:
    ValueError: it cannot be written, holds the run of another config, or this
      process has another config than the first; the sentence names the first
      field that differs.
  """
  folder = pathlib.Path(folder)
  mine = json.loads(json.dumps(dataclasses.asdict(config)))
  theirs = full_batch.text_from_first(lambda: _opened(folder, mine))
  difference = _first_difference(json.loads(theirs), mine, 'config')
  if difference:
    name, first, own = difference
    raise ValueError(
        f'The first process of this run has {name} = {first!r}, but this one'
        f' has {own!r}; start the same command on every host.'
    )
  return folder


def _opened(folder: pathlib.Path, mine: dict[str, Any]) -> str:
  """Makes or recognises the folder; returns the config as JSON."""
  try:
    (folder / 'parts').mkdir(parents=True, exist_ok=True)
    there = folder / 'config.json'
    if there.exists():
      _check_same(json.loads(there.read_text()), mine, folder)
    else:
      results_lib.write_json(there, mine)
    results_lib.write_json(folder / 'environment.json', environment())
  except OSError as error:
    raise ValueError(
        f'The work folder {folder} cannot be written ({error.strerror}); name'
        ' another one with --workdir.'
    ) from error
  except json.JSONDecodeError as error:
    raise ValueError(
        f'{folder}/config.json is not JSON ({error}), so this is no work folder'
        ' of a run; name another one with --workdir.'
    ) from error
  return json.dumps(mine)


def environment() -> dict[str, Any]:
  """Returns versions and devices, which explain differences between runs."""
  return {
      'python': platform.python_version(),
      'platform': platform.platform(),
      'packages': {
          name: _version(name) for name in _PACKAGES if _version(name)
      },
      'backend': jax.default_backend(),
      'devices': full_batch.device_names(),
      'processes': full_batch.process()[1],
      'cores': os.cpu_count(),
  }


def once(
    folder: pathlib.Path,
    part: str,
    kind: Any,
    compute: Callable[[], Any],
    seconds: dict[str, float],
) -> Any:
  """Returns what `compute` returns, from the folder if it is there.

  Args:
    folder: the work folder.
    part: the name of the part; the text before '-' groups its time.
    kind: the type of the value, as `results.from_json` takes it.
    compute: makes the value, of dataclasses, lists and numbers.
    seconds: time by group of parts, which this part's is added to.
  """
  path = folder / 'parts' / f'{part}.json'
  text = full_batch.text_from_first(functools.partial(_read_part, path))
  if not text:
    start = time.monotonic()
    value = compute()
    stored = {
        'seconds': time.monotonic() - start,
        'value': _plain(value),
    }
    if is_writer():
      results_lib.write_json(path, stored)
    # The value goes through JSON either way, so that a run that was killed
    # and one that was not end with the same numbers; the first process's, so
    # that all have the same.
    text = full_batch.text_from_first(functools.partial(json.dumps, stored))
  stored = json.loads(text)
  group = part.partition('-')[0]
  seconds[group] = seconds.get(group, 0.0) + stored['seconds']
  return results_lib.from_json(kind, stored['value'])


def _read_part(path: pathlib.Path) -> str:
  """Returns the text of a part; '' if it is not there, or damaged."""
  if not path.exists():
    return ''
  text = path.read_text(errors='replace')
  try:
    json.loads(text)
  except ValueError:
    logging.warning('%s is damaged; its part is computed again', path)
    return ''
  return text


class Metrics:
  """`metrics.jsonl`: one line an epoch and task, also of an interrupted run."""

  def __init__(self, folder: pathlib.Path):
    self._path = folder / 'metrics.jsonl'
    if is_writer():
      self._path.touch()

  def rewind(self, run: dict[str, Any], epoch: int) -> None:
    """Drops the lines of `run` after `epoch`: they are about to be redone."""
    if not is_writer():
      return
    kept = []
    for text in self._path.read_text().splitlines():
      # A line that a kill cut short is not JSON; its epoch is redone as well.
      with contextlib.suppress(json.JSONDecodeError):
        line = json.loads(text)
        same = all(line.get(key) == value for key, value in run.items())
        if not (same and line['epoch'] > epoch):
          kept.append(text + '\n')
    beside = self._path.with_suffix('.tmp')
    beside.write_text(''.join(kept))
    os.replace(beside, self._path)

  def append(self, line: dict[str, Any]) -> None:
    """Adds one line."""
    if is_writer():
      with self._path.open('a') as file:
        file.write(json.dumps(line) + '\n')


def _check_same(
    there: dict[str, Any], mine: dict[str, Any], folder: pathlib.Path
) -> None:
  difference = _first_difference(there, mine, 'config')
  if difference:
    name, theirs, ours = difference
    raise ValueError(
        f'{folder} holds a run with {name} = {theirs!r}, but this one has'
        f" {ours!r}; name another --workdir, or repeat that run's settings to"
        ' go on with it.'
    )


def _first_difference(there: Any, mine: Any, name: str):
  if isinstance(there, dict) and isinstance(mine, dict):
    for key in [*mine, *there]:
      found = _first_difference(there.get(key), mine.get(key), f'{name}.{key}')
      if found:
        return found
    return None
  return None if there == mine else (name, there, mine)


def _plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return dataclasses.asdict(value)
  if isinstance(value, list):
    return [_plain(item) for item in value]
  return value


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
