"""The linearised model against a dense Jacobian, xi against counting."""

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import linearised
from tests import problems

INPUTS = np.random.default_rng(0).normal(size=(4, 6))
HEAD = np.random.default_rng(1).normal(size=(5, 3))


def apply_fn(params, inputs):
  for name in sorted(params):
    inputs = jnp.tanh(inputs @ params[name]['kernel'] + params[name]['bias'])
  return inputs @ HEAD


def test_the_linearised_model_is_the_first_order_taylor_polynomial(x64):
  base, params = problems.base_params(), problems.base_params(1)
  flat, unravel = flatten_util.ravel_pytree(base)
  jacobian = jax.jit(jax.jacrev(lambda x: apply_fn(unravel(x), INPUTS)))(flat)
  move = flatten_util.ravel_pytree(params)[0] - flat
  expected = apply_fn(base, INPUTS) + jacobian @ move
  weights = np.random.default_rng(2).normal(size=(4, 3))

  def loss(params):
    value = linearised.linearised(apply_fn, base)(params, INPUTS)
    return jnp.sum(weights * value), value

  gradient, value = jax.jit(jax.grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
  # Finetuning it: the gradient of any loss is the Jacobian's transpose.
  ours, _ = flatten_util.ravel_pytree(gradient)
  np.testing.assert_allclose(
      ours, np.tensordot(weights, jacobian, 2), rtol=1e-11, atol=1e-12
  )


def test_task_vectors_add_up_in_the_outputs_of_the_linearised_model(x64):
  base = problems.base_params()
  linear_fn = jax.jit(linearised.linearised(apply_fn, base))
  at_base = linear_fn(base, INPUTS)
  np.testing.assert_allclose(at_base, apply_fn(base, INPUTS), rtol=1e-14)
  vectors = [problems.base_params(seed) for seed in range(1, 9)]
  alphas = np.linspace(-1, 2, 8)
  changes = [
      alpha * (linear_fn(jax.tree.map(jnp.add, base, v), INPUTS) - at_base)
      for alpha, v in zip(alphas, vectors, strict=True)
  ]
  for num_tasks in (1, 2, 8):
    merged = base
    for alpha, v in zip(alphas[:num_tasks], vectors, strict=False):
      merged = jax.tree.map(lambda m, x, a=alpha: m + a * x, merged, v)
    np.testing.assert_allclose(
        linear_fn(merged, INPUTS),
        at_base + sum(changes[:num_tasks]),
        rtol=1e-11,
        atol=1e-11,
    )


def test_what_the_model_leaves_out_is_of_second_order(x64):
  base, direction = problems.base_params(), problems.base_params(1)
  linear_fn = linearised.linearised(apply_fn, base)
  left = []
  for scale in (4e-3, 2e-3, 1e-3):
    params = jax.tree.map(lambda b, d, s=scale: b + s * d, base, direction)
    difference = apply_fn(params, INPUTS) - linear_fn(params, INPUTS)
    left.append(np.linalg.norm(difference))
  np.testing.assert_allclose(problems.slopes(left), 2, atol=0.05)


def test_integer_leaves_keep_the_bases_values_and_narrow_ones_their_dtype():
  def scaled(params, x):
    return params['w'] * x * params['n']

  base = {'w': jnp.ones(2, jnp.bfloat16), 'n': jnp.array(3)}
  params = {'w': jnp.full(2, 1.5, jnp.bfloat16), 'n': jnp.array(50)}
  out = linearised.linearised(scaled, base)(params, jnp.ones(2, jnp.bfloat16))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out.astype(float), [4.5, 4.5])
  with pytest.raises(ValueError, match='leaf n: absent in params'):
    linearised.linearised(scaled, base)({'w': params['w']}, 1.0)


@pytest.mark.parametrize('num_tasks', [1, 2, 8])
def test_xi_counts_inputs_on_which_a_task_alone_and_merged_disagree(
    x64, num_tasks
):
  rng = np.random.default_rng(3)
  base = rng.normal(size=(6, 3))
  taus = {f'task_{t}': {'w': rng.normal(size=(6, 3))} for t in range(num_tasks)}
  data = {task: rng.normal(size=(11, 6)) for task in taus}
  scalings = rng.uniform(0, 2, size=(3, num_tasks))
  scalings[0] = 0.0
  counts = []
  for task in list(taus)[:2]:  # of eight, two say enough

    def predict_fn(params, task=task):
      classes = jnp.argmax(data[task] @ params['w'], axis=1)
      return jnp.where(jnp.arange(11) < 9, classes, -1)  # two are padding

    counts.append(
        linearised.num_disagreements(
            predict_fn, {'w': base}, taus, scalings, task=task
        )
    )
  counts = np.transpose(counts)
  expected = np.zeros((3, num_tasks))
  for i, row in enumerate(scalings):
    total = sum(a * v['w'] for a, v in zip(row, taus.values(), strict=True))
    for j, (task, tau) in enumerate(taus.items()):
      x = data[task][:9]
      alone = np.argmax(x @ (base + row[j] * tau['w']), 1)
      merged = np.argmax(x @ (base + total), 1)
      expected[i, j] = np.sum(alone != merged)
  np.testing.assert_array_equal(counts, expected[:, :2])
  assert not counts[0].any()
  assert counts.any() == (num_tasks > 1)


def test_arguments_without_sense_are_refused():
  taus = {'a': {'w': np.ones(2)}, 'b': {'w': np.ones(2)}}

  def count(scalings, task='a'):
    return linearised.num_disagreements(
        lambda p: p['w'], {'w': np.ones(2)}, taus, scalings, task=task
    )

  with pytest.raises(ValueError, match="task must be one of a, b but is 'c'"):
    count(np.ones((1, 2)), task='c')
  with pytest.raises(ValueError, match=r'\[S, 2\].*shape \(4, 3\)'):
    count(np.ones((4, 3)))
