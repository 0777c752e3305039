"""What compiling costs, and how long a run takes to start training.

  python -m benchmarks.compilation
  python -m benchmarks.compilation --configs configs/ffn.py --output start.json

Every figure is of a fresh process, first with empty caches, then again with
what the first one left there, as often as `--num_turns`.

  passes  the exact gradient, then the second-order pass of a config's encoder.
          Seconds of the first call less those of the next, and of them those
          in the compiler or, with a cache, in reading it.
  starts  `python -m taskvec_jax.main`: seconds from the start of the process
          until its first training step runs (a step of full-batch descent, or
          an epoch of mini-batches): when that was done, less what the next one
          took. Before it stand the phases: imports (with the interpreter),
          tasks read and split, base model (pretrained or from the cache) and
          heads fitted, the step's program traced and compiled or read.

The second run of any config is to start training within 10 s; exit status 1 if
a median is above. With empty caches the base model is pretrained, which takes
minutes for configs/vit_tiny.py; `--cache_dir` names a folder to start with
instead.
"""

import argparse
import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from typing import Any
from typing import NamedTuple
from unittest import mock

import jax
from jax import monitoring
import numpy as np

from benchmarks import figures
from benchmarks import problem
from benchmarks import timing
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.gradients import full_batch

ALLOWED_SECONDS = 10.0  # of a second run, until it trains
_COMPILER = '/jax/core/compile/backend_compile_duration'
_CONFIGS = [
    'configs/ffn.py',
    'configs/vit_tiny.py',
    'configs/merging.py',
    'configs/atm.py',
    'configs/negation.py',
    'configs/vit_b32.py:packaged',
]
_COMPILED_CONFIGS = ['configs/ffn.py', 'configs/vit_tiny.py']
_PHASES = ('imports', 'tasks', 'base and heads', 'program')
_ROOT = pathlib.Path(__file__).parents[1]


class Pass(NamedTuple):
  """What compiling one pass took."""

  config: str
  function: str
  cache: str  # 'empty' or 'filled'
  seconds: timing.Quartiles  # tracing, lowering and compiling
  compiler_seconds: timing.Quartiles  # of them in the compiler, or its cache


class Start(NamedTuple):
  """What came before a run's first step ran, in seconds of the clock."""

  config: str
  cache: str
  seconds: timing.Quartiles
  processor_seconds: timing.Quartiles  # without waiting for other processes
  phases: dict[str, float]  # medians; their sum is near `seconds`


def compile_passes(
    config: config_lib.Config, *, num_examples: int
) -> dict[str, tuple[float, float]]:
  """Returns function -> (seconds, compiler seconds), in this process."""
  task = problem.of_config(config, num_examples=num_examples)
  compiling = []

  def listen(event: str, duration_secs: float, **_):
    if event == _COMPILER:
      compiling.append(duration_secs)

  monitoring.register_event_duration_secs_listener(listen)
  arguments = (task.loss_sum, task.batches, num_examples)
  gradient = full_batch.exact_value_and_grad(*arguments)
  second_order = full_batch.exact_gradient_and_hvp(*arguments)
  found = {}
  for function, fn in (
      ('gradient', lambda: gradient(task.params)),
      ('second order', lambda: second_order(task.params, task.direction)),
  ):
    compiling.clear()
    first = _call_seconds(fn)
    in_compiler = sum(compiling)
    found[function] = (first - _call_seconds(fn), in_compiler)
  return found


def start_of_run(arguments: list[str], begun: float) -> None:
  """Runs the command until its second step, then says when what was done.

  Prints one line of JSON: the processor seconds of the process, and phase ->
  seconds of the clock after `begun`, a time as `time.time` gives it.
  """
  from taskvec_jax import main  # pylint: disable=g-import-not-at-top
  from taskvec_jax.experiments import setting
  from taskvec_jax.finetuning import gradient_descent
  from taskvec_jax.finetuning import minibatch

  at: dict[str, float] = {}

  def noted(fn, before: str, after: str):
    @functools.wraps(fn)
    def noting(*args, **kwargs):
      at.setdefault(before, time.time() - begun)
      value = fn(*args, **kwargs)
      at.setdefault(after, time.time() - begun)
      return value

    return noting

  def until_second(fn):
    @functools.wraps(fn)
    def epochs(*args, **kwargs):
      steps = fn(*args, **kwargs)
      jax.block_until_ready(next(steps))
      processor = time.process_time()
      done = time.time()
      jax.block_until_ready(next(steps, None))
      at['program'] = done - (time.time() - done) - begun
      print(json.dumps({'processor': processor, 'at': at}))
      sys.exit(0)

    return epochs

  _, tasks, built, _ = _PHASES
  with (
      mock.patch.object(
          setting, 'load_tasks', noted(setting.load_tasks, 'imports', tasks)
      ),
      mock.patch.object(setting, 'build', noted(setting.build, tasks, built)),
      mock.patch.object(
          gradient_descent,
          'trajectory',
          until_second(gradient_descent.trajectory),
      ),
      mock.patch.object(minibatch, 'epochs', until_second(minibatch.epochs)),
  ):
    sys.argv = ['main', *arguments]
    main.main(main.parse(sys.argv))


