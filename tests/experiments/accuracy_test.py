"""Many models are compared on images that are placed on the devices once."""

import jax
import pytest

from taskvec_jax.experiments import accuracy
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.gradients import full_batch
from tests.experiments import tiny


@pytest.fixture(scope='module')
def setting():
  config = tiny.config()
  return setting_lib.build(config, setting_lib.load_tasks(config), seed=0)


def trained(setting, epochs):
  """Returns models that are further from the base the more epochs they had."""
  params = {
      name: jax.tree.map(lambda x, sign=sign: x + sign * epochs * x**2, base)
      for name, sign, base in (
          ('digits', 1.0, setting.base_params),
          ('faces', -1.0, setting.base_params),
      )
  }
  return accuracy.Trained(epochs, params, params['digits'])


def test_every_model_is_judged_on_images_that_are_placed_once(
    setting, monkeypatch
):
  num_placed = 0
  place = full_batch.place

  def counting(batches):
    nonlocal num_placed
    num_placed += 1
    return place(batches)

  monkeypatch.setattr(full_batch, 'place', counting)
  models = [trained(setting, epochs) for epochs in (1, 2, 3)]
  numbers = {'seed': 0, 'regime': 'exact', 'alphas': (0.1, 2.0)}
  together = accuracy.compare(setting, models, **numbers)
  assert num_placed == 2 * 2  # tasks, and test and validation images
  apart = [accuracy.compare(setting, [one], **numbers)[0] for one in models]
  assert num_placed == 4 * 2 * 2
  assert together == apart
  assert len({str(one.accuracies[0].accuracy) for one in together}) > 1
