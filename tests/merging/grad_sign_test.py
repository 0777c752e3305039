import jax
import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.merging import grad_sign
from tests.merging import cases


def sign(x):
  return (x > 0) * 1 - (x < 0) * 1


def votes_oracle(rows, vote):
  """The voted sign of minus the gradients `rows` [N, d]."""
  if vote == 'mean':
    return [sign(float(-sum(column))) for column in zip(*rows, strict=True)]
  return [
      sign(sum(sign(float(-x)) for x in column))
      for column in zip(*rows, strict=True)
  ]


def masked_oracle(row, signs, mode):
  if mode == 'force':
    return [abs(x) * s for x, s in zip(row, signs, strict=True)]
  return [
      x if sign(float(x)) == s else 0.0 for x, s in zip(row, signs, strict=True)
  ]


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('vote', grad_sign.VOTES)
@pytest.mark.parametrize('num_gradients', cases.NUM_TASKS)
def test_a_coordinate_stays_if_its_sign_is_the_voted_descent(
    num_gradients, vote, kind
):
  gradients = list(cases.task_vectors(num_gradients, kind, seed=1).values())
  signs = grad_sign.descent_signs(iter(gradients), vote=vote)
  expected_signs = votes_oracle([cases.flat(g) for g in gradients], vote)
  np.testing.assert_array_equal(cases.flat(signs), expected_signs)
  for tau_kind in ('normal', 'sparse'):
    vector = cases.task_vectors(2, tau_kind)['task 0']
    for mode in ('normal', 'force'):
      cases.assert_close(
          grad_sign.grad_sign(vector, signs, mode=mode),
          masked_oracle(cases.flat(vector), expected_signs, mode),
      )


def test_with_the_true_gradient_what_is_left_descends_to_first_order():
  gradient = cases.task_vectors(1, seed=2)['task 0']
  vector = cases.task_vectors(1)['task 0']
  signs = grad_sign.descent_signs([gradient])
  for mode in ('normal', 'force'):
    kept = cases.flat(grad_sign.grad_sign(vector, signs, mode=mode))
    by_magnitude = np.abs(cases.flat(gradient)) @ np.abs(kept)
    assert cases.flat(gradient) @ kept == pytest.approx(-by_magnitude)
    assert by_magnitude > 0


def test_the_votes_differ_where_a_few_large_gradients_face_many_small_ones():
  gradients = [{'x': np.array([g])} for g in (-5.0, 1.0, 1.0)]
  assert grad_sign.descent_signs(gradients, vote='majority')['x'] == -1
  assert grad_sign.descent_signs(gradients, vote='mean')['x'] == 1


def test_many_votes_in_bfloat16_are_all_counted():
  minus = {'x': np.array([-1.0], ml_dtypes.bfloat16)}
  plus = {'x': np.array([1.0], ml_dtypes.bfloat16)}
  for vote in grad_sign.VOTES:
    ballots = [plus] * 300 + [minus] * 299
    assert grad_sign.descent_signs(ballots, vote=vote)['x'] == -1


def test_random_signs_are_fair_and_seeded():
  values = {'x': np.arange(1.0, 2001.0)}
  zeros = jax.tree.map(np.zeros_like, values)
  first, again, other = (
      grad_sign.grad_sign(values, zeros, mode='random', seed=seed)['x']
      for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(np.abs(first), values['x'])
  assert abs(np.sum(np.sign(first))) < 4.5 * np.sqrt(2000)
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_wrong_trees_names_and_no_gradients_are_refused():
  vector = cases.task_vectors(1)['task 0']
  with pytest.raises(ValueError, match="normal, force, random but is 'soft1'"):
    grad_sign.grad_sign(vector, vector, mode='soft1')
  with pytest.raises(ValueError, match='dense/bias: absent in signs'):
    grad_sign.grad_sign(vector, {'x': np.zeros(1)})
  with pytest.raises(ValueError, match="majority, mean but is 'max'"):
    grad_sign.descent_signs([vector], vote='max')
  with pytest.raises(ValueError, match='no gradients'):
    grad_sign.descent_signs([])
  with pytest.raises(ValueError, match='absent in gradient 2'):
    grad_sign.descent_signs([vector, {'x': np.zeros(1)}])
