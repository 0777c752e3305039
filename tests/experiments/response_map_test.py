"""Where linear response predicts the gap: a map in float64."""

import jax
import numpy as np
import pytest

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import response_map
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.models import ffn


@pytest.fixture(scope='module')
def fixture():
  """Two digit tasks, sharp probe heads on ten images a class, seed 0.

  Other choices do worse: with four tasks of unequal curvature (digits, mnist5k,
  textures, faces) and the same heads 46 % are left, with blunter heads 20 %.
  """
  config = config_lib.Config(
      name='fixture',
      tasks=('digits', 'mnist5k'),
      model=config_lib.FFNModel(widths=(64, 32)),
      image_size=14,
      max_train=60,
      max_validation=20,
      max_test=50,
      batch_size=60,
      pretraining=config_lib.Pretraining(
          num_images=2_000, num_epochs=2, batch_size=64
      ),
      heads=config_lib.Heads(examples_per_class=10, regularization=1.0),
  )
  tasks = setting_lib.load_tasks(config)
  setting = setting_lib.build(config, tasks, seed=0)
  eigenvalues = response_map.extreme_eigenvalues(
      setting, num_iterations=15, seed=0
  )
  return setting, max(highest for _, highest in eigenvalues.values())


def row(fixture, sharpness, epochs):
  setting, lambda_max = fixture
  with jax.enable_x64(True):
    return response_map.map_row(
        setting_lib.cast(setting, np.float64),
        learning_rate=sharpness / lambda_max,
        lambda_max=lambda_max,
        epochs=epochs,
    )


def test_response_leaves_little_where_the_second_order_term_fails(fixture):
  found = row(fixture, 1.0, [2, 20])
  (linear,) = found.left_by_response
  (second,) = found.left_by_correction
  assert linear[1] <= 0.15
  assert second[1] >= 10 * linear[1]
  assert linear[0] == pytest.approx(second[0], rel=1e-9)  # Delta_2 = eta^2 C_2
  assert found.dtype == 'float64'


def test_what_is_left_grows_with_the_step_and_the_indicator_sees_it(fixture):
  rows = [row(fixture, sharpness, [5]) for sharpness in (0.1, 0.4, 1.6)]
  joined = response_map.join_rows(rows, lambda_max=1.0)
  left = [entry[0] for entry in joined.left_by_response]
  seen = [entry[0] for entry in joined.indicator]
  assert left == sorted(left) and seen == sorted(seen)
  assert len(joined.learning_rates) == 3


def test_a_row_that_diverges_is_empty_and_does_not_stop_the_map(fixture):
  # A tanh network saturates; a linear one overflows within a few epochs.
  setting, lambda_max = fixture
  linear = setting._replace(
      module=ffn.FFN(widths=(64, 32), activation='identity')
  )
  found = row((linear, lambda_max), 1e100, [2, 6])
  assert found.left_by_response[0][-1] is None
  assert found.gap_share[0][-1] is None


def test_the_map_reaches_the_last_epoch():
  assert response_map.map_epochs(20) == [2, 3, 5, 10, 20]
  assert response_map.map_epochs(7) == [2, 3, 5, 7]
  assert response_map.map_epochs(1) == [2]
