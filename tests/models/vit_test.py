import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import encoders
from taskvec_jax.models import vit
from taskvec_jax.tasks import preprocessing

_SIZES = dict(patch_size=2, width=6, depth=2, num_heads=3, mlp_width=10)


# Op by op, a ViT compiles a program for every operation.
_encode = jax.jit(encoders.encode, static_argnums=0)


def _problem(dtype=np.float64, **changes):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(3, 4, 6, 2)).astype(dtype)
  module = vit.ViT(**{**_SIZES, 'projection': 5, **changes})
  shapes = jax.eval_shape(
      lambda key: encoders.init(module, key, jnp.asarray(inputs)),
      jax.random.key(0),
  )
  params = jax.tree.map(
      lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(dtype), shapes
  )
  return module, params, inputs


def _layer_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * p['scale'] + p['bias']


def _affine(x, p):
  return x @ p['kernel'] + p['bias']


def _reference(params, image, patch_size, num_heads, depth):
  """Features of one image, patch by patch and head by head."""
  tokens = [params['class_token']]
  for top in range(0, image.shape[0], patch_size):
    for left in range(0, image.shape[1], patch_size):
      patch = image[top : top + patch_size, left : left + patch_size]
      tokens.append(
          np.einsum('ijc,ijcd->d', patch, params['patch_embedding']['kernel'])
      )
  hidden = np.stack(tokens) + params['position_embedding']
  hidden = _layer_norm(hidden, params['ln_pre'])
  for index in range(depth):
    block = params[f'block_{index}']
    normed = _layer_norm(hidden, block['ln_1'])
    attention = block['attention']
    query, key, value = (
        np.split(_affine(normed, attention[name]), num_heads, axis=1)
        for name in ('query', 'key', 'value')
    )
    mixed = []
    for q, k, v in zip(query, key, value, strict=True):
      weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
      mixed.append(weights / weights.sum(1, keepdims=True) @ v)
    hidden = hidden + _affine(np.concatenate(mixed, 1), attention['out'])
    normed = _layer_norm(hidden, block['ln_2'])
    inner = _affine(normed, block['mlp']['in'])
    inner = inner / (1 + np.exp(-1.702 * inner))
    hidden = hidden + _affine(inner, block['mlp']['out'])
  features = _layer_norm(hidden[0], params['ln_post'])
  return features @ params['projection']['kernel']


def _num_parameters(image_size, **sizes):
  """Counts without allocating: the shapes alone."""
  module = vit.ViT(**sizes)
  image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  params = jax.eval_shape(
      lambda key, image: encoders.init(module, key, image),
      jax.random.key(0),
      image,
  )
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_forward_equals_a_loop_over_patches_and_heads_in_numpy(x64):
  module, params, inputs = _problem()
  features = _encode(module, params, jnp.asarray(inputs))
  expected = [_reference(params, image, 2, 3, 2) for image in inputs]
  assert features.dtype == jnp.float64
  np.testing.assert_allclose(features, np.stack(expected), rtol=1e-10)


def test_float32_forward_is_float32_and_close_to_float64(x64):
  module, params, inputs = _problem()
  exact = _encode(module, params, jnp.asarray(inputs))
  single = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
  features = _encode(module, single, inputs.astype(np.float32))
  assert features.dtype == jnp.float32
  np.testing.assert_allclose(features, exact, atol=1e-4)


