"""What the ladder does with a gap that is no more than rounding."""

import pytest

from taskvec_jax.experiments import ladder
from taskvec_jax.experiments import rates
from taskvec_jax.experiments import setting as setting_lib
from tests.experiments import tiny


def test_no_certificate_is_of_a_gap_that_is_rounding(cache):
  del cache
  config = tiny.config()
  setting = setting_lib.build(config, setting_lib.load_tasks(config), seed=0)
  numbers = {'epochs': (2,), 'lanczos_iterations': 3, 'seed': 0}
  (tiny_steps,) = ladder.ladders(setting, learning_rate=1e-8, **numbers)
  assert tiny_steps.certificates == []
  assert tiny_steps.rungs  # |C_k| is measured by derivatives, not by the gap
  (found,) = ladder.ladders(setting, learning_rate=0.1, **numbers)
  assert [c.name for c in found.certificates] == ['(4.2)', '(4.6)']


def test_a_gap_of_zero_has_no_slope():
  assert rates.slope([1.0, 2.0], [3.0, 12.0]) == pytest.approx(2)
  with pytest.raises(ArithmeticError, match='a zero has no slope'):
    rates.slope([1.0, 2.0], [0.0, 1.0])
