"""The JSON file of a benchmark: figures, goals, and on which machine."""

from collections.abc import Sequence
import datetime
import json
import os
import pathlib
import platform
from typing import Any

import jax


def conclude(
    path: str | os.PathLike | None,
    found: dict[str, Any],
    *,
    goals: dict[str, float],
    missed: Sequence[str] = (),
) -> int:
  """Prints what was missed, writes the file, and returns the exit status.

  Beside the figures and their goals stand the machine, versions and the date.

  Args:
    path: the file; None for none.
    found: figures by name; NamedTuples, also within lists, become objects.
    goals: what the figures are compared with.
    missed: a sentence for each goal that is missed, with what stands in the way
      where the same run measured it.

  Returns:
    1 if any is missed, else 0.
  """
  for sentence in missed:
    print(f'missed: {sentence}')
  if path:
    _write(path, found, goals, missed)
  return int(bool(missed))


def _write(path, found, goals, missed) -> None:
  report = {
      'date': datetime.date.today().isoformat(),
      'machine': {
          'cores': len(os.sched_getaffinity(0)),
          'processor': platform.machine(),
          'devices': [device.device_kind for device in jax.local_devices()],
          'jax': jax.__version__,
          'python': platform.python_version(),
      },
      'goals': goals,
      'missed': missed,
      **found,
  }
  text = json.dumps(_plain(report), indent=1)
  pathlib.Path(path).write_text(text + '\n')


def _plain(value: Any) -> Any:
  if hasattr(value, '_asdict'):
    value = value._asdict()
  if isinstance(value, dict):
    return {name: _plain(entry) for name, entry in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(entry) for entry in value]
  return value
