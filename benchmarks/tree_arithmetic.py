"""Forming and merging task vectors, in the memory bandwidth of the machine.

  python -m benchmarks.tree_arithmetic
  python -m benchmarks.tree_arithmetic --num_tasks 2 8 --output tree.json

`task_vector` reads two trees and writes one; `merge` of T task vectors reads
T + 1 trees, each once, and writes one. Nothing less will do, so that many bytes
over the time is their bandwidth, `3 P` and `(T + 2) P` for trees of P bytes:
float32, the leaves of CLIP ViT-B/32's vision tower (351 MB), which fit no
cache. Turn by turn with them, on the same machine:

  copy    NumPy, from one array to another that is there already, as many
          threads as cores: 2 P bytes. The machine's limit. On a GPU JAX, in
          its memory.
  triad   JAX, one program for `a + 2 b` of two such trees: 3 P bytes. Its
          result is new memory, as that of all functions of JAX.
  optax   the same merge by the functions of `optax.tree`, leaf by leaf.
  torch   the same merge as a loop over two state dicts, where torch is
          installed (`pip install -e .[bench]`).

Memory that a result gets anew has to be mapped first, and a write reads its
place into the cache before; both cost time and are in no count. A share is that
of the copy in the same turn. Needs 4 GB of memory and two minutes.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import importlib.util
import os
import sys
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from optax import tree as optax_tree

from benchmarks import figures
from benchmarks import merge_files
from benchmarks import timing
from benchmarks import torch_peer
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_SCALING = 0.3
_SIZES = {'vit_b32': merge_files.VIT_B32, 'small': merge_files.SMALL}


class Bandwidth(NamedTuple):
  """What one operation moved, and how fast."""

  operation: str
  num_tasks: int
  tree_bytes: int  # P, of one tree
  moved_bytes: int  # read and written, counted once each
  seconds: timing.Quartiles
  gigabytes_per_second: timing.Quartiles
  share: timing.Quartiles  # of the copy's bandwidth in the same turn


def moved_trees(operation: str, num_tasks: int) -> int:
  """Returns how many trees an operation has to read and to write."""
  return {'copy': 2, 'triad': 3, 'task_vector': 3}.get(operation, num_tasks + 2)


def measure(
    size: merge_files.Size, *, num_tasks: int, num_turns: int
) -> list[Bandwidth]:
  """Returns the bandwidth of every operation on trees of a size."""
  base_params, *vectors = _trees(size, num_tasks + 1)
  task_vectors = {f'task_{i}': vector for i, vector in enumerate(vectors)}
  scaling = dict.fromkeys(task_vectors, _SCALING)
  triad = jax.jit(lambda a, b: jax.tree.map(lambda x, y: x + 2.0 * y, a, b))
  fns: dict[str, Callable[[], Any]] = {
      'copy': _copy(base_params),
      'triad': lambda: triad(base_params, vectors[0]),
      'task_vector': lambda: arithmetic.task_vector(vectors[0], base_params),
      'merge': lambda: arithmetic.merge(base_params, task_vectors, scaling),
      'merge, optax': lambda: merge_by_optax(base_params, vectors),
  }
  if importlib.util.find_spec('torch'):
    fns['merge, torch'] = _merge_by_torch(base_params, vectors)
  seconds = timing.interleaved_seconds(*fns.values(), num_turns=num_turns)
  tree_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(base_params))
  return bandwidths(
      dict(zip(fns, seconds, strict=True)), tree_bytes, num_tasks=num_tasks
  )


def bandwidths(
    seconds: dict[str, np.ndarray], tree_bytes: int, *, num_tasks: int
) -> list[Bandwidth]:
  """Returns each operation's bandwidth and its share of the copy's.

  Args:
    seconds: operation -> seconds by turn, `[num_turns]`; one is 'copy'.
    tree_bytes: P.
    num_tasks: T.
  """
  copied = moved_trees('copy', num_tasks) * tree_bytes / seconds['copy']
  found = []
  for operation, taken in seconds.items():
    moved_bytes = moved_trees(operation, num_tasks) * tree_bytes
    rate = moved_bytes / taken
    found.append(
        Bandwidth(
            operation=operation,
            num_tasks=num_tasks,
            tree_bytes=tree_bytes,
            moved_bytes=moved_bytes,
            seconds=timing.quartiles(taken),
            gigabytes_per_second=timing.quartiles(rate / 1e9),
            share=timing.quartiles(rate / copied),
        )
    )
  return found


def merge_by_optax(base_params: Params, task_vectors: list[Params]) -> Params:
  """Returns the merge with all coefficients 0.3, an operation a leaf."""
  first, *others = task_vectors
  total = optax_tree.scale(_SCALING, first)
  for vector in others:
    total = optax_tree.add_scale(total, _SCALING, vector)
  return optax_tree.add(base_params, total)


def _merge_by_torch(base_params, task_vectors) -> Callable[[], Any]:
  import torch  # pylint: disable=g-import-not-at-top

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  base, *vectors = (
      {
          name: torch.tensor(np.asarray(leaf), device=torch_peer.device())
          for name, leaf in params.items()
      }
      for params in (base_params, *task_vectors)
  )

  def merge():
    total = {name: _SCALING * leaf for name, leaf in vectors[0].items()}
    for vector in vectors[1:]:
      for name, leaf in vector.items():
        total[name] = total[name] + _SCALING * leaf
    return {name: base[name] + leaf for name, leaf in total.items()}

  return torch_peer.finished(merge)


def _copy(params: Params) -> Callable[[], Any]:
  """Returns a copy of as many bytes between two arrays that are there."""
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  if jax.default_backend() != 'cpu':
    copy, on_device = jax.jit(jnp.copy), jnp.ones(size, jnp.float32)
    return lambda: copy(on_device)
  source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
  num_threads = len(os.sched_getaffinity(0))
  parts = list(
      zip(
          np.array_split(target, num_threads),
          np.array_split(source, num_threads),
          strict=True,
      )
  )
  pool = concurrent.futures.ThreadPoolExecutor(num_threads)
  return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def _trees(size: merge_files.Size, count: int) -> list[Params]:
  rng = np.random.default_rng(0)
  return [
      {
          name: jnp.asarray(rng.standard_normal(shape, np.float32))
          for name, shape in merge_files.shapes(size).items()
      }
      for _ in range(count)
  ]


def _row(found: Bandwidth) -> str:
  low, median, high = found.share
  return (
      f'{found.operation:14} {found.num_tasks:2}'
      f' {found.moved_bytes / 1e6:9.0f} {1e3 * found.seconds.median:9.1f}'
      f' {found.gigabytes_per_second.median:7.2f}'
      f'  {100 * median:4.0f} % ({100 * low:.0f} to {100 * high:.0f})'
  )


def main() -> int:
  """Measures, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', choices=_SIZES, default='vit_b32')
  parser.add_argument('--num_tasks', type=int, nargs='+', default=[2, 8])
  parser.add_argument('--num_turns', type=int, default=9)
  parser.add_argument('--output', help='JSON file for the figures.')
  arguments = parser.parse_args()
  print(
      f'{"operation":14} {"T":>2} {"moved, MB":>9} {"time, ms":>9} {"GB/s":>7}'
      '  share of the copy (quartiles)'
  )
  found = []
  for num_tasks in arguments.num_tasks:
    rows = measure(
        _SIZES[arguments.size],
        num_tasks=num_tasks,
        num_turns=arguments.num_turns,
    )
    for row in rows:
      print(_row(row), flush=True)
    found += rows
  return figures.conclude(arguments.output, {'bandwidths': found}, goals={})


if __name__ == '__main__':
  sys.exit(main())
