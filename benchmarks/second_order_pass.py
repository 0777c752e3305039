"""Cost of the second-order pass over a task, in gradient passes.

  python -m benchmarks.second_order_pass
  python -m benchmarks.second_order_pass --configs configs/ffn.py \
      --output pass.json

`exact_gradient_and_hvp` gives `(g_t, H_t v)` in one jvp-of-grad pass, which is
to cost at most 3.0 times `exact_value_and_grad`. Both run over the same
batches of the same examples with the encoder, image size and batch size of a
config, turn by turn, so that what else the machine does meets both. A ratio is
that of the two times of one turn; the median over the turns is what counts,
the quartiles stand beside it. Images and labels are noise: the time does not
depend on them. Exit status 1 if a median is above the bar.
"""

import argparse
from collections.abc import Callable
import functools
import json
import pathlib
import platform
import runpy
import sys
import time
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.tasks import batching

ALLOWED = 3.0  # gradient passes
_NUM_CLASSES = 10
_DEFAULT_CONFIGS = ['configs/ffn.py', 'configs/vit_tiny.py']


class Quartiles(NamedTuple):
  """A median and the spread around it."""

  low: float
  median: float
  high: float


class Cost(NamedTuple):
  """Both passes over one task, and their ratio."""

  config: str
  num_examples: int
  batch_size: int
  num_parameters: int
  gradient_seconds: Quartiles
  second_order_seconds: Quartiles
  ratio: Quartiles


def interleaved_seconds(
    first: Callable[[], Any],
    second: Callable[[], Any],
    *,
    num_turns: int,
    turn_seconds: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the seconds of one call of each, `[num_turns]` both.

  In each turn both are called, the first one first in every other turn, as
  often as fills about `turn_seconds`. They are called twice before, untimed.
  """
  seconds = np.zeros((num_turns, 2))
  calls = [_calls(fn, turn_seconds) for fn in (first, second)]
  for turn in range(num_turns):
    order = (0, 1) if turn % 2 == 0 else (1, 0)
    for index in order:
      seconds[turn, index] = _seconds((first, second)[index], calls[index])
  return seconds[:, 0], seconds[:, 1]


def quartiles(values: np.ndarray) -> Quartiles:
  """Returns the 25th, 50th and 75th percentile."""
  return Quartiles(*(float(q) for q in np.percentile(values, [25, 50, 75])))


def cost(
    config: config_lib.Config, *, num_examples: int, num_turns: int
) -> Cost:
  """Returns what both passes over one task cost with a config's encoder."""
  rng = np.random.default_rng(0)
  shape = (config.image_size, config.image_size, config.num_channels)
  inputs = rng.normal(size=(num_examples, *shape)).astype(np.float32)
  labels = rng.integers(0, _NUM_CLASSES, num_examples).astype(np.int32)
  module = config_lib.module(config)
  params = encoders.init(module, jax.random.key(0), inputs[:1])
  v = encoders.init(module, jax.random.key(1), inputs[:1])
  features = jax.eval_shape(
      functools.partial(encoders.encode, module), params, inputs[:1]
  )
  num_features = features.shape[-1]
  kernel = rng.normal(size=(num_features, _NUM_CLASSES)).astype(np.float32)
  head = heads.Head(kernel, np.zeros(_NUM_CLASSES, np.float32))
  loss_sum = jax.tree_util.Partial(losses.loss_sum_fn(module), head)
  batch_size = min(config.batch_size, num_examples)
  batches = batching.make_batches(
      inputs,
      labels,
      batch_size=batch_size,
      num_shards=full_batch.num_devices(),
  )
  gradient_fn = full_batch.exact_value_and_grad(loss_sum, batches, num_examples)
  second_order_fn = full_batch.exact_gradient_and_hvp(
      loss_sum, batches, num_examples
  )
  gradient, second_order = interleaved_seconds(
      lambda: gradient_fn(params),
      lambda: second_order_fn(params, v),
      num_turns=num_turns,
  )
  return Cost(
      config=config.name,
      num_examples=num_examples,
      batch_size=batch_size,
      num_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
      gradient_seconds=quartiles(gradient),
      second_order_seconds=quartiles(second_order),
      ratio=quartiles(second_order / gradient),
  )


def _calls(fn: Callable[[], Any], turn_seconds: float) -> int:
  _seconds(fn, 1)  # compiles
  return max(1, round(turn_seconds / _seconds(fn, 1)))


def _seconds(fn: Callable[[], Any], calls: int) -> float:
  start = time.perf_counter()
  for _ in range(calls):
    jax.block_until_ready(fn())
  return (time.perf_counter() - start) / calls


def _as_row(found: Cost) -> str:
  low, median, high = found.ratio
  return (
      f'{found.config:10} {found.num_examples:8} {found.batch_size:6}'
      f' {found.num_parameters:10,}'
      f' {1e3 * found.gradient_seconds.median:12.1f}'
      f' {1e3 * found.second_order_seconds.median:16.1f}'
      f'  {median:.2f} ({low:.2f} to {high:.2f})'
      f'  {"ok" if median <= ALLOWED else "ABOVE"}'
  )


def _as_json(found: Cost) -> dict[str, Any]:
  return {
      name: value._asdict() if isinstance(value, Quartiles) else value
      for name, value in found._asdict().items()
  }


def main() -> int:
  """Measures every config, prints a table, returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--configs', nargs='+', default=_DEFAULT_CONFIGS)
  parser.add_argument('--num_examples', type=int, default=250)
  parser.add_argument('--num_turns', type=int, default=15)
  parser.add_argument('--output', help='JSON file for the figures.')
  arguments = parser.parse_args()
  print(
      f'{"config":10} {"examples":>8} {"batch":>6} {"parameters":>10}'
      f' {"gradient, ms":>12} {"second order, ms":>16}  ratio (quartiles), at'
      f' most {ALLOWED}'
  )
  found = []
  for path in arguments.configs:
    config = runpy.run_path(path)['get_config']()
    found.append(
        cost(
            config,
            num_examples=arguments.num_examples,
            num_turns=arguments.num_turns,
        )
    )
    print(_as_row(found[-1]), flush=True)
  if arguments.output:
    report = {
        'jax': jax.__version__,
        'python': platform.python_version(),
        'devices': full_batch.device_names(),
        'allowed': ALLOWED,
        'costs': [_as_json(entry) for entry in found],
    }
    text = json.dumps(report, indent=1)
    pathlib.Path(arguments.output).write_text(text + '\n')
  return 0 if all(entry.ratio.median <= ALLOWED for entry in found) else 1


if __name__ == '__main__':
  sys.exit(main())