def phases(at: dict[str, float]) -> dict[str, float]:
  """Returns what each phase took, from the times at which they were done."""
  ends = [at[name] for name in _PHASES]
  return {
      name: end - start
      for name, start, end in zip(_PHASES, [0.0, *ends], ends, strict=False)
  }


def measure_passes(path: str, *, num_turns: int) -> list[Pass]:
  """Returns both passes of a config, with an empty and a filled cache."""
  found: dict[tuple[str, str], list[tuple[float, float]]] = {}
  for _ in range(num_turns):
    with tempfile.TemporaryDirectory() as cache:
      for state in ('empty', 'filled'):
        said = _in_fresh_process('passes', path, cache=cache)
        for function, both in said.items():
          found.setdefault((function, state), []).append(both)
  return [
      Pass(
          pathlib.Path(path).stem,
          function,
          state,
          *(timing.quartiles(values) for values in np.transpose(both)),
      )
      for (function, state), both in sorted(found.items())
  ]


def measure_starts(
    path: str, *, num_turns: int, cache_dir: str | None
) -> list[Start]:
  """Returns the first and second runs of a config; the first one once."""
  found = []
  with tempfile.TemporaryDirectory() as folder:
    cache = cache_dir or folder
    for state, turns in (('empty', 1), ('filled', num_turns)):
      said = []
      for turn in range(turns):
        workdir = os.path.join(folder, f'{state}_{turn}')
        said.append(
            _in_fresh_process(
                'start',
                f'--config={path}',
                f'--workdir={workdir}',
                cache=cache,
            )
        )
      taken = [phases(one['at']) for one in said]
      found.append(
          Start(
              config=pathlib.Path(path).stem,
              cache='given' if state == 'empty' and cache_dir else state,
              seconds=timing.quartiles(
                  np.array([one['at']['program'] for one in said])
              ),
              processor_seconds=timing.quartiles(
                  np.array([one['processor'] for one in said])
              ),
              phases={
                  name: float(np.median([one[name] for one in taken]))
                  for name in _PHASES
              },
          )
      )
  return found


def passes(start: Start) -> bool:
  """Returns whether a second run starts within the bar; first ones may."""
  return start.cache != 'filled' or start.seconds.median <= ALLOWED_SECONDS


def _call_seconds(fn) -> float:
  start = time.perf_counter()
  jax.block_until_ready(fn())
  return time.perf_counter() - start


def _in_fresh_process(step: str, *arguments: str, cache: str) -> Any:
  child = subprocess.run(
      [
          sys.executable,
          '-m',
          'benchmarks.compilation',
          '--child',
          step,
          repr(time.time()),
          *arguments,
      ],
      check=True,
      stdout=subprocess.PIPE,
      cwd=_ROOT,
      env=os.environ | {'TASKVEC_JAX_CACHE': cache},
  )
  return json.loads(child.stdout.splitlines()[-1])


def _child(step: str, begun: str, *arguments: str) -> None:
  if step == 'start':
    start_of_run(list(arguments), float(begun))
    return
  jax.config.update(
      'jax_compilation_cache_dir',
      os.path.join(os.environ['TASKVEC_JAX_CACHE'], 'xla'),
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  (path,) = arguments
  config = runpy.run_path(path)['get_config']()
  print(json.dumps(compile_passes(config, num_examples=250)))


def _pass_row(found: Pass) -> str:
  low, median, high = found.seconds
  return (
      f'{found.config:10} {found.function:14} {found.cache:7}'
      f' {median:6.2f} ({low:.2f} to {high:.2f})'
      f'  {found.compiler_seconds.median:6.2f}'
  )


def _start_row(found: Start) -> str:
  low, median, high = found.seconds
  parts = ', '.join(f'{n} {found.phases[n]:.1f}' for n in _PHASES)
  return (
      f'{found.config:10} {"start":14} {found.cache:7}'
      f' {median:6.2f} ({low:.2f} to {high:.2f})'
      f'  {found.processor_seconds.median:6.2f}  {parts}'
      f'{"" if passes(found) else "  ABOVE"}'
  )


def main() -> int:
  """Measures, prints a table, returns the exit status."""
  if sys.argv[1:2] == ['--child']:
    _child(*sys.argv[2:])
    return 0
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--configs', nargs='+', default=_CONFIGS)
  parser.add_argument('--num_turns', type=int, default=3)
  parser.add_argument('--cache_dir', help='Caches that first runs start with.')
  parser.add_argument('--output', help='JSON file for the figures.')
  arguments = parser.parse_args()
  print(
      f'{"config":10} {"what":14} {"cache":7} {"seconds (quartiles)":24}'
      f' of which compiler, or of the processor'
  )
  compiled, starts = [], []
  for path in arguments.configs:
    if path in _COMPILED_CONFIGS:
      compiled += measure_passes(path, num_turns=arguments.num_turns)
      print('\n'.join(map(_pass_row, compiled[-4:])), flush=True)
  for path in arguments.configs:
    starts += measure_starts(
        path,
        num_turns=arguments.num_turns,
        cache_dir=arguments.cache_dir,
    )
    print('\n'.join(map(_start_row, starts[-2:])), flush=True)
  return figures.conclude(
      arguments.output,
      {'passes': compiled, 'starts': starts},
      goals={'most_seconds_of_a_second_run': ALLOWED_SECONDS},
      missed=[
          f'{start.config} starts after {start.seconds.median:.1f} s'
          for start in starts
          if not passes(start)
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
