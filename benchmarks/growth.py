"""How time and memory grow with examples, batches, tasks, epochs, parameters.

  python -m benchmarks.growth
  python -m benchmarks.growth --num_turns 9 --output growth.json

One number at a time is doubled, and `cost = c * number^exponent` is fitted by
least squares on the logarithms; the standard error of the exponent stands
beside it. Costs are, for a feed-forward encoder and images of noise,

  time     median seconds of a call, after one that compiles
  working  the most memory that the process had during a call beyond what it
           had before (VmHWM): accumulators, activations, pieces on their way
  held     bytes of JAX arrays alive after it: parameters, results, and the
           examples where they are resident

of the exact gradient with the examples resident on the device and streamed to
it, of a finetuning trajectory, of the second-order term of T tasks, and of the
peer: the plain gradient, `jax.grad` of the loss over all examples at once. The
working memory of exact passes does not depend on the number of examples: exit
status 1 if its exponent is above 0.1. Each point is of a fresh process. Linux
only, since it reads and resets the high-water mark in /proc/self. Takes two
minutes.
"""

import argparse
from collections.abc import Callable
import gc
import json
import os
import subprocess
import sys
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import figures
from benchmarks import problem
from benchmarks import resident
from benchmarks import timing
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.gradients import full_batch
from taskvec_jax.models import ffn
from taskvec_jax.second_order import correction
from taskvec_jax.tasks import batching

ALLOWED_EXPONENT = 0.1  # of working memory in the number of examples
_IMAGE_SHAPE = (28, 28, 1)
_PIECE_BYTES = 2**21  # of a stream


class Sizes(NamedTuple):
  """The numbers that a cost depends on."""

  num_examples: int = 2000
  batch_size: int = 100
  num_tasks: int = 2
  num_epochs: int = 4
  width: int = 256


# (function, what is doubled) -> its values.
SWEEPS = {
    ('gradient', 'num_examples'): (2000, 4000, 8000, 16000),
    ('streamed gradient', 'num_examples'): (2000, 4000, 8000, 16000),
    ('plain gradient', 'num_examples'): (2000, 4000, 8000, 16000),
    ('gradient', 'batch_size'): (50, 100, 200, 400),
    ('gradient', 'width'): (256, 512, 1024, 2048),
    ('trajectory', 'num_epochs'): (2, 4, 8, 16),
    ('second order', 'num_tasks'): (2, 4, 8, 16),
    ('second order', 'num_epochs'): (2, 4, 8, 16),
}


class Point(NamedTuple):
  """What one call costs."""

  function: str
  sizes: Sizes
  num_parameters: int
  seconds: timing.Quartiles
  working_bytes: int
  held_bytes: int


class Fit(NamedTuple):
  """A power law through points."""

  exponent: float
  standard_error: float


class Growth(NamedTuple):
  """How one function's costs grow with one number."""

  function: str
  number: str
  points: list[Point]
  seconds: Fit
  working: Fit
  held: Fit


def fit(numbers: np.ndarray, costs: np.ndarray) -> Fit:
  """Returns the slope of `log costs` over `log numbers`, three or more."""
  x, y = np.log(numbers), np.log(costs)
  x, y = x - x.mean(), y - y.mean()
  exponent = (x @ y) / (x @ x)
  residual = y - exponent * x
  variance = (residual @ residual) / (len(x) - 2)
  return Fit(float(exponent), float(np.sqrt(variance / (x @ x))))


def growth(function: str, number: str, points: list[Point]) -> Growth:
  """Returns the fits through points; widths count as their parameters."""
  numbers = np.array(
      [
          p.num_parameters if number == 'width' else getattr(p.sizes, number)
          for p in points
      ]
  )
  return Growth(
      function=function,
      number='parameters' if number == 'width' else number,
      points=points,
      seconds=fit(numbers, np.array([p.seconds.median for p in points])),
      working=fit(numbers, np.array([p.working_bytes for p in points])),
      held=fit(numbers, np.array([p.held_bytes for p in points])),
  )


def passes(found: Growth) -> bool:
  """Returns whether exact passes work in the same memory for all examples."""
  return (
      found.number != 'num_examples'
      or found.function == 'plain gradient'
      or found.working.exponent <= ALLOWED_EXPONENT
  )


def measure(function: str, sizes: Sizes, *, num_turns: int) -> Point:
  """Returns what a call costs, in this process; best a fresh one."""
  num_tasks = sizes.num_tasks if function == 'second order' else 1
  module = ffn.FFN(widths=(sizes.width,) * 2, activation='tanh')
  tasks = [
      _as_images(
          problem.of_module(
              module,
              _IMAGE_SHAPE,
              num_examples=sizes.num_examples,
              batch_size=sizes.batch_size,
              seed=seed,
          )
      )
      for seed in range(num_tasks)
  ]
  run = _call(function, sizes, tasks)
  (seconds,) = timing.interleaved_seconds(
      run, num_turns=num_turns, turn_seconds=0.0
  )
  gc.collect()
  before = resident.now()
  resident.reset_peak()
  result = jax.block_until_ready(run())
  working_bytes = resident.peak() - before
  gc.collect()
  held_bytes = sum(array.nbytes for array in jax.live_arrays())
  del result
  return Point(
      function=function,
      sizes=sizes,
      num_parameters=sum(x.size for x in jax.tree.leaves(tasks[0].params)),
      seconds=timing.quartiles(seconds),
      # A page at least, so that it has a logarithm.
      working_bytes=max(working_bytes, 4096),
      held_bytes=held_bytes,
  )


