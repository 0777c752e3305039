"""Seconds and memory to read and to write published CLIP weights.

  python -m benchmarks.weights
  python -m benchmarks.weights --models vit_b32 --output weights.json

Checkpoints of the true sizes, whole CLIPs of random numbers, are written in
every layout and dtype, read from a warm disk, and written back. Beside the
seconds stands the most memory that the process had (VmHWM) beyond what it had
before and beyond the parameters, in sizes of the file: reading ViT-B/32 is to
take at most 1.5 of them and 3 seconds. ViT-L/14 is to stay within 8 GiB in all,
imports, parameters and writing included.

Each row is a fresh process. Linux only: it reads and resets the high-water mark
in /proc/self. Exit status 1 if a bar is missed. It takes about three minutes on
2 cores, 4 GB of disk and 6 GB of memory.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np

from benchmarks import figures
from benchmarks import resident
from taskvec_jax.models import clip_layouts
from taskvec_jax.models import clip_sizes
from taskvec_jax.models import pretrained
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import flax_msgpack

ALLOWED_SECONDS = 3.0
ALLOWED_BEYOND = 1.5  # sizes of the file, of reading
ALLOWED_BYTES = 8 * 2**30
_TIMED_MODEL = 'vit_b32'
_TEXT = clip_sizes.TextSizes(
    vocab_size=49408,
    max_length=77,
    width=512,
    depth=12,
    mlp_width=2048,
    projection=512,
)
_BASE = clip_sizes.VisionSizes(
    patch_size=32,
    num_channels=3,
    width=768,
    depth=12,
    mlp_width=3072,
    projection=512,
    num_positions=50,
)
MODELS = {
    'vit_b32': (_BASE, _TEXT),
    'vit_b16': (_BASE._replace(patch_size=16, num_positions=197), _TEXT),
    'vit_l14': (
        _BASE._replace(
            patch_size=14,
            width=1024,
            depth=24,
            mlp_width=4096,
            projection=768,
            num_positions=257,
        ),
        _TEXT._replace(width=768, mlp_width=3072, projection=768),
    ),
}
_FORMATS = (
    ('hugging_face', 'float32'),
    ('hugging_face', 'float16'),
    ('open_clip', 'float32'),
    ('flax', 'float32'),
)


class Cost(NamedTuple):
  """What reading and writing one checkpoint took."""

  model: str
  layout: str
  dtype: str
  file_bytes: int
  parameter_bytes: int
  read_seconds: float
  read_cpu_seconds: float  # without waiting for other processes or the disk
  read_beyond: float  # sizes of the file, beside the parameters
  write_seconds: float
  write_beyond: float
  peak_bytes: int  # of the whole process
  is_same: bool  # whether the file written has the bytes of the one read


def make(
    path: pathlib.Path,
    sizes: tuple[clip_sizes.VisionSizes, clip_sizes.TextSizes],
    layout: str,
    dtype: np.dtype,
) -> None:
  """Writes a checkpoint of random numbers, a file of a layout."""
  vision, text = sizes
  shapes = clip_sizes.leaf_shapes(vision, text)
  table = clip_layouts.entries(
      layout, depth=vision.depth, text_depth=text.depth
  )
  rng = np.random.default_rng(0)
  tensors = {}
  for name, entry in table.items():
    shape = clip_layouts.tensor_shape(entry, shapes[entry.leaves[0]])
    values = rng.standard_normal(shape, dtype=np.float32)
    tensors[name] = np.asarray(values).astype(dtype)
  if layout == 'flax':
    flax_msgpack.write(path, tensors, tensors.__getitem__)
  else:
    file_writing.save(path, tensors, {'format': 'pt'})


def measure(path: pathlib.Path, model: str, layout: str, dtype: str) -> Cost:
  """Returns what a checkpoint costs, in this process; best a fresh one."""
  _warm(path)
  before = resident.now()
  resident.reset_peak()
  start, cpu_start = time.perf_counter(), time.process_time()
  weights = pretrained.read(path)
  read_seconds = time.perf_counter() - start
  read_cpu_seconds = time.process_time() - cpu_start
  leaves = jax.tree.leaves((weights.vision, weights.text))
  parameter_bytes = sum(leaf.nbytes for leaf in leaves)
  held = before + parameter_bytes
  read_peak = resident.peak()
  resident.reset_peak()
  start = time.perf_counter()
  folder = path.parent / 'written'
  pretrained.write(folder, weights)
  write_seconds = time.perf_counter() - start
  write_peak = resident.peak()
  file_bytes = path.stat().st_size
  return Cost(
      model=model,
      layout=layout,
      dtype=dtype,
      file_bytes=file_bytes,
      parameter_bytes=parameter_bytes,
      read_seconds=read_seconds,
      read_cpu_seconds=read_cpu_seconds,
      read_beyond=(read_peak - held) / file_bytes,
      write_seconds=write_seconds,
      write_beyond=(write_peak - held) / file_bytes,
      peak_bytes=max(read_peak, write_peak),
      is_same=_same_bytes(path, folder / path.name),
  )


def passes(cost: Cost) -> bool:
  """Returns whether a checkpoint is read and written within the bars."""
  if not cost.is_same or cost.peak_bytes > ALLOWED_BYTES:
    return False
  return cost.model != _TIMED_MODEL or (
      cost.read_seconds <= ALLOWED_SECONDS
      and cost.read_beyond <= ALLOWED_BEYOND
  )


def _warm(path: pathlib.Path) -> None:
  with open(path, 'rb') as stream:
    while stream.read(2**24):
      pass


def _same_bytes(first: pathlib.Path, second: pathlib.Path) -> bool:
  with open(first, 'rb') as one, open(second, 'rb') as other:
    while block := one.read(2**24):
      if block != other.read(2**24):
        return False
    return not other.read(1)


def _in_fresh_process(step: str, *arguments: str) -> str:
  command = [sys.executable, '-m', 'benchmarks.weights', '--child', step]
  child = subprocess.run(
      [*command, *arguments], check=True, stdout=subprocess.PIPE
  )
  return child.stdout.decode()


def _child(step: str, path: str, model: str, layout: str, dtype: str) -> None:
  if step == 'make':
    types = {'bfloat16': ml_dtypes.bfloat16}
    as_type = np.dtype(types.get(dtype, dtype))
    make(pathlib.Path(path), MODELS[model], layout, as_type)
  else:
    cost = measure(pathlib.Path(path), model, layout, dtype)
    print(json.dumps(cost._asdict()))


def _row(cost: Cost) -> str:
  return (
      f'{cost.model:8} {cost.layout:12} {cost.dtype:8}'
      f' {cost.file_bytes / 2**20:9.0f} {cost.read_seconds:8.2f}'
      f' {cost.read_cpu_seconds:7.2f}'
      f' {cost.read_beyond:7.2f} {cost.write_seconds:9.2f}'
      f' {cost.write_beyond:7.2f} {cost.peak_bytes / 2**30:10.2f}'
      f'  {"yes" if cost.is_same else "NO":10} '
      f' {"ok" if passes(cost) else "ABOVE"}'
  )


def main() -> int:
  """Measures every checkpoint, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', nargs='+', default=list(MODELS))
  parser.add_argument('--output', help='JSON file for the figures.')
  parser.add_argument('--child', nargs=5, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    _child(*arguments.child)
    return 0
  print(
      f'{"model":8} {"layout":12} {"dtype":8} {"file, MiB":>9} {"read, s":>8}'
      f' {"of CPU":>7}'
      f' {"beyond":>7} {"write, s":>9} {"beyond":>7} {"peak, GiB":>10}'
      '  same bytes'
  )
  costs = []
  for model in arguments.models:
    for layout, dtype in _FORMATS:
      with tempfile.TemporaryDirectory() as folder:
        suffix = 'msgpack' if layout == 'flax' else 'safetensors'
        path = str(pathlib.Path(folder) / f'model.{suffix}')
        _in_fresh_process('make', path, model, layout, dtype)
        measured = _in_fresh_process('measure', path, model, layout, dtype)
      costs.append(Cost(**json.loads(measured)))
      print(_row(costs[-1]), flush=True)
  return figures.conclude(
      arguments.output,
      {'costs': costs},
      goals={
          f'{_TIMED_MODEL}_most_seconds_of_reading': ALLOWED_SECONDS,
          f'{_TIMED_MODEL}_most_sizes_beyond': ALLOWED_BEYOND,
          'most_bytes': ALLOWED_BYTES,
      },
      missed=[
          f'{cost.model}, {cost.layout}, {cost.dtype}'
          for cost in costs
          if not passes(cost)
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
