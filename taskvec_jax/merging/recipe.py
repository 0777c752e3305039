"""What a merged checkpoint was made of, and whether it still is that.

`recipe.json` lies beside the merged files: the method and all its numbers, the
seed, versions, and name, size and SHA-256 of every file that was read or
written. Paths of inputs are absolute, those of outputs relative to the folder.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import concurrent.futures
import importlib.metadata
import json
import pathlib
import platform
from typing import Any
from typing import NamedTuple

from taskvec_jax.merging import streams

NAME = 'recipe.json'
_PACKAGES = ('taskvec_jax', 'jax', 'jaxlib', 'numpy', 'ml_dtypes')


class Checked(NamedTuple):
  """What `verify` found of one file."""

  file: pathlib.Path
  problem: str | None  # None if it is as the recipe says


def make(
    *,
    method: str,
    numbers: Mapping[str, Any],
    inputs: Mapping[str, Mapping[pathlib.Path, str]],
    outputs: Mapping[pathlib.Path, str],
) -> dict[str, Any]:
  """Returns a recipe.

  Args:
    method: its name.
    numbers: all of them, with `seed` if there is one.
    inputs: role ('base', 'finetuned 1', ...) -> file -> SHA-256.
    outputs: file -> SHA-256.
  """
  return {
      'method': method,
      'numbers': dict(numbers),
      'seed': numbers.get('seed'),
      'versions': {'python': platform.python_version()}
      | {name: _version(name) for name in _PACKAGES},
      'inputs': [
          {'role': role, **_entry(file.absolute(), file, digest)}
          for role, files in inputs.items()
          for file, digest in files.items()
      ],
      'outputs': [
          _entry(pathlib.Path(file.name), file, digest)
          for file, digest in outputs.items()
      ],
  }


def write(folder: pathlib.Path, recipe: Mapping[str, Any]) -> None:
  """Writes a recipe into a folder."""
  text = json.dumps(recipe, indent=2, allow_nan=False)
  (folder / NAME).write_text(text + '\n', encoding='utf-8')


def verify(
    folder: pathlib.Path, *, progress: Callable[[int], Any] | None = None
) -> list[Checked]:
  """Returns every file of a folder's recipe, hashed anew and compared.

  Args:
    folder: with a recipe.
    progress: called with the bytes of each file that was looked at.

  Raises:
    ValueError: there is no recipe, or it cannot be read.
  """
  path = folder / NAME
  if not path.is_file():
    raise ValueError(
        f'there is no {path}; name the output folder of a merge to verify'
    )
  try:
    recipe = json.loads(path.read_text(encoding='utf-8'))
    entries = [*recipe['inputs'], *recipe['outputs']]
    said = [
        (folder / entry['file'], int(entry['num_bytes']), str(entry['sha256']))
        for entry in entries
    ]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
        f'{path} is no recipe of a merge ({error!r}); it may be damaged'
    ) from error

  def check(entry) -> Checked:
    file, size, digest = entry
    found = Checked(file, _problem(file, size, digest))
    if progress:
      progress(size)
    return found

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(check, said))


def num_bytes(files: Iterable[pathlib.Path]) -> int:
  """Returns the size of files together."""
  return sum(file.stat().st_size for file in files)


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'  # run from a checkout


def _entry(
    name: pathlib.Path, file: pathlib.Path, digest: str
) -> dict[str, Any]:
  return {
      'file': str(name),
      'num_bytes': file.stat().st_size,
      'sha256': digest,
  }


def _problem(file: pathlib.Path, size: int, digest: str) -> str | None:
  """Returns in what a file differs from what was written down of it."""
  if not file.is_file():
    return 'is missing'
  found = file.stat().st_size
  if found != size:
    return f'has {found} bytes, not {size}'
  found = streams.sha256(file)
  if found != digest:
    return f'has SHA-256 {found[:12]}..., not {digest[:12]}...'
  return None
