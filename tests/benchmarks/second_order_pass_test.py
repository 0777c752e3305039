from benchmarks import second_order_pass
from taskvec_jax.experiments import config as config_lib


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
