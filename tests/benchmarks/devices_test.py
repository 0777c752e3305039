import numpy as np
import pytest

from benchmarks import devices

CONFIG = """
from taskvec_jax.experiments import config

def get_config():
  model = config.FFNModel(widths=(5,))
  return config.Config(name='small', tasks=('a',), model=model, image_size=7)
"""


def test_two_devices_find_what_one_does(tmp_path):
  path = tmp_path / 'small.py'
  path.write_text(CONFIG)
  one, _ = devices.run(str(path), num_examples=7, batch_size=2, num_turns=1)
  two, seconds = devices._in_fresh_process(2, [str(path), 7, 2, 1])
  num_parameters = 49 * 5 + 5
  assert one['gradient'].shape == (1 + num_parameters,)  # the loss before it
  assert one['second order'].shape == (2 * num_parameters,)
  for function, found in two.items():
    assert 0 <= devices.difference(found, one[function]) <= devices.ALLOWED
    assert len(seconds[function]) == 1


def test_a_difference_is_a_share_of_the_norm():
  reference = np.array([3.0, 4.0], np.float32)
  found = devices.difference(reference + [0.0, 5e-3], reference)
  assert found == pytest.approx(1e-3, rel=1e-3)


def test_efficiency_is_the_share_of_d_fold_speed():
  assert devices.efficiency(2.5, 4.0, num_devices=2, num_cores=2) == 0.8
  assert devices.efficiency(2.5, 4.0, num_devices=4, num_cores=2) is None
