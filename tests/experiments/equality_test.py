"""The joint gradient, where neither coefficients nor tasks are of one size."""

import jax
import numpy as np
import pytest

from taskvec_jax import tree
from taskvec_jax.experiments import equality
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from tests import problems
from tests.experiments import tiny


@pytest.fixture(scope='module')
def setting():
  """The first of two tasks with a third of its training examples."""
  config = tiny.config()
  whole = setting_lib.build(config, setting_lib.load_tasks(config), seed=0)
  name, *_ = whole.data
  data = whole.data[name]
  few = data.train.num_examples // 3
  train = data.train._replace(
      inputs=data.train.inputs[:few],
      labels=data.train.labels[:few],
      num_examples=few,
  )
  return whole._replace(data={**whole.data, name: data._replace(train=train)})


@pytest.mark.parametrize('alphas', [(0.5, 0.5), (0.3, 1.4), (-0.2, 0.1)])
def test_the_joint_gradient_is_that_of_the_weighted_sum(setting, alphas):
  with jax.enable_x64(True):
    scaling = dict(zip(setting.data, alphas, strict=True))
    wide = setting_lib.cast(setting._replace(scaling=scaling), np.float64)
    loss, gradient = equality.joint_value_and_grad_fn(wide)(wide.base_params)
    expected, parts = 0.0, tree.zeros_like(wide.base_params)
    for name, fn in task_losses.value_and_grad_fns(wide).items():
      task_loss, task_gradient = fn(wide.base_params)
      expected += scaling[name] * task_loss
      parts = tree.add_scale(parts, scaling[name], task_gradient)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    gap = problems.norm(problems.sub(gradient, parts))
    assert gap <= 1e-12 * problems.norm(parts)