def _as_images(task: problem.Problem) -> problem.Problem:
  """Returns the task with bytes for inputs, as the images of a run are.

  They are floats within a batch only. Of inputs that are floats, XLA copies all
  before the loop over batches, on a CPU.
  """
  batches = task.batches
  noise = np.random.default_rng(0).integers(0, 256, batches.inputs.shape)
  return task._replace(batches=batches._replace(inputs=noise.astype(np.uint8)))


def _call(
    function: str, sizes: Sizes, tasks: list[problem.Problem]
) -> Callable[[], Any]:
  """Returns the call that is measured, its examples placed."""
  task, num_examples = tasks[0], sizes.num_examples
  numbers = {'learning_rate': 1e-3, 'num_epochs': sizes.num_epochs}
  if function == 'plain gradient':
    plain = jax.jit(jax.value_and_grad(task.loss_sum))
    everything = jax.device_put(_flat(task.batches, num_examples))
    return lambda: plain(task.params, everything)
  if function == 'second order':
    fns = {
        f'task_{index}': full_batch.exact_gradient_and_hvp(
            one.loss_sum, one.batches, num_examples
        )
        for index, one in enumerate(tasks)
    }
    scaling = dict.fromkeys(fns, 1 / len(fns))
    return lambda: correction.second_order_correction(
        task.params, fns, scaling, **numbers
    )
  batches = task.batches
  if function == 'streamed gradient':
    whole = _flat(batches, num_examples)
    batches = batching.stream(
        whole.inputs,
        whole.labels,
        batch_size=sizes.batch_size,
        num_shards=full_batch.num_devices(),
        max_bytes=_PIECE_BYTES,
    )
  fn = full_batch.exact_value_and_grad(task.loss_sum, batches, num_examples)
  if function == 'trajectory':
    return lambda: _last(
        gradient_descent.trajectory(task.params, fn, **numbers)
    )
  return lambda: fn(task.params)


def _flat(batches: batching.Batch, num_examples: int) -> batching.Batch:
  """Returns all examples as one batch."""
  return jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[3:])[:num_examples], batches
  )


def _last(steps):
  for params, _ in steps:
    last = params
  return last


def _in_fresh_process(function: str, sizes: Sizes, num_turns: int) -> Point:
  child = subprocess.run(
      [
          sys.executable,
          '-m',
          'benchmarks.growth',
          '--child',
          function,
          json.dumps(sizes),
          str(num_turns),
      ],
      check=True,
      stdout=subprocess.PIPE,
      # Every array its own mapping, given back to the system when it is freed.
      env=os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536'},
  )
  found = json.loads(child.stdout)
  return Point(**found)._replace(
      sizes=Sizes(**found['sizes']),
      seconds=timing.Quartiles(**found['seconds']),
  )


def _row(found: Growth) -> str:
  first, last = found.points[0], found.points[-1]

  def cell(fitted: Fit, of, unit: float) -> str:
    return (
        f'{of(first) / unit:8.1f} {of(last) / unit:8.1f}'
        f' {fitted.exponent:6.2f} ({fitted.standard_error:.2f})'
    )

  return (
      f'{found.function:18} {found.number:13}'
      f' {cell(found.seconds, lambda p: p.seconds.median, 1e-3)}'
      f' {cell(found.working, lambda p: p.working_bytes, 2**20)}'
      f' {cell(found.held, lambda p: p.held_bytes, 2**20)}'
      f'{"" if passes(found) else "  ABOVE"}'
  )


def main() -> int:
  """Measures every sweep, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_turns', type=int, default=7)
  parser.add_argument('--output', help='JSON file for the figures.')
  parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    function, sizes, num_turns = arguments.child
    point = measure(
        function, Sizes(*json.loads(sizes)), num_turns=int(num_turns)
    )
    print(
        json.dumps(
            point._asdict()
            | {
                'sizes': point.sizes._asdict(),
                'seconds': point.seconds._asdict(),
            }
        )
    )
    return 0
  columns = ''.join(
      f' {name:>8} {"to":>8} {"exponent (se)":13}'
      for name in ('ms', 'work,MiB', 'held,MiB')
  )
  print(f'{"function":18} {"with":13}{columns}')
  grown = []
  for (function, number), values in SWEEPS.items():
    points = [
        _in_fresh_process(
            function, Sizes()._replace(**{number: value}), arguments.num_turns
        )
        for value in values
    ]
    grown.append(growth(function, number, points))
    print(_row(grown[-1]), flush=True)
  return figures.conclude(
      arguments.output,
      {'growth': grown},
      goals={'most_exponent_of_working_memory': ALLOWED_EXPONENT},
      missed=[
          f'{found.function}: exponent {found.working.exponent:.2f}'
          for found in grown
          if not passes(found)
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