def test_forward_over_reverse_is_the_slope_of_the_gradient(x64):
  module, params, inputs = _problem(width=4, num_heads=2, mlp_width=3, depth=1)
  flat, unravel = flatten_util.ravel_pytree(params)

  def loss(flat):
    features = _encode(module, unravel(flat), jnp.asarray(inputs))
    return jnp.sum(jax.nn.logsumexp(features, axis=1))

  vector = jnp.cos(jnp.arange(flat.size, dtype=flat.dtype))
  gradient_and_product = jax.jit(
      lambda flat: jax.jvp(jax.grad(loss), (flat,), (vector,))
  )
  _, product = gradient_and_product(flat)
  step = 1e-5
  above, below = (
      gradient_and_product(flat + s * vector)[0] for s in (step, -step)
  )
  slope = (above - below) / (2 * step)
  error = jnp.linalg.norm(product - slope)
  assert error < 1e-7 * jnp.linalg.norm(product)


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_tokens_without_variance_have_finite_second_derivatives(activation):
  module, params, inputs = _problem(np.float32, depth=1, activation=activation)
  inputs = np.zeros_like(inputs)
  # Nothing in the tokens: their variance is 0 and only epsilon is left.
  for name in ('class_token', 'position_embedding'):
    params[name] = np.zeros_like(params[name])

  @jax.jit
  def gradient_and_hvp(params):
    grad = jax.grad(lambda p: jnp.sum(_encode(module, p, inputs) ** 3))
    return jax.jvp(grad, (params,), (jax.tree.map(jnp.ones_like, params),))

  first, second = gradient_and_hvp(params)
  for leaf in jax.tree.leaves((first, second)):
    assert np.isfinite(leaf).all()


def test_without_positions_the_order_of_patches_does_not_matter():
  module, params, inputs = _problem(np.float32)
  swapped = inputs[:, ::-1].reshape(3, 2, 2, 6, 2)[:, :, ::-1]
  swapped = swapped.reshape(inputs.shape)  # rows of patches change places
  with_positions = [_encode(module, params, x) for x in (inputs, swapped)]
  assert np.abs(with_positions[0] - with_positions[1]).max() > 1e-2
  params = dict(params)
  params['position_embedding'] = np.zeros_like(params['position_embedding'])
  without = [_encode(module, params, x) for x in (inputs, swapped)]
  np.testing.assert_allclose(*without, atol=1e-5)


def test_features_are_read_from_the_class_token():
  module, params, inputs = _problem(np.float32, depth=0)
  params = dict(params, class_token=params['class_token'] + 1.0)
  first = _encode(module, params, inputs)
  # Without a block nothing of the image reaches the class token.
  np.testing.assert_array_equal(first, _encode(module, params, -inputs))
  changed = dict(params, class_token=-params['class_token'])
  assert np.abs(first - _encode(module, changed, inputs)).max() > 1e-2


def test_features_have_the_width_unless_projected():
  module, params, inputs = _problem(np.float32, projection=None)
  assert 'projection' not in params
  assert _encode(module, params, inputs).shape == (3, 6)


def test_parameter_names_are_plain():
  _, params, _ = _problem()
  block = params['block_1']
  assert sorted(params) == [
      'block_0',
      'block_1',
      'class_token',
      'ln_post',
      'ln_pre',
      'patch_embedding',
      'position_embedding',
      'projection',
  ]
  assert params['position_embedding'].shape == (7, 6)
  assert params['patch_embedding']['kernel'].shape == (2, 2, 2, 6)
  assert sorted(block) == ['attention', 'ln_1', 'ln_2', 'mlp']
  assert sorted(block['attention']) == ['key', 'out', 'query', 'value']
  for leaf in block['attention'].values():
    assert leaf['kernel'].shape == (6, 6) and leaf['bias'].shape == (6,)


def test_clip_base_32_has_the_published_number_of_parameters():
  count = _num_parameters(
      224,
      patch_size=32,
      width=768,
      depth=12,
      num_heads=12,
      mlp_width=3072,
      projection=512,
  )
  assert count == 87_849_216


def test_clip_large_14_has_the_number_of_parameters_its_sizes_add_up_to():
  count = _num_parameters(
      224,
      patch_size=14,
      width=1024,
      depth=24,
      num_heads=16,
      mlp_width=4096,
      projection=768,
  )
  d, h = 1024, 4096
  block = 4 * (d * d + d) + (d * h + h) + (h * d + d) + 4 * d
  rest = 14 * 14 * 3 * d + d + 257 * d + 4 * d + d * 768
  assert count == 24 * block + rest == 303_966_208


