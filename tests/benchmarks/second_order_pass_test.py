from benchmarks import second_order_pass
from benchmarks import timing
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


def test_a_missed_goal_is_named_with_what_can_be_reached():
  three = timing.Quartiles(1.0, 1.0, 1.0)
  good = second_order_pass.Against(
      model='B/32',
      num_examples=32,
      batch_size=32,
      gradient_seconds=three,
      second_order_seconds=three,
      torch_seconds=three,
      ratio=timing.Quartiles(2.4, 2.5, 2.6),
      least_ratio=2.98,
      speedup=timing.Quartiles(2.5, 2.6, 2.7),
      most_speedup=timing.Quartiles(1.3, 1.4, 1.5),
      share=three,
      difference=1e-7,
  )
  assert second_order_pass.missed(good) == []
  bad = good._replace(
      ratio=timing.Quartiles(3.1, 3.2, 3.3),
      speedup=timing.Quartiles(1.1, 1.2, 1.3),
  )
  ratio, speedup = second_order_pass.missed(bad)
  assert all(number in ratio for number in ('3.20', '2.6', '2.98'))
  assert all(number in speedup for number in ('1.20', '2.5', '1.40'))
