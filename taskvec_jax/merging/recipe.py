"""What a merged checkpoint was made of, and whether it still is that.

`recipe.json` lies beside the merged files: the method and all its numbers, the
seed, versions and the type of processor, and name, size and SHA-256 of every
file that was read or written. Paths of inputs are absolute, those of outputs
relative to the folder.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import file_hashes

NAME = 'recipe.json'
_PACKAGES = ('taskvec_jax', 'jax', 'jaxlib', 'numpy', 'scipy', 'ml_dtypes')
_PROCESSOR = 'processor'


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
      'versions': _versions(),
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


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the recipe of a folder, as `make` made it.

  Raises:
    ValueError: there is none, or it cannot be read.
  """
  path = folder / NAME
  if not path.is_file():
    raise ValueError(
        f'there is no {path}; name the output folder of a merge to verify'
    )
  try:
    recipe = json.loads(path.read_text(encoding='utf-8'))
    dict(recipe['numbers'])
    str(recipe['method'])
    dict(recipe['versions'])
    for entry in (*recipe['inputs'], *recipe['outputs']):
      str(entry['file'])
      int(entry['num_bytes'])
      str(entry['sha256'])
    roles = [entry['role'] for entry in recipe['inputs']]
    if not {'base', 'finetuned 1'} <= set(roles):
      raise ValueError(f'its inputs are {roles}')
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
        f'{path} is no recipe of a merge ({error!r}); it may be damaged'
    ) from error
  return recipe


def checkpoints(recipe: Mapping[str, Any]) -> dict[str, str]:
  """Returns role -> path of an input: of shards their index."""
  paths: dict[str, str] = {}
  for entry in recipe['inputs']:
    role, file = entry['role'], entry['file']
    if role not in paths or file.endswith('.json'):
      paths[role] = file
  return paths


def other_versions(recipe: Mapping[str, Any]) -> list[str]:
  """Returns what of Python, packages, processor is not as it was, in words."""
  now = _versions()
  return [
      f'{name} {now.get(name)}, then {version}'
      for name, version in recipe['versions'].items()
      if now.get(name) != version
  ]


def other_processor(recipe: Mapping[str, Any]) -> bool:
  """Returns whether a recipe was written on another type, or does not say."""
  return recipe['versions'].get(_PROCESSOR) != _versions()[_PROCESSOR]


def verify(
    folder: pathlib.Path, *, progress: Callable[[int], Any] | None = None
) -> list[Checked]:
  """Returns every file of a folder and its recipe, hashed anew and compared.

  A file that the merge did not write is a problem too: a library that loads the
  folder might take it for the weights.

  Args:
    folder: with a recipe.
    progress: called with the bytes of each file that was looked at.

  Raises:
    ValueError: there is no recipe, or it cannot be read.
  """
  recipe = read(folder)
  entries = [*recipe['inputs'], *recipe['outputs']]

  def check(entry) -> Checked:
    file, size = folder / entry['file'], entry['num_bytes']
    found = Checked(file, _problem(file, size, entry['sha256']))
    if progress:
      progress(size)
    return found

  known = {NAME, *(entry['file'] for entry in recipe['outputs'])}
  others = sorted(
      file
      for file in folder.iterdir()
      if file.is_file() and file.name not in known
  )
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return [
        *pool.map(check, entries),
        *(Checked(file, 'is no output of the merge') for file in others),
    ]


def num_bytes(files: Iterable[pathlib.Path]) -> int:
  """Returns the size of files together."""
  return sum(file.stat().st_size for file in files)


def _versions() -> dict[str, str]:
  built = np.show_config(mode='dicts') or {}
  blas = built.get('Build Dependencies', {}).get('blas', {})
  processor = [
      platform.machine(),
      *built.get('SIMD Extensions', {}).get('found', []),
      # It makes OpenBLAS run the code of another type.
      os.environ.get('OPENBLAS_CORETYPE', ''),
  ]
  return {
      'python': platform.python_version(),
      **{name: _version(name) for name in _PACKAGES},
      'blas': f'{blas.get("name")} {blas.get("version")}',
      _PROCESSOR: ' '.join(filter(None, processor)),
  }


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
  found = file_hashes.sha256(file)
  if found != digest:
    return f'has SHA-256 {found[:12]}..., not {digest[:12]}...'
  return None