def test_sizes_that_do_not_fit_are_refused_with_both_values():
  with pytest.raises(ValueError, match='width of 6.*4 heads'):
    vit.ViT(**{**_SIZES, 'num_heads': 4})
  with pytest.raises(ValueError, match="quick_gelu, gelu, not 'relu'"):
    vit.ViT(**_SIZES, activation='relu')
  with pytest.raises(ValueError, match='positive sizes'):
    vit.ViT(**{**_SIZES, 'patch_size': 0})
  module, params, _ = _problem(np.float32)
  with pytest.raises(ValueError, match='5 x 6 pixels.*2 x 2'):
    _encode(module, params, jnp.zeros((1, 5, 6, 2)))
  with pytest.raises(ValueError, match='for 6 patches.*8 x 8 have 16'):
    _encode(module, params, jnp.zeros((1, 8, 8, 2)))


def test_uint8_images_are_normalised_by_the_numbers_of_the_model():
  module = vit.ViT(
      patch_size=2,
      width=4,
      depth=0,
      num_heads=1,
      mlp_width=4,
      pixel_mean=(0.1, 0.2, 0.3),
      pixel_std=(0.5, 0.6, 0.7),
  )
  images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
  floats = preprocessing.preprocess(
      images,
      image_size=4,
      num_channels=3,
      mean=module.pixel_mean,
      std=module.pixel_std,
  )
  np.testing.assert_allclose(
      encoders.normalize(module, images, np.float32), floats, atol=1e-6
  )
  params = encoders.init(module, jax.random.key(0), floats)
  np.testing.assert_allclose(
      encoders.encode(module, params, images),
      encoders.encode(module, params, floats),
      atol=1e-5,
  )


def test_normalised_features_have_length_one():
  numbers = dict(patch_size=2, width=4, depth=0, num_heads=1, mlp_width=4)
  plain = vit.ViT(**numbers, projection=6)
  images = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype('f')
  params = encoders.init(plain, jax.random.key(0), images)
  features = encoders.encode(plain, params, images)
  unit = encoders.encode(
      vit.ViT(**numbers, projection=6, normalize=True), params, images
  )
  length = np.linalg.norm(features, axis=1, keepdims=True)
  np.testing.assert_allclose(unit, features / length, rtol=1e-5)


def test_the_bias_of_the_keys_has_no_effect_and_a_gradient_of_zero():
  module = vit.ViT(patch_size=2, width=4, depth=1, num_heads=2, mlp_width=4)
  images = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype('f')
  params = encoders.init(module, jax.random.key(0), images)
  gradient = jax.jit(
      jax.grad(lambda p: jnp.sum(encoders.encode(module, p, images) ** 3))
  )(params)
  attention = gradient['block_0']['attention']
  assert not np.any(attention['key']['bias'])
  assert np.all(attention['key']['kernel'])


@pytest.mark.parametrize('causal', [False, True])
def test_a_block_of_the_first_token_alone_gives_that_of_the_whole(causal, x64):
  del x64
  hidden = jax.random.normal(jax.random.key(1), (2, 5, 6), jnp.float64)
  sizes = dict(num_heads=2, mlp_width=7, activation='gelu', causal=causal)
  whole, first = vit.Block(**sizes), vit.Block(**sizes, first_only=True)
  params = encoders.init(whole, jax.random.key(0), hidden)

  def of_first(module, params, hidden):
    tokens = encoders.encode(module, params, hidden)
    return jnp.sum(jnp.sin(tokens[:, :1])), tokens.shape

  gradients = jax.jit(
      jax.grad(of_first, (1, 2), has_aux=True), static_argnums=0
  )
  expected, shape = gradients(whole, params, hidden)
  found, shape_of_first = gradients(first, params, hidden)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), found, expected
  )
  assert tuple(map(int, shape)) == (2, 5, 6)
  assert tuple(map(int, shape_of_first)) == (2, 1, 6)
