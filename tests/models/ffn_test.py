import math

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads

# Written out once more, in NumPy, as the reference.
_REFERENCE = {
    'identity': lambda z: z,
    'tanh': np.tanh,
    'sigmoid': lambda z: 1 / (1 + np.exp(-z)),
    'softplus': lambda z: np.log1p(np.exp(z)),
    'gelu': lambda z: z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2,
    'silu': lambda z: z / (1 + np.exp(-z)),
    'quick_gelu': lambda z: z / (1 + np.exp(-1.702 * z)),
    'gelu_tanh': lambda z: (
        z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    ),
}


def _problem(activation='tanh', use_bias=True, widths=(7, 5)):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(4, 3, 2, 1))
  module = ffn.FFN(widths=widths, activation=activation, use_bias=use_bias)
  shapes = jax.eval_shape(
      lambda key: encoders.init(module, key, jnp.asarray(inputs)),
      jax.random.key(0),
  )
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
  return module, params, inputs


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('activation', list(ffn.ACTIVATIONS))
def test_forward_is_the_activation_of_an_affine_map_after_every_layer(
    x64, activation, use_bias
):
  module, params, inputs = _problem(activation, use_bias)
  hidden = inputs.reshape(4, 6)
  for name in ('layer_0', 'layer_1'):
    hidden = hidden @ params[name]['kernel'] + params[name].get('bias', 0)
    hidden = _REFERENCE[activation](hidden)
  features = encoders.encode(module, params, jnp.asarray(inputs))
  assert features.dtype == jnp.float64
  np.testing.assert_allclose(features, hidden, rtol=1e-12, atol=1e-12)


def test_parameters_are_a_plain_dict_of_kernels_and_biases():
  module, params, inputs = _problem()
  assert type(params) is dict
  shapes = jax.tree.map(np.shape, params)
  assert shapes == {
      'layer_0': {'kernel': (6, 7), 'bias': (7,)},
      'layer_1': {'kernel': (7, 5), 'bias': (5,)},
  }
  without = ffn.FFN(widths=(7, 5), use_bias=False)
  fresh = jax.jit(encoders.init, static_argnums=0)(
      without, jax.random.key(0), inputs
  )
  assert jax.tree.map(np.shape, fresh) == {
      'layer_0': {'kernel': (6, 7)},
      'layer_1': {'kernel': (7, 5)},
  }
  assert encoders.encode(module, params, inputs).shape == (4, 5)


def test_forward_over_reverse_is_the_dense_hessian_times_a_vector(x64):
  module, params, inputs = _problem(widths=(3, 2))
  flat, unravel = flatten_util.ravel_pytree(params)

  def loss(flat):
    features = encoders.encode(module, unravel(flat), jnp.asarray(inputs))
    return jnp.sum(jax.nn.logsumexp(features, axis=1))

  vector = jnp.cos(jnp.arange(flat.size, dtype=flat.dtype))
  product = jax.jit(
      lambda flat: jax.jvp(jax.grad(loss), (flat,), (vector,))[1]
  )(flat)
  dense = jax.jit(jax.hessian(loss))(flat)
  np.testing.assert_allclose(product, dense @ vector, rtol=1e-9, atol=1e-11)
  assert jnp.linalg.norm(product) > 0


@pytest.mark.parametrize('activation', list(ffn.ACTIVATIONS))
def test_activations_have_the_second_derivative_of_their_formula(
    x64, activation
):
  z = np.linspace(-3, 3, 13)
  phi, step = _REFERENCE[activation], 1e-4
  second = (phi(z + step) - 2 * phi(z) + phi(z - step)) / step**2
  derivative = jax.vmap(jax.grad(jax.grad(ffn.ACTIVATIONS[activation])))
  np.testing.assert_allclose(derivative(jnp.asarray(z)), second, atol=1e-6)


def test_layers_follow_the_network_and_end_in_a_frozen_head(x64):
  # Eleven layers: as text, layer_10 would stand before layer_2.
  widths = (4, 3, 5, 4, 3, 5, 4, 3, 5, 4, 2)
  module, params, inputs = _problem(widths=widths)
  head = heads.Head(np.ones((2, 3)), np.zeros(3))
  layers = ffn.layers(params, head)
  assert [layer.kernel.shape[1] for layer in layers] == [*widths, 3]
  assert [layer.trained for layer in layers] == [True] * 11 + [False]
  hidden = inputs.reshape(4, -1)
  for kernel, bias, trained in layers:
    hidden = hidden @ kernel + bias
    hidden = np.tanh(hidden) if trained else hidden
  features = encoders.encode(module, params, jnp.asarray(inputs))
  np.testing.assert_allclose(heads.logits(head, features), hidden, rtol=1e-10)


def test_layers_without_bias_have_none():
  _, params, _ = _problem(use_bias=False)
  layers = ffn.layers(params, heads.Head(np.ones((5, 3)), np.zeros(3)))
  assert [layer.bias is None for layer in layers] == [True, True, False]


def test_relu_is_refused_because_it_has_no_second_derivative():
  with pytest.raises(ValueError, match="'relu' has no second derivative at 0"):
    ffn.FFN(widths=(3,), activation='relu')
  with pytest.raises(ValueError, match="Unknown activation 'sine'.*tanh"):
    ffn.FFN(widths=(3,), activation='sine')


@pytest.mark.parametrize('widths', [(), (3, 0)])
def test_a_network_without_units_is_refused(widths):
  with pytest.raises(ValueError, match='at least one unit'):
    ffn.FFN(widths=widths)


def test_layers_refuse_what_is_no_ffn_and_a_head_that_does_not_fit():
  _, params, _ = _problem()
  head = heads.Head(np.ones((4, 3)), np.zeros(3))
  with pytest.raises(ValueError, match='reads 4 features.*gives 5'):
    ffn.layers(params, head)
  with pytest.raises(ValueError, match='ln_pre'):
    ffn.layers({**params, 'ln_pre': {}}, head)
