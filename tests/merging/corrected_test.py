import jax
import numpy as np
import pytest

from taskvec_jax.finetuning import multitask
from taskvec_jax.merging import corrected
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic
from tests import problems

pytestmark = pytest.mark.usefixtures('x64')
SCALING = {'a': 0.5, 'b': 0.3}


def test_corrected_merges_are_ten_times_nearer_to_multitask_training():
  """At the slope test's learning rates, by (3.6) and by (3.7)."""
  base, eta, num_epochs = problems.base_params(), 1e-3, 5
  fns, curved = (
      {task: fns[task] for task in SCALING}
      for fns in (problems.value_and_grad_fns(), problems.grad_and_hvp_fns())
  )
  taus = {
      task: problems.sub(problems.descend(base, [fn] * num_epochs, eta), base)
      for task, fn in fns.items()
  }
  objective = multitask.multitask_value_and_grad(fns, SCALING)
  trained = problems.descend(base, [objective] * num_epochs, eta)
  numbers = {'learning_rate': eta, 'num_epochs': num_epochs}
  second = correction.second_order_correction(base, curved, SCALING, **numbers)
  gaps = {
      'second order': jax.tree.map(lambda c: eta**2 * c, second),
      'response': response.linear_response(base, curved, SCALING, **numbers),
  }

  def distance(vector):
    return problems.norm(problems.sub(arithmetic.edit(base, vector), trained))

  plain = distance(arithmetic.weighted_sum(taus, SCALING))
  for gap in gaps.values():
    assert distance(corrected.corrected(taus, SCALING, gap)) < plain / 10


def test_the_gap_is_taken_from_the_sum_and_must_be_of_its_tree():
  taus = {'a': {'x': np.array([1.0, 2.0])}, 'b': {'x': np.array([4.0, 0.0])}}
  gap = {'x': np.array([0.5, -0.5])}
  ours = corrected.corrected(taus, {'a': 1.0, 'b': 0.5}, gap)
  np.testing.assert_allclose(ours['x'], [2.5, 2.5], rtol=1e-12)
  with pytest.raises(ValueError, match='leaf x: absent in gap'):
    corrected.corrected(taus, {'a': 1.0, 'b': 0.5}, {})
