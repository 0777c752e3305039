import time

import numpy as np

from benchmarks import second_order_pass
from taskvec_jax.experiments import config as config_lib


def test_a_turn_times_both_functions_by_the_call():
  first, second = second_order_pass.interleaved_seconds(
      lambda: time.sleep(0.002),
      lambda: time.sleep(0.02),
      num_turns=3,
      turn_seconds=0.01,
  )
  assert first.shape == second.shape == (3,)
  # A sleep may last longer than it was asked to, never shorter.
  assert (first >= 0.002).all()
  assert (second >= 0.02).all()
  assert np.median(second / first) > 2


def test_quartiles_are_those_of_the_values():
  found = second_order_pass.quartiles(np.array([4.0, 0.0, 2.0, 1.0, 3.0]))
  assert found == (1.0, 2.0, 3.0)


def test_a_cost_describes_what_was_timed():
  config = config_lib.Config(
      name='small',
      tasks=('a',),
      model=config_lib.FFNModel(widths=(5, 4)),
      image_size=7,
      batch_size=4,
  )
  found = second_order_pass.cost(config, num_examples=6, num_turns=3)
  assert found.config == 'small'
  assert (found.num_examples, found.batch_size) == (6, 4)
  assert found.num_parameters == 49 * 5 + 5 + 5 * 4 + 4
  for low, median, high in (
      found.gradient_seconds,
      found.second_order_seconds,
      found.ratio,
  ):
    assert 0 < low <= median <= high
