import math

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import ffn
from taskvec_jax.second_order import bounds
from taskvec_jax.second_order import local_bounds

# (widths, activation, which layers have biases, which layers are trained)
STRUCTURES = [
    ((6, 4), 'tanh', (True,), (True,)),
    ((5, 7, 3), 'identity', (False, False), (True, True)),
    ((5, 6, 4, 3), 'tanh', (True, True, True), (True, True, False)),
    ((4, 5, 6, 4, 3), 'gelu', (False, True, True, False), (True,) * 4),
    ((4, 6, 5, 4, 3), 'softplus', (True,) * 4, (True, False, True, True)),
]
NUM_EXAMPLES = 7


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def random_problem(rng, structure, dtype=np.float64):
  widths, _, biases, trained = structure
  gain = rng.uniform(0.5, 2.0)
  layers = tuple(
      ffn.Layer(
          (gain * rng.normal(size=shape) / math.sqrt(shape[0])).astype(dtype),
          rng.normal(size=shape[1]).astype(dtype) if has_bias else None,
          is_trained,
      )
      for *shape, has_bias, is_trained in zip(
          widths[:-1], widths[1:], biases, trained, strict=True
      )
  )
  inputs = rng.normal(size=(NUM_EXAMPLES, widths[0])).astype(dtype)
  return layers, inputs, rng.integers(0, widths[-1], size=NUM_EXAMPLES)


def dense_reference(structure):
  """Returns a function to (mean Hessian, its two parts, gradients)."""
  _, activation, _, trained = structure

  def derivatives(arrays, inputs, labels):
    values = [a for a, own in zip(arrays, trained, strict=True) if own]
    flat, unravel = flatten_util.ravel_pytree(values)

    def logits_of(flat, x):
      own = iter(unravel(flat))
      for pair, is_trained in zip(arrays, trained, strict=True):
        kernel, bias = next(own) if is_trained else pair
        z = x @ kernel + (0 if bias is None else bias)
        x = ffn.ACTIVATIONS[activation](z)
      return z

    def loss(flat, x, label):
      z = logits_of(flat, x)
      return jax.nn.logsumexp(z) - z[label]

    def one(x, label):
      jacobian = jax.jacobian(logits_of)(flat, x)
      p = jax.nn.softmax(logits_of(flat, x))
      gauss_newton = jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian
      hessian = jax.hessian(loss)(flat, x, label)
      return hessian, gauss_newton, jax.grad(loss)(flat, x, label)

    return jax.vmap(one)(inputs, labels)

  compiled = jax.jit(derivatives)
  return lambda layers, inputs, labels: [
      np.asarray(x)
      for x in compiled([layer[:2] for layer in layers], inputs, labels)
  ]


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_local_bounds_lie_between_the_dense_hessian_and_4_4(structure):
  rng = np.random.default_rng(STRUCTURES.index(structure))
  reference = dense_reference(structure)
  activation = structure[1]
  for _ in range(8):
    layers, inputs, labels = random_problem(rng, structure)
    hessians, gauss_newtons, gradients = reference(layers, inputs, labels)
    result = local_bounds.local_bounds(
        layers, activation, inputs, labels, chunk_size=4
    )
    eigenvalues = np.linalg.eigvalsh(hessians.mean(0))
    exact = max(-eigenvalues[0], eigenvalues[-1])
    a_priori = bounds.ffn_bounds(
        layers, activation, float(np.linalg.norm(inputs, axis=1).max())
    )
    slack = 1 + 1e-10
    # The gradient is exact, example by example.
    norms = np.linalg.norm(gradients, axis=1)
    assert result.gradient == pytest.approx(norms.mean(), rel=1e-12)
    assert result.gradient <= a_priori.gradient * slack
    # R2 bounds the mean of the examples' own norms, R2K that of their mean.
    own = np.linalg.norm(hessians, 2, axis=(1, 2)).mean()
    assert exact <= own * slack
    assert own <= result.hessian_r2 * slack
    assert exact <= result.hessian_r2k * slack
    assert result.hessian_r2 <= a_priori.hessian * slack
    assert result.hessian_r2k <= a_priori.hessian * slack
    # The two parts by themselves.
    whole = np.linalg.eigvalsh(gauss_newtons.mean(0))[-1]
    assert whole <= result.gauss_newton * slack
    curvature = np.linalg.norm((hessians - gauss_newtons).mean(0), 2)
    assert curvature <= result.negative_curvature * slack + 1e-12
    assert -eigenvalues[0] <= result.negative_curvature * slack + 1e-12


def test_the_gauss_newton_bound_of_equal_inputs_is_exact_for_one_layer():
  # With one input for all, mean A (x) h h' is a Kronecker product.
  structure = STRUCTURES[0]
  layers, inputs, labels = random_problem(np.random.default_rng(9), structure)
  inputs = np.repeat(inputs[:1], NUM_EXAMPLES, axis=0)
  _, gauss_newtons, _ = dense_reference(structure)(layers, inputs, labels)
  exact = np.linalg.eigvalsh(gauss_newtons.mean(0))[-1]
  result = local_bounds.local_bounds(layers, 'tanh', inputs, labels)
  assert result.gauss_newton == pytest.approx(exact, rel=1e-12)
  assert result.hessian_r2k == pytest.approx(exact, rel=1e-12)
  assert result.hessian_r2 == pytest.approx(exact, rel=1e-12)


