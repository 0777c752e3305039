"""ATM against multitask descent, FedAvg and Reptile written out."""

import jax
import numpy as np
import pytest

from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import multitask
from taskvec_jax.merging import atm
from taskvec_jax.task_vectors import arithmetic
from tests import problems

pytestmark = pytest.mark.usefixtures('x64')


def finetune_fns(num_epochs=1, learning_rate=0.3, tasks='abc'):
  fns = problems.value_and_grad_fns()

  def finetune_fn(task):
    def finetune(params, number):
      del number
      *_, (params, _) = gradient_descent.trajectory(
          params, fns[task], learning_rate=learning_rate, num_epochs=num_epochs
      )
      return params

    return finetune

  return {task: finetune_fn(task) for task in tasks}


@pytest.mark.parametrize(('tasks', 'alpha'), [('a', 1.0), ('abc', 0.8)])
def test_one_full_batch_epoch_a_round_is_multitask_descent(tasks, alpha):
  """(2.3): rate alpha eta / T on the sum, to rounding."""
  fns = problems.value_and_grad_fns()
  objective = multitask.multitask_value_and_grad(
      {task: fns[task] for task in tasks}, dict.fromkeys(tasks, 1.0)
  )
  base, eta, num_rounds = problems.base_params(), 0.3, 6
  expected = gradient_descent.trajectory(
      base,
      objective,
      learning_rate=alpha * eta / len(tasks),
      num_epochs=num_rounds,
  )
  ours = atm.rounds(
      base, finetune_fns(tasks=tasks), scaling=alpha, num_rounds=num_rounds
  )
  for (params, info), (theirs, their_info) in zip(ours, expected, strict=True):
    assert info.round == their_info.epoch
    assert problems.norm(problems.sub(params, theirs)) < 1e-14
    # |mean tau| = eta |grad sum_t L_t| / T
    length = eta * their_info.gradient_norm / len(tasks)
    assert info.merged_length == pytest.approx(length, rel=1e-12)


def test_with_several_epochs_the_mean_is_federated_averaging():
  base, fns = problems.base_params(), finetune_fns(num_epochs=3)
  *_, (params, info) = atm.rounds(base, fns, num_rounds=2)
  expected = base
  for _ in range(2):
    tuned = [fn(expected, 0) for fn in fns.values()]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *tuned)
  assert problems.norm(problems.sub(params, expected)) < 1e-14
  assert set(info.lengths) == {'a', 'b', 'c'}
  # and it is no longer multitask descent
  once = finetune_fns(num_epochs=1)
  *_, (other, _) = atm.rounds(base, once, num_rounds=6)
  assert problems.norm(problems.sub(params, other)) > 1e-4


def test_any_merge_step_serves_and_every_round_is_told_to_the_finetuning():
  told = []

  def finetune(params, number):
    told.append(number)
    return {'x': params['x'] + np.array([number, -1.0])}

  def largest(task_vectors):
    stacked = np.stack([v['x'] for v in task_vectors.values()])
    return {'x': stacked.max(axis=0)}

  fns = {'s': finetune, 't': lambda params, number: {'x': 2 * params['x']}}
  points = [
      params['x']
      for params, _ in atm.rounds(
          {'x': np.zeros(2)}, fns, largest, scaling=0.5, num_rounds=2
      )
  ]
  np.testing.assert_allclose(points, [[0.5, 0.0], [1.5, 0.0]])
  assert told == [1, 2]


def test_going_on_from_any_round_gives_the_same_rounds():
  base, fns = problems.base_params(), finetune_fns()
  whole = list(atm.rounds(base, fns, num_rounds=4))
  rest = list(atm.rounds(whole[1][0], fns, num_rounds=4, num_done=2))
  assert [info for _, info in rest] == [info for _, info in whole[2:]]
  assert problems.norm(problems.sub(rest[-1][0], whole[-1][0])) == 0


def test_post_hoc_rounds_are_rounds_from_the_merged_model():
  base, fns = problems.base_params(), finetune_fns()
  vector = problems.base_params(4)
  ours = atm.post_hoc_rounds(
      base, vector, fns, initial_scaling=0.3, scaling=0.7, num_rounds=2
  )
  merged = arithmetic.edit(base, vector, 0.3)
  expected = atm.rounds(merged, fns, scaling=0.7, num_rounds=2)
  for (params, info), (theirs, their_info) in zip(ours, expected, strict=True):
    assert problems.norm(problems.sub(params, theirs)) < 1e-14
    assert info.round == their_info.round


def test_arguments_without_sense_are_refused_by_the_call_itself():
  base = {'x': np.zeros(2)}
  fns = {'a': lambda params, number: {'x': np.zeros(3)}}
  with pytest.raises(ValueError, match='one for each task'):
    atm.rounds(base, {}, num_rounds=1)
  with pytest.raises(ValueError, match='at least 1 but is 0'):
    atm.rounds(base, fns, num_rounds=0)
  with pytest.raises(ValueError, match='finite but is nan'):
    atm.rounds(base, fns, scaling=float('nan'), num_rounds=1)
  with pytest.raises(ValueError, match=r'x: shape \(3,\) in finetuned'):
    next(atm.rounds(base, fns, num_rounds=1))
