"""RegMean against least squares on stacked data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import regmean
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import vit


def kernels(num_tasks, shape, seed=0):
  rng = np.random.default_rng(seed)
  return {
      f'task_{t}': {
          'layer': {
              'kernel': rng.normal(size=shape),
              'bias': rng.normal(size=2),
          }
      }
      for t in range(num_tasks)
  }


def inputs(num_tasks, num_in, rows=9, rank=None):
  rng = np.random.default_rng(7)
  out = {}
  for t in range(num_tasks):
    x = rng.normal(size=(rows, num_in))
    if rank is not None:
      x[:, rank:] = 0.0
    out[f'task_{t}'] = x
  return out


def random_params(module, x):
  """Returns parameters of a module, with biases that are not zero."""
  shapes = jax.eval_shape(lambda: encoders.init(module, jax.random.key(0), x))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 2, shapes)


def grams_of(data):
  return {task: {'layer/kernel': x.T @ x} for task, x in data.items()}


@pytest.mark.parametrize('shape', [(5, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize('num_tasks', [1, 2, 8])
@pytest.mark.parametrize('rank', [None, 3])
def test_the_kernel_is_the_least_squares_fit_with_ridge_rows(
    x64, num_tasks, shape, rank
):
  size = int(np.prod(shape[:-1]))
  taus, data = kernels(num_tasks, shape), inputs(num_tasks, size, rank=rank)
  grams, ridge, shrink = grams_of(data), 1e-3, 0.9
  ours = regmean.regmean(taus, grams, off_diagonal=shrink, ridge=ridge)
  unit = np.mean([np.trace(g['layer/kernel']) / size for g in grams.values()])
  left, right = [], []
  for task, x in data.items():
    # Rows whose Gram matrix is a X'X + (1 - a) diag(X'X) + ridge s I.
    rows = np.concatenate(
        [
            np.sqrt(shrink) * x,
            np.diag(np.sqrt((1 - shrink) * np.sum(x**2, 0))),
            np.sqrt(ridge * unit) * np.eye(size),
        ]
    )
    left.append(rows)
    right.append(rows @ taus[task]['layer']['kernel'].reshape(size, -1))
  expected, *_ = np.linalg.lstsq(
      np.concatenate(left), np.concatenate(right), rcond=None
  )
  np.testing.assert_allclose(
      ours['layer']['kernel'], expected.reshape(shape), rtol=1e-8, atol=1e-9
  )
  biases = [tau['layer']['bias'] for tau in taus.values()]
  np.testing.assert_allclose(
      ours['layer']['bias'], np.mean(biases, 0), rtol=1e-14
  )
  if num_tasks == 1:
    np.testing.assert_allclose(
        ours['layer']['kernel'], taus['task_0']['layer']['kernel'], rtol=1e-10
    )


def test_without_shrinking_the_outputs_are_as_near_as_they_can_be(x64):
  taus, data = kernels(2, (5, 2)), inputs(2, 5)
  ours = regmean.regmean(taus, grams_of(data), off_diagonal=1.0, ridge=0.0)
  expected, *_ = np.linalg.lstsq(
      np.concatenate(list(data.values())),
      np.concatenate([data[t] @ taus[t]['layer']['kernel'] for t in taus]),
      rcond=None,
  )
  np.testing.assert_allclose(ours['layer']['kernel'], expected, rtol=1e-10)


def test_equal_kernels_and_unseen_inputs_are_left_alone(x64):
  taus = kernels(3, (5, 2))
  zeros = {t: {'layer/kernel': np.zeros((5, 5))} for t in taus}
  average = np.mean([t['layer']['kernel'] for t in taus.values()], 0)
  ours = regmean.regmean(taus, zeros, ridge=0.0)
  np.testing.assert_allclose(ours['layer']['kernel'], average, rtol=1e-14)
  same = dict.fromkeys(taus, taus['task_0'])
  ours = regmean.regmean(same, grams_of(inputs(3, 5, rank=2)), ridge=0.1)
  np.testing.assert_allclose(
      ours['layer']['kernel'], taus['task_0']['layer']['kernel'], rtol=1e-12
  )


def test_the_order_of_the_tasks_does_not_matter(x64):
  taus, grams = kernels(3, (5, 2)), grams_of(inputs(3, 5))
  forward = regmean.regmean(taus, grams)
  backward = regmean.regmean(taus, dict(reversed(grams.items())))
  np.testing.assert_allclose(
      forward['layer']['kernel'], backward['layer']['kernel'], rtol=1e-13
  )


def test_narrow_leaves_stay_narrow_and_integer_leaves_are_zero():
  taus = {
      t: {
          'layer': {
              'kernel': jnp.full((2, 1), v, jnp.bfloat16),
              'steps': jnp.array([9]),
          }
      }
      for t, v in (('a', 1.0), ('b', 4.0))
  }
  grams = {t: {'layer/kernel': np.eye(2, dtype=np.float32)} for t in taus}
  grams['a']['layer/kernel'] *= 2
  layer = regmean.regmean(taus, grams, ridge=0.0)['layer']
  assert layer['kernel'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(layer['kernel'].astype(float), [[2.0], [2.0]])
  np.testing.assert_array_equal(layer['steps'], [0])


def test_the_gram_matrices_of_a_feed_forward_network_are_those_of_its_layers(
    x64,
):
  module = ffn.FFN((4, 3), activation='tanh')
  x = np.random.default_rng(0).normal(size=(6, 2, 2, 1))
  params = random_params(module, x)
  mask = np.array([True, True, False, True, False, True])
  grams = regmean.gram_sums(module, params, x, mask)
  first = x.reshape(6, 4)[mask]
  layer = params['layer_0']
  second = np.tanh(first @ layer['kernel'] + layer['bias'])
  assert set(grams) == {'layer_0/kernel', 'layer_1/kernel'}
  for name, rows in (('layer_0', first), ('layer_1', second)):
    np.testing.assert_allclose(
        grams[f'{name}/kernel'], rows.T @ rows, rtol=1e-12, atol=1e-13
    )


def test_every_kernel_of_a_vision_transformer_has_the_gram_of_its_input(x64):
  module = vit.ViT(
      patch_size=2, width=4, depth=1, num_heads=2, mlp_width=6, projection=3
  )
  x = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
  params = random_params(module, x)

  @jax.jit
  def forward(params):
    grams = regmean.gram_sums(module, params, x)
    _, state = module.apply({'params': params}, x, capture_intermediates=True)
    return grams, state['intermediates']

  grams, outputs = forward(params)
  sizes = {
      name: int(np.prod(leaf.shape[:-1]))
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
      if (
          name := jax.tree_util.keystr(path, simple=True, separator='/')
      ).endswith('kernel')
  }
  assert {name: gram.shape for name, gram in grams.items()} == {
      name: (size, size) for name, size in sizes.items()
  }
  block = outputs['block_0']
  hidden = jax.nn.sigmoid(1.702 * (z := block['mlp']['in']['__call__'][0])) * z
  patches = x.reshape(3, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
  # Of the last block, here the only one, the class token alone asks.
  normed = block['ln_1']['__call__'][0].reshape((3, 5, 4))
  seen = {
      'patch_embedding': patches.reshape(3, 4, 8),
      'block_0/attention/query': normed[:, 0],
      'block_0/attention/key': normed,
      'block_0/attention/value': normed,
      'block_0/mlp/in': block['ln_2']['__call__'][0],
      'block_0/mlp/out': hidden,
      'projection': outputs['ln_post']['__call__'][0],
  }
  for name, values in seen.items():
    rows = np.reshape(values, (-1, np.shape(values)[-1]))
    np.testing.assert_allclose(
        grams[f'{name}/kernel'], rows.T @ rows, rtol=1e-12, atol=1e-13
    )


def test_arguments_without_sense_are_refused(x64):
  taus, grams = kernels(2, (5, 2)), grams_of(inputs(2, 5))
  merge = regmean.regmean
  with pytest.raises(ValueError, match=r"grams has \['task_0'\]"):
    merge(taus, {'task_0': grams['task_0']})
  with pytest.raises(ValueError, match='from 0 to 1 .* 1.5'):
    merge(taus, grams, off_diagonal=1.5)
  with pytest.raises(ValueError, match='-0.1'):
    merge(taus, grams, ridge=-0.1)
  with pytest.raises(ValueError, match='collect them on one module'):
    merge(taus, {**grams, 'task_1': {}})
  with pytest.raises(ValueError, match='kernel other/kernel but'):
    merge(taus, {t: {'other/kernel': np.eye(5)} for t in taus})
  with pytest.raises(ValueError, match=r'must be \(5, 5\).*\(4, 4\) in task_0'):
    merge(taus, {t: {'layer/kernel': np.eye(4)} for t in taus})
  singular = grams_of(inputs(2, 5, rank=3))
  with pytest.raises(ValueError, match='layer/kernel .* singular'):
    merge(taus, singular, off_diagonal=1.0, ridge=0.0)
  module = ffn.FFN((3,))
  params = random_params(module, np.zeros((2, 4)))
  with pytest.raises(ValueError, match='2 entries on its first axis .* has 3'):
    regmean.gram_sums(module, params, np.zeros((2, 4)), np.ones(3, bool))