def test_one_example_and_one_trained_layer_leave_nothing_to_bound():
  # The first layer alone: no two layers to couple, no examples to average. Its
  # Gauss-Newton norm is exact, below two frozen layers; below one frozen layer
  # dz_1 is the only derivative of the logits, and so is its curvature.
  for num_layers, has_bias in ((2, True), (3, False)):
    structure = (
        (5, 6, 4, 3)[:num_layers] + (3,),
        'gelu',
        (has_bias,) * num_layers,
        (True,) + (False,) * (num_layers - 1),
    )
    layers, inputs, labels = random_problem(
        np.random.default_rng(num_layers), structure
    )
    inputs, labels = inputs[:1], labels[:1]
    hessians, gauss_newtons, _ = dense_reference(structure)(
        layers, inputs, labels
    )
    result = local_bounds.local_bounds(layers, 'gelu', inputs, labels)
    exact = np.linalg.eigvalsh(gauss_newtons[0])[-1]
    assert result.gauss_newton == pytest.approx(exact, rel=1e-12)
    curvature = np.linalg.norm(hessians[0] - gauss_newtons[0], 2)
    if num_layers == 2:
      assert result.negative_curvature == pytest.approx(curvature, rel=1e-12)
    else:
      assert curvature <= result.negative_curvature * (1 + 1e-12)


def test_means_before_norms_make_r2k_the_tighter_for_scattered_inputs():
  # Orthogonal inputs and one layer: R2 adds what R2K sees to be orthogonal.
  layers = (ffn.Layer(np.zeros((8, 3)), None, True),)
  result = local_bounds.local_bounds(
      layers, 'tanh', np.eye(8), np.arange(8) % 3
  )
  # S has eigenvalues 1/3, 1/3, 0, and each example 1/8 of the weight.
  assert result.hessian_r2 == pytest.approx(1 / 3, rel=1e-12)
  assert result.hessian_r2k == pytest.approx(1 / 24, rel=1e-12)


def test_the_result_does_not_depend_on_how_the_examples_are_cut():
  layers, inputs, labels = random_problem(
      np.random.default_rng(3), STRUCTURES[2]
  )
  whole = local_bounds.local_bounds(layers, 'tanh', inputs, labels)
  for chunk_size in (1, 3, 7):
    cut = local_bounds.local_bounds(
        layers, 'tanh', inputs, labels, chunk_size=chunk_size
    )
    np.testing.assert_allclose(cut, whole, rtol=1e-12)
  order = np.random.default_rng(4).permutation(NUM_EXAMPLES)
  shuffled = local_bounds.local_bounds(
      layers, 'tanh', inputs[order], labels[order]
  )
  np.testing.assert_allclose(shuffled, whole, rtol=1e-12)


def test_float32_parameters_give_the_bounds_of_float64_to_rounding():
  layers, inputs, labels = random_problem(
      np.random.default_rng(5), STRUCTURES[2], np.float32
  )
  exact = local_bounds.local_bounds(
      [
          ffn.Layer(*(x if x is None else np.float64(x) for x in pair), own)
          for *pair, own in layers
      ],
      'tanh',
      np.float64(inputs),
      labels,
  )
  with jax.enable_x64(False):
    result = local_bounds.local_bounds(layers, 'tanh', inputs, labels)
  np.testing.assert_allclose(result, exact, rtol=1e-4)


def test_saturated_and_vanishing_networks_are_bounded_without_nan():
  for gain in (0.0, 1e4):
    layers = (
        ffn.Layer(np.full((3, 4), gain), None, True),
        ffn.Layer(np.full((4, 4), gain), None, True),
        ffn.Layer(np.full((4, 2), gain), None, True),
    )
    result = local_bounds.local_bounds(
        layers, 'tanh', np.ones((2, 3)), np.array([0, 1])
    )
    assert np.isfinite(result).all()
    assert result.hessian_r2 >= 0


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'activation': 'relu'}, 'second derivative at 0'),
        ({'inputs': np.zeros((2, 3))}, r'shape \[N, 2\]'),
        (
            {'inputs': np.zeros((0, 2)), 'labels': np.zeros(0, int)},
            'at least 1',
        ),
        ({'labels': np.zeros(3, int)}, 'one for each input'),
        ({'labels': np.array([0, 3])}, r'0\.\.2, but reach from 0 to 3'),
        ({'chunk_size': 0}, 'chunk_size'),
    ],
)
def test_a_wrong_call_gets_one_sentence(change, sentence):
  arguments = {
      'layers': (ffn.Layer(np.ones((2, 3)), None, True),),
      'activation': 'tanh',
      'inputs': np.zeros((2, 2)),
      'labels': np.zeros(2, int),
      'chunk_size': 4,
  } | change
  with pytest.raises(ValueError, match=sentence):
    local_bounds.local_bounds(**arguments)
