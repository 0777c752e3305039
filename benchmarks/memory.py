"""Peak memory of the second-order term, in copies of the parameters.

  python -m benchmarks.memory
  python -m benchmarks.memory --num_tasks 2 8 --output memory.json

`second_order_correction` and `linear_response` are to need at most T + 8
copies of the parameters for T tasks, `base_params` among them. Two counts, side
by side, for each function, model and T:

  arrays    the most bytes of JAX arrays alive at once, looked at before and
            after every pass over a task and after every tree operation. Exact
            and repeatable; what a compiled program needs inside is not in it.
  resident  the most memory that the process had (VmHWM) beyond what it had
            before the parameters were made. Everything is in it: accumulators,
            activations, what waits in the queue of a device.

The parameters are many and the examples few, so that activations and data are
small beside one copy; both models have several layers of equal size. Each
count is of a fresh process, after a run that compiles. Linux only: it reads and
resets the high-water mark in /proc/self. Exit status 1 if a peak is above the
bar. All of it takes 10 to 25 minutes on 2 cores, and 3 GB; one model with
`--num_tasks 2 --models ffn`, two minutes.
"""

import argparse
from collections.abc import Callable
import contextlib
import functools
import gc
import json
import os
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

from flax import linen as nn
import jax
import numpy as np

from benchmarks import figures
from benchmarks import resident
from taskvec_jax import tree
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.models import vit
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.tasks import batching
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params

ALLOWED = 8  # copies beside one a task
_FUNCTIONS = {
    'second_order_correction': correction.second_order_correction,
    'linear_response': response.linear_response,
}
_MODELS = {
    'ffn': ffn.FFN(widths=(2048,) * 8, activation='tanh'),
    'vit': vit.ViT(
        patch_size=14,
        width=512,
        depth=8,
        num_heads=4,
        mlp_width=2048,
        projection=None,
        activation='quick_gelu',
    ),
}
_NUM_CLASSES = 10
_TREE_OPERATIONS = ('add', 'add_scale', 'scale', 'sub', 'zeros_like')
_NUM_EPOCHS = 3


class Peak(NamedTuple):
  """The peaks of one run, in copies of the parameters."""

  function: str
  model: str
  num_tasks: int
  num_batches: int  # of each task
  copy_bytes: int  # one copy of the parameters
  arrays: float
  resident: float


class _Watch:
  """Keeps the most bytes of JAX arrays that were alive at once."""

  def __init__(self):
    self.peak_bytes = 0

  def look(self) -> None:
    alive = sum(array.nbytes for array in jax.live_arrays())
    self.peak_bytes = max(self.peak_bytes, alive)

  def pass_over_a_task(self, fn: GradAndHvpFn) -> GradAndHvpFn:
    """Returns `fn`, looked at on both sides of each call."""

    def watched(params: Params, v: Params) -> tuple[Params, Params]:
      self.look()
      derivatives = jax.block_until_ready(fn(params, v))
      self.look()
      return derivatives

    return watched

  @contextlib.contextmanager
  def tree_operations(self):
    """Looks after each operation of `tree`, its operands still alive."""

    def watched(operation):
      def operate(*args):
        result = operation(*args)
        self.look()
        return result

      return operate

    with contextlib.ExitStack() as stack:
      for name in _TREE_OPERATIONS:
        operation = watched(getattr(tree, name))
        stack.enter_context(mock.patch.object(tree, name, operation))
      yield


def peak_array_copies(
    second_order_fn: Callable[..., Params],
    base_params: Params,
    grad_and_hvp_fns: dict[str, GradAndHvpFn],
    *,
    num_epochs: int = _NUM_EPOCHS,
) -> float:
  """Returns the peak of live arrays, in copies of `base_params` (itself one).

  What else was alive before the call, such as data, is not counted.

  Args:
    second_order_fn: `second_order_correction` or `linear_response`.
    base_params: `theta_0`.
    grad_and_hvp_fns: task name -> `(params, v) -> (g_t, H_t v)`.
    num_epochs: k; from 3 on every buffer has been replaced once.
  """
  watch = _Watch()
  copy_bytes = tree_bytes(base_params)
  gc.collect()
  before = sum(array.nbytes for array in jax.live_arrays()) - copy_bytes
  with watch.tree_operations():
    result = second_order_fn(
        base_params,
        {
            name: watch.pass_over_a_task(fn)
            for name, fn in grad_and_hvp_fns.items()
        },
        dict.fromkeys(grad_and_hvp_fns, 1 / len(grad_and_hvp_fns)),
        learning_rate=1e-3,
        num_epochs=num_epochs,
    )
    watch.look()
  del result
  return (watch.peak_bytes - before) / copy_bytes


