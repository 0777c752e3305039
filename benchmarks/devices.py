"""The same numbers from 1, 2, 4 and 8 devices, and what more of them bring.

  python -m benchmarks.devices
  python -m benchmarks.devices --num_devices 1 2 --output devices.json

In a fresh process for each number of devices, which are virtual ones of the
CPU, the exact gradient and the second-order pass of a config's encoder over the
same examples. Their largest differences from one device, as shares of the
norm, are to be at most 1e-6; accumulation is exact, so what is left is the
rounding inside one batch, which is cut elsewhere.

D devices run on D cores where the machine has so many: efficiency is then the
time of one device on one core over D times that of D devices. More devices than
cores share them all, and have no efficiency. The processes take turns; times
are medians over all of them. Linux only, since it chooses the cores. Exit
status 1 if a difference is above. Takes a minute and a half.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import figures
from benchmarks import problem
from benchmarks import timing
from taskvec_jax.gradients import full_batch

ALLOWED = 1e-6  # of the norm
_DEFAULT_CONFIGS = ['configs/ffn.py', 'configs/vit_tiny.py']
_FUNCTIONS = ('gradient', 'second order')


class Devices(NamedTuple):
  """One function on so many devices."""

  config: str
  function: str
  num_devices: int
  num_cores: int
  difference: float  # from one device, as a share of the norm
  seconds: timing.Quartiles
  efficiency: float | None  # None where devices share cores


def run(
    path: str, *, num_examples: int, batch_size: int, num_turns: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
  """Returns results and seconds by function, on this process's devices."""
  config = runpy.run_path(path)['get_config']()
  config = dataclasses.replace(config, batch_size=batch_size)
  task = problem.of_config(config, num_examples=num_examples)
  arguments = (task.loss_sum, task.batches, num_examples)
  gradient = full_batch.exact_value_and_grad(*arguments)
  second_order = full_batch.exact_gradient_and_hvp(*arguments)
  calls = (
      lambda: gradient(task.params),
      lambda: second_order(task.params, task.direction),
  )
  seconds = timing.interleaved_seconds(*calls, num_turns=num_turns)
  return (
      {
          function: np.concatenate(
              [np.ravel(leaf) for leaf in jax.tree.leaves(call())]
          )
          for function, call in zip(_FUNCTIONS, calls, strict=True)
      },
      dict(zip(_FUNCTIONS, seconds.tolist(), strict=True)),
  )


def difference(found: np.ndarray, reference: np.ndarray) -> float:
  """Returns `|found - reference| / |reference|`, in float64."""
  reference = reference.astype(np.float64)
  return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def efficiency(
    seconds: float, one_device: float, *, num_devices: int, num_cores: int
) -> float | None:
  """Returns the share of D-fold speed that D devices on D cores reach."""
  if num_cores < num_devices:
    return None
  return one_device / (num_devices * seconds)


def measure(
    path: str,
    all_devices: list[int],
    *,
    num_examples: int,
    batch_size: int,
    num_turns: int,
    num_rounds: int,
) -> list[Devices]:
  """Returns both functions on every number of devices, the first one 1."""
  results: dict[int, dict[str, np.ndarray]] = {}
  seconds: dict[tuple[int, str], list[float]] = {}
  for _ in range(num_rounds):
    for num_devices in all_devices:
      results[num_devices], taken = _in_fresh_process(
          num_devices, [path, num_examples, batch_size, num_turns]
      )
      for function in _FUNCTIONS:
        seconds.setdefault((num_devices, function), []).extend(taken[function])
  found = []
  for function in _FUNCTIONS:
    one_device = float(np.median(seconds[1, function]))
    for num_devices in all_devices:
      taken = timing.quartiles(np.array(seconds[num_devices, function]))
      num_cores = len(_cores(num_devices))
      found.append(
          Devices(
              config=pathlib.Path(path).stem,
              function=function,
              num_devices=num_devices,
              num_cores=num_cores,
              difference=difference(
                  results[num_devices][function], results[1][function]
              ),
              seconds=taken,
              efficiency=efficiency(
                  taken.median,
                  one_device,
                  num_devices=num_devices,
                  num_cores=num_cores,
              ),
          )
      )
  return found


def _cores(num_devices: int) -> set[int]:
  """Returns the cores for so many devices, all where there are too few."""
  return set(sorted(os.sched_getaffinity(0))[:num_devices])


def _in_fresh_process(
    num_devices: int, arguments: list[str | int]
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
  flag = f'--xla_force_host_platform_device_count={num_devices}'
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'results.npz')
    child = subprocess.run(
        [
            sys.executable,
            '-m',
            'benchmarks.devices',
            '--child',
            str(num_devices),
            path,
            *map(str, arguments),
        ],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {'XLA_FLAGS': flag, 'JAX_PLATFORMS': 'cpu'},
    )
    with np.load(path) as arrays:
      return dict(arrays), json.loads(child.stdout)


def _child(
    num_devices: str,
    output: str,
    path: str,
    num_examples: str,
    batch_size: str,
    num_turns: str,
) -> None:
  # Before JAX starts its threads, one a core.
  os.sched_setaffinity(0, _cores(int(num_devices)))
  results, seconds = run(
      path,
      num_examples=int(num_examples),
      batch_size=int(batch_size),
      num_turns=int(num_turns),
  )
  assert full_batch.num_devices() == int(num_devices)
  np.savez(output, allow_pickle=False, **results)
  print(json.dumps(seconds))


def _row(found: Devices) -> str:
  efficient = found.efficiency
  return (
      f'{found.config:10} {found.function:13} {found.num_devices:7}'
      f' {found.num_cores:5} {found.difference:10.1e}'
      f' {1e3 * found.seconds.median:8.1f}'
      f' {"-" if efficient is None else f"{100 * efficient:.0f} %":>10}'
      f'  {"ok" if found.difference <= ALLOWED else "ABOVE"}'
  )


def main() -> int:
  """Measures, prints a table, returns the exit status."""
  if sys.argv[1:2] == ['--child']:
    _child(*sys.argv[2:])
    return 0
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--configs', nargs='+', default=_DEFAULT_CONFIGS)
  parser.add_argument('--num_devices', type=int, nargs='+', default=[2, 4, 8])
  parser.add_argument('--num_examples', type=int, default=3001)
  parser.add_argument('--batch_size', type=int, default=50)
  parser.add_argument('--num_turns', type=int, default=5)
  parser.add_argument('--num_rounds', type=int, default=2)
  parser.add_argument('--output', help='JSON file for the figures.')
  arguments = parser.parse_args()
  print(
      f'{"config":10} {"function":13} {"devices":>7} {"cores":>5}'
      f' {"difference":>10} {"time, ms":>8} {"efficiency":>10}'
  )
  found = []
  for path in arguments.configs:
    rows = measure(
        path,
        sorted({1, *arguments.num_devices}),
        num_examples=arguments.num_examples,
        batch_size=arguments.batch_size,
        num_turns=arguments.num_turns,
        num_rounds=arguments.num_rounds,
    )
    print('\n'.join(map(_row, rows)), flush=True)
    found += rows
  return figures.conclude(
      arguments.output,
      {
          'num_examples': arguments.num_examples,
          'batch_size': arguments.batch_size,
          'devices': found,
      },
      goals={'most_difference': ALLOWED},
      missed=[
          f'{entry.config}, {entry.function}, {entry.num_devices} devices:'
          f' {entry.difference:.1e} of the norm'
          for entry in found
          if entry.difference > ALLOWED
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
