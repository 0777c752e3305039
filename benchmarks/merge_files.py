"""Seconds that merging checkpoint files takes, in those of reading them.

  python -m benchmarks.merge_files
  python -m benchmarks.merge_files --num_turns 5 --output merge_files.json

`python -m taskvec_jax.merge` on a base and eight finetuned checkpoints of the
size of CLIP ViT-B/32's vision tower (350 MB each, float32, one file a model) is
to take, by task arithmetic, at most 3 times, and by exact global TIES at most 8
times what it takes to read the inputs, hash them and write the output, and
nothing else. That is done here as fast as it goes on the same files: two
threads read and hash, file by file, and the output is a copy of the base.

All of it runs from a warm disk (page cache), turn by turn, so that what else
the machine does meets all of them. The commands run as a user runs them, in a
process of their own: interpreter and imports count. A ratio is that of the
times of one turn; the median over the turns is what counts. Takes 4 GB in a
temporary folder, 1 GB of memory and 2 minutes. Exit status 1 if a median is
above its bar.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import NamedTuple

import numpy as np

from benchmarks import figures
from taskvec_jax.merging import file_hashes
from taskvec_jax.task_vectors import file_writing

ALLOWED = {
    'task_arithmetic': 3.0,
    'ties': 8.0,
    'ties majority': 8.0,
}
_SETTINGS = {
    'task_arithmetic': ['--method=task_arithmetic', '--set=scaling=0.3'],
    'ties': ['--method=ties', '--set=scaling=0.3'],
    'ties majority': ['--method=ties', '--set=tie_break=majority'],
}
_ROOT = pathlib.Path(__file__).parents[1]


class Size(NamedTuple):
  """A vision transformer, which is the shapes of a checkpoint."""

  width: int
  depth: int
  patch: int
  num_positions: int
  projection: int


VIT_B32 = Size(width=768, depth=12, patch=32, num_positions=50, projection=512)
SMALL = Size(width=64, depth=2, patch=8, num_positions=17, projection=32)


class Turns(NamedTuple):
  """What one command took."""

  command: str
  seconds: list[float]  # of each turn
  floor_seconds: list[float]  # reading, hashing and writing alone
  ratio: float  # the median of the turns'
  allowed: float


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
  """Returns tensor name -> shape of a vision tower in open_clip's layout."""
  width = size.width
  found = {
      'class_embedding': (width,),
      'positional_embedding': (size.num_positions, width),
      'conv1.weight': (width, 3, size.patch, size.patch),
      'proj': (width, size.projection),
  }
  for norm in ('ln_pre', 'ln_post'):
    found |= {f'{norm}.weight': (width,), f'{norm}.bias': (width,)}
  for layer in range(size.depth):
    block = f'transformer.resblocks.{layer}'
    for norm in ('ln_1', 'ln_2'):
      found[f'{block}.{norm}.weight'] = (width,)
      found[f'{block}.{norm}.bias'] = (width,)
    found |= {
        f'{block}.attn.in_proj_weight': (3 * width, width),
        f'{block}.attn.in_proj_bias': (3 * width,),
        f'{block}.attn.out_proj.weight': (width, width),
        f'{block}.attn.out_proj.bias': (width,),
        f'{block}.mlp.c_fc.weight': (4 * width, width),
        f'{block}.mlp.c_fc.bias': (4 * width,),
        f'{block}.mlp.c_proj.weight': (width, 4 * width),
        f'{block}.mlp.c_proj.bias': (width,),
    }
  return found


def write_models(
    folder: pathlib.Path, size: Size, num_tasks: int
) -> list[pathlib.Path]:
  """Writes a base and finetuned models of noise; returns their files."""
  rng = np.random.default_rng(0)
  base = {
      name: 0.02 * rng.standard_normal(shape, np.float32)
      for name, shape in shapes(size).items()
  }
  files = []
  for index in range(num_tasks + 1):
    model = base
    if index:
      model = {
          name: value + 1e-4 * rng.standard_normal(value.shape, np.float32)
          for name, value in base.items()
      }
    files.append(folder / f'{index}.safetensors')
    file_writing.save(files[-1], model)
  return files


def floor(files: list[pathlib.Path], output: pathlib.Path) -> None:
  """Reads and hashes all files, and writes one like the first."""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    copying = pool.submit(shutil.copyfile, files[0], output)
    list(pool.map(file_hashes.sha256, files))
    copying.result()


def merge(
    setting: list[str], files: list[pathlib.Path], output: pathlib.Path
) -> None:
  """Runs the command in a process of its own."""
  base, *finetuned = files
  subprocess.run(
      [
          sys.executable,
          '-m',
          'taskvec_jax.merge',
          f'--base={base}',
          *(f'--finetuned={file}' for file in finetuned),
          f'--output={output}',
          *setting,
      ],
      check=True,
      cwd=_ROOT,
      stdout=subprocess.DEVNULL,
  )


def measure(size: Size, *, num_tasks: int, num_turns: int) -> list[Turns]:
  """Returns what each command takes beside the floor."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    files = write_models(folder, size, num_tasks)
    floor(files, folder / 'copy')  # warms the cache
    found: dict[str, list[float]] = {}
    for _ in range(num_turns):
      seconds = _seconds(lambda: floor(files, folder / 'copy'))
      found.setdefault('floor', []).append(seconds)
      for command, setting in _SETTINGS.items():
        output = folder / 'merged'
        seconds = _seconds(
            lambda setting=setting, output=output: merge(setting, files, output)
        )
        found.setdefault(command, []).append(seconds)
        shutil.rmtree(output)
  floors = found.pop('floor')
  return [
      Turns(
          command=command,
          seconds=seconds,
          floor_seconds=floors,
          ratio=float(np.median(np.divide(seconds, floors))),
          allowed=ALLOWED[command],
      )
      for command, seconds in found.items()
  ]


def _seconds(fn: Callable[[], Any]) -> float:
  os.sync()  # what others wrote is not ours to wait for
  start = time.perf_counter()
  fn()
  return time.perf_counter() - start


def _row(turns: Turns) -> str:
  return (
      f'{turns.command:16} {np.median(turns.floor_seconds):12.2f}'
      f' {np.median(turns.seconds):12.2f} {turns.ratio:6.2f}'
      f' {turns.allowed:7.1f}  {"ok" if passes(turns) else "ABOVE"}'
  )


def passes(turns: Turns) -> bool:
  """Returns whether the median ratio is within its bar."""
  return turns.ratio <= turns.allowed


def main() -> int:
  """Measures, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_tasks', type=int, default=8)
  parser.add_argument('--num_turns', type=int, default=3)
  parser.add_argument(
      '--small', action='store_true', help='models of 0.6 MB, for a trial'
  )
  parser.add_argument('--output', help='JSON file for the figures.')
  arguments = parser.parse_args()
  size = SMALL if arguments.small else VIT_B32
  found = measure(
      size, num_tasks=arguments.num_tasks, num_turns=arguments.num_turns
  )
  print(
      f'{"command":16} {"floor, s":>12} {"merge, s":>12} {"ratio":>6}'
      f' {"at most":>7}'
  )
  for turns in found:
    print(_row(turns), flush=True)
  num_bytes = 4 * sum(map(np.prod, shapes(size).values())).item()
  return figures.conclude(
      arguments.output,
      {
          'num_tasks': arguments.num_tasks,
          'num_bytes': num_bytes,
          'commands': found,
      },
      goals=ALLOWED,
      missed=[
          f'{turns.command}: {turns.ratio:.2f} times the floor'
          for turns in found
          if not passes(turns)
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