def tree_bytes(params: Params) -> int:
  """Returns the bytes of all arrays of a tree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def measure(
    function: str, model: str, *, num_tasks: int, num_batches: int
) -> Peak:
  """Returns both peaks of one function, in this process; best a fresh one."""
  second_order_fn, module = _FUNCTIONS[function], _MODELS[model]
  inputs = np.random.default_rng(0).normal(size=(num_batches, 28, 28, 1))
  inputs = inputs.astype(np.float32)
  base_params, fns = _problem(module, inputs, num_tasks)
  scaling = dict.fromkeys(fns, 1 / num_tasks)

  def run(num_epochs: int) -> None:
    jax.block_until_ready(
        second_order_fn(
            base_params,
            fns,
            scaling,
            learning_rate=1e-3,
            num_epochs=num_epochs,
        )
    )

  run(_NUM_EPOCHS)  # compiles
  gc.collect()
  resident.settle()
  copy_bytes = tree_bytes(base_params)
  before = resident.now() - copy_bytes  # base_params count too
  resident.reset_peak()
  run(_NUM_EPOCHS)
  most = resident.peak() - before
  return Peak(
      function=function,
      model=model,
      num_tasks=num_tasks,
      num_batches=num_batches,
      copy_bytes=copy_bytes,
      arrays=peak_array_copies(second_order_fn, base_params, fns),
      resident=most / copy_bytes,
  )


def _problem(
    module: nn.Module, inputs: np.ndarray, num_tasks: int
) -> tuple[Params, dict[str, GradAndHvpFn]]:
  """Returns base parameters, and tasks with batches of one example each."""
  base_params = encoders.init(module, jax.random.key(0), inputs[:1])
  features = jax.eval_shape(
      functools.partial(encoders.encode, module), base_params, inputs[:1]
  )
  num_features = features.shape[-1]
  rng = np.random.default_rng(1)
  fns = {}
  for index in range(num_tasks):
    kernel = rng.normal(size=(num_features, _NUM_CLASSES)).astype(np.float32)
    head = heads.Head(kernel, np.zeros(_NUM_CLASSES, np.float32))
    labels = rng.integers(0, _NUM_CLASSES, len(inputs)).astype(np.int32)
    fns[f'task_{index}'] = full_batch.exact_gradient_and_hvp(
        jax.tree_util.Partial(losses.loss_sum_fn(module), head),
        batching.make_batches(inputs, labels, batch_size=1),
        len(inputs),
    )
  return base_params, fns


def _in_fresh_process(
    function: str, model: str, num_tasks: int, num_batches: int
) -> Peak:
  child = subprocess.run(
      [
          sys.executable,
          '-m',
          'benchmarks.memory',
          '--child',
          function,
          model,
          str(num_tasks),
          str(num_batches),
      ],
      check=True,
      stdout=subprocess.PIPE,
      # Every array its own mapping, given back to the system when it is freed.
      env=os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536'},
  )
  return Peak(**json.loads(child.stdout))


def _row(peak: Peak) -> str:
  allowed = peak.num_tasks + ALLOWED
  above = [
      count
      for count in ('arrays', 'resident')
      if getattr(peak, count) > allowed
  ]
  verdict = f'above: {", ".join(above)}' if above else 'ok'
  return (
      f'{peak.function:24} {peak.model:6} {peak.num_tasks:2}'
      f' {peak.num_batches:8} {peak.copy_bytes / 2**20:9.0f}'
      f' {peak.arrays:7.2f} {peak.resident:9.2f} {allowed:6}  {verdict}'
  )


def passes(peak: Peak) -> bool:
  """Returns whether both counts are within the bar."""
  return max(peak.arrays, peak.resident) <= peak.num_tasks + ALLOWED


def main() -> int:
  """Runs all combinations, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_tasks', type=int, nargs='+', default=[2, 4, 8])
  parser.add_argument('--num_batches', type=int, nargs='+', default=[1, 4])
  parser.add_argument('--models', nargs='+', default=list(_MODELS))
  parser.add_argument('--output', help='JSON file for the figures.')
  parser.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    function, model, num_tasks, num_batches = arguments.child
    peak = measure(
        function,
        model,
        num_tasks=int(num_tasks),
        num_batches=int(num_batches),
    )
    print(json.dumps(peak._asdict()))
    return 0
  print(
      f'{"function":24} {"model":6} {"T":>2} {"batches":>8} {"copy, MiB":>9}'
      f' {"arrays":>7} {"resident":>9} {"T + 8":>6}'
  )
  peaks = []
  for function in _FUNCTIONS:
    for model in arguments.models:
      for num_tasks in arguments.num_tasks:
        for num_batches in arguments.num_batches:
          peak = _in_fresh_process(function, model, num_tasks, num_batches)
          peaks.append(peak)
          print(_row(peak), flush=True)
  return figures.conclude(
      arguments.output,
      {'peaks': peaks},
      goals={'most_copies_beside_one_a_task': ALLOWED},
      missed=[
          f'{peak.function}, {peak.model}, {peak.num_tasks} tasks:'
          f' {peak.arrays} copies as arrays, {peak.resident:.2f} resident'
          for peak in peaks
          if not passes(peak)
      ],
  )


if __name__ == '__main__':
  sys.exit(main())
