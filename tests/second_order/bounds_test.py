import functools
import math
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from optax import tree
import pytest

from taskvec_jax.models import ffn
from taskvec_jax.second_order import bounds
from taskvec_jax.second_order import response
from taskvec_jax.second_order import weight_norms

# (widths, activation, which layers have biases, which layers are trained)
STRUCTURES = [
    ((6, 4), 'tanh', (False,), (True,)),
    ((5, 7, 3), 'tanh', (False, False), (True, True)),
    ((5, 6, 4, 3), 'tanh', (False, False, False), (True, True, True)),
    ((5, 6, 4, 3), 'tanh', (True, True, True), (True, True, False)),
    ((4, 5, 5, 4, 3), 'tanh', (True,) * 4, (True, False, True, True)),
    ((5, 7, 3), 'gelu', (True, True), (True, True)),
    ((5, 6, 4, 3), 'silu', (True, False, True), (True, True, False)),
    ((5, 6, 4, 3), 'softplus', (True, True, True), (True, True, True)),
    ((5, 6, 4, 3), 'sigmoid', (True, True, True), (True, True, False)),
    ((5, 6, 4, 3), 'quick_gelu', (False, True, False), (True, True, True)),
    ((5, 7, 3), 'gelu_tanh', (False, True), (True, False)),
    ((5, 6, 4, 3), 'identity', (False, False, False), (True, True, True)),
]


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def random_layers(rng, structure):
  widths, _, biases, trained = structure
  gain = rng.uniform(0.5, 2.5)
  return tuple(
      ffn.Layer(
          gain * rng.normal(size=(n_in, n_out)) / math.sqrt(n_in),
          rng.normal(size=n_out) if has_bias else None,
          is_trained,
      )
      for n_in, n_out, has_bias, is_trained in zip(
          widths[:-1], widths[1:], biases, trained, strict=True
      )
  )


def split(layers):
  """Returns what is trained, and how to put it back."""
  trained = [layer[:2] for layer in layers if layer.trained]

  def join(trained):
    parts = iter(trained)
    return tuple(
        layer._replace(
            **dict(zip(('kernel', 'bias'), next(parts), strict=True))
        )
        if layer.trained
        else layer
        for layer in layers
    )

  return trained, join


def mean_loss(layers, activation, inputs, labels):
  hidden = inputs
  for kernel, bias, _ in layers:
    logits = hidden @ kernel + (0 if bias is None else bias)
    hidden = ffn.ACTIVATIONS[activation](logits)
  picked = jnp.take_along_axis(logits, labels[:, None], axis=1)
  return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked[:, 0])


def dense_reference(structure):
  """Returns (layers, inputs, labels) -> (Hessian, gradients of examples)."""
  _, activation, _, trained = structure

  def derivatives(arrays, inputs, labels):
    layers = tuple(
        ffn.Layer(*pair, is_trained)
        for pair, is_trained in zip(arrays, trained, strict=True)
    )
    values, join = split(layers)
    flat, unravel = flatten_util.ravel_pytree(values)

    def loss(flat, inputs, labels):
      return mean_loss(join(unravel(flat)), activation, inputs, labels)

    gradients = jax.vmap(lambda x, y: jax.grad(loss)(flat, x[None], y[None]))(
        inputs, labels
    )
    return jax.hessian(loss)(flat, inputs, labels), gradients

  compiled = jax.jit(derivatives)
  return lambda layers, inputs, labels: compiled(
      [layer[:2] for layer in layers], inputs, labels
  )


def input_norm_of(inputs):
  return float(np.linalg.norm(inputs, axis=1).max())


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_exact_norms_are_below_4_4_which_is_below_4_5(structure):
  rng = np.random.default_rng(STRUCTURES.index(structure))
  reference = dense_reference(structure)
  activation = structure[1]
  for _ in range(5):  # 60 networks in all
    layers = random_layers(rng, structure)
    inputs = rng.normal(size=(3, structure[0][0]))
    labels = rng.integers(0, structure[0][-1], size=3)
    hessian, gradients = reference(layers, inputs, labels)
    eigenvalues = np.linalg.eigvalsh(hessian)
    norm = input_norm_of(inputs)
    certified = bounds.ffn_bounds(layers, activation, norm)
    mu = bounds.negative_curvature(layers, activation, norm)
    classical = bounds.classical_bounds_from_norms(
        weight_norms.weight_norms(layers), activation, norm
    )
    exact = max(-eigenvalues[0], eigenvalues[-1])
    assert np.linalg.norm(gradients, axis=1).max() <= certified.gradient
    assert exact <= certified.hessian
    assert -eigenvalues[0] <= mu * (1 + 1e-12) + 1e-12
    assert mu <= certified.hessian
    assert certified.gradient <= classical.gradient * (1 + 1e-12)
    assert certified.hessian <= classical.hessian * (1 + 1e-12)


def test_4_4_is_at_most_400_times_the_norm_of_a_dense_hessian():
  # The bar's network: 9-11-10-5, tanh, biases, everything trained, weights
  # N(0, 1/n_in) and biases N(0, 0.3^2), seed 0.
  rng = np.random.default_rng(0)
  structure = ((9, 11, 10, 5), 'tanh', (True,) * 3, (True,) * 3)
  layers = tuple(
      ffn.Layer(
          rng.normal(size=(n_in, n_out)) / math.sqrt(n_in),
          0.3 * rng.normal(size=n_out),
          True,
      )
      for n_in, n_out in ((9, 11), (11, 10), (10, 5))
  )
  inputs, labels = rng.normal(size=(40, 9)), rng.integers(0, 5, size=40)
  hessian, _ = dense_reference(structure)(layers, inputs, labels)
  exact = np.linalg.norm(hessian, 2)
  ratio = (
      bounds.ffn_bounds(layers, 'tanh', input_norm_of(inputs)).hessian / exact
  )
  assert 1 <= ratio <= 400


@pytest.mark.parametrize('has_bias', [True, False])
def test_4_4_is_reached_by_one_layer_and_two_equally_likely_classes(has_bias):
  # H = [x; 1] [x; 1]' (x) S, and S of two equal probabilities has norm 1/2.
  layers = (
      ffn.Layer(np.zeros((2, 2)), np.zeros(2) if has_bias else None, True),
  )
  structure = ((2, 2), 'tanh', (has_bias,), (True,))
  hessian, _ = dense_reference(structure)(
      layers, np.array([[3.0, 4.0]]), np.array([0])
  )
  result = bounds.ffn_bounds(layers, 'tanh', 5.0)
  assert result.hessian == pytest.approx(np.linalg.norm(hessian, 2), rel=1e-12)
  assert result.hessian == pytest.approx((25 + has_bias) / 2, rel=1e-12)


@pytest.mark.parametrize('head_is_trained', [True, False])
def test_4_4_of_two_layers_is_what_the_recursion_gives_by_hand(head_is_trained):
  # SiLU: gamma = 1 bounds the activations, beta_1 > 1 only the slopes.
  layers = (
      ffn.Layer(np.diag([2.0, 1.0]), np.array([0.0, 0.5]), True),
      ffn.Layer(np.diag([3.0, 1.0]), np.array([1.0, 0.0]), head_is_trained),
  )
  beta_1, beta_2, _, _, _ = weight_norms.SLOPES['silu']
  first = math.hypot(1.5, 1)  # hh_0
  second = math.hypot(2 * 1.5 + 0.5, 1) * head_is_trained  # hh_1
  reach = np.array([3 * beta_1 * first, second])
  cross = beta_1 * first * head_is_trained
  bend = np.array([[3 * beta_2 * first**2, cross], [cross, 0]])
  result = bounds.ffn_bounds(layers, 'silu', 1.5)
  assert result.gradient == pytest.approx(
      math.sqrt(2) * np.linalg.norm(reach), rel=1e-13
  )
  curvature = np.outer(reach, reach) / 2 + math.sqrt(2) * bend
  assert result.hessian == pytest.approx(
      np.linalg.eigvalsh(curvature)[-1], rel=1e-13
  )
  assert bounds.negative_curvature(layers, 'silu', 1.5) == pytest.approx(
      math.sqrt(2) * np.linalg.eigvalsh(bend)[-1], rel=1e-13
  )


def test_without_biases_4_5_is_its_closed_product():
  # Two layers by hand: D_2 = b1 B_x sqrt(B_1^2 + B_2^2), E_2 = b1 B_x + B_2 b2
  # B_x^2.
  radius_1, radius_2, input_norm = 1.5, 0.7, 2.0
  beta_2 = 4 / (3 * math.sqrt(3))
  first = input_norm * math.hypot(radius_1, radius_2)
  second = input_norm + radius_2 * beta_2 * input_norm**2
  result = bounds.classical_bounds([radius_1, radius_2], 'tanh', input_norm)
  assert result.gradient == pytest.approx(math.sqrt(2) * first, rel=1e-14)
  assert result.hessian == pytest.approx(
      first**2 / 2 + math.sqrt(2) * second, rel=1e-14
  )


def test_4_5_is_reached_by_one_layer_and_two_equally_likely_classes():
  # H = x x' (x) S, and S of two equal probabilities has norm 1/2 exactly.
  inputs = np.array([[3.0, 4.0]])
  hessian, _ = dense_reference(((2, 2), 'tanh', (False,), (True,)))(
      (ffn.Layer(np.zeros((2, 2)), None, True),), inputs, np.array([0])
  )
  result = bounds.classical_bounds([0.0], 'tanh', 5.0)
  assert result.hessian == pytest.approx(np.linalg.norm(hessian, 2), rel=1e-12)


@pytest.mark.parametrize('activation', list(ffn.ACTIVATIONS))
def test_constants_of_an_activation_are_its_suprema_on_a_fine_grid(activation):
  slopes = weight_norms.SLOPES[activation]
  phi = ffn.ACTIVATIONS[activation]
  # 100 is far enough for limits at infinity, and 0 itself is on the grid.
  fine = np.linspace(-12, 12, 48_001)
  grid = np.concatenate([[-100.0], fine, [100.0]])
  first = np.abs(jax.vmap(jax.grad(phi))(grid))
  second = np.abs(jax.vmap(jax.grad(jax.grad(phi)))(grid))
  values = np.asarray(phi(grid))
  at_zero = float(phi(0.0))
  nonzero = np.abs(grid) > 1e-9
  chords = np.abs(values - at_zero)[nonzero] / np.abs(grid[nonzero])
  for measured, constant in (
      (first.max(), slopes.beta_1),
      (second.max(), slopes.beta_2),
      # A chord of softplus reaches its supremum at infinity alone.
      (
          max(chords.max(), 0.9932 if activation == 'softplus' else 0),
          slopes.gamma,
      ),
  ):
    assert measured <= constant * (1 + 1e-12) + 1e-12
    assert measured >= constant * (1 - 7e-3)
  assert first.max() >= slopes.beta_1 * (1 - 1e-7)
  assert second.max() >= slopes.beta_2 * (1 - 1e-7)
  assert at_zero == pytest.approx(slopes.at_zero, abs=1e-15)
  if math.isfinite(slopes.supremum):
    assert np.abs(values).max() == pytest.approx(slopes.supremum, rel=1e-12)
  else:
    assert np.abs(values).max() > 90


def test_every_activation_of_the_models_has_constants():
  assert set(weight_norms.SLOPES) == set(ffn.ACTIVATIONS)


class Path(NamedTuple):
  """Task arithmetic and multitask training on a random network."""

  activation: str
  scaling: dict
  layers: dict  # task -> layers; the encoder is shared, heads are not
  input_norm: float
  grad_fns: dict  # task -> params -> gradient
  multitask: list  # theta_MT^(0..k)
  finetuned: dict  # task -> theta_t^(0..k)


def train(seed, activation, num_epochs, learning_rate):
  rng = np.random.default_rng(seed)
  structure = ((5, 6, 4, 3), activation, (True,) * 3, (True, True, False))
  scaling = {'a': 0.7, 'b': 0.4, 'c': -0.3}
  encoder = random_layers(rng, structure)[:2]
  layers, grad_fns, norms = {}, {}, []
  for task in scaling:
    head = random_layers(rng, structure)[2]
    layers[task] = (*encoder, head)
    inputs, labels = rng.normal(size=(6, 5)), rng.integers(0, 3, size=6)
    norms.append(input_norm_of(inputs))
    grad_fns[task] = functools.partial(
        _GRADS[activation], head[:2], inputs, labels
    )
  base, _ = split(layers['a'])
  multitask, finetuned = [base], {task: [base] for task in scaling}
  for _ in range(num_epochs):
    total = tree.zeros_like(base)
    for task, alpha in scaling.items():
      total = tree.add_scale(total, alpha, grad_fns[task](multitask[-1]))
      own = finetuned[task][-1]
      finetuned[task].append(
          tree.add_scale(own, -learning_rate, grad_fns[task](own))
      )
    multitask.append(tree.add_scale(multitask[-1], -learning_rate, total))
  return Path(
      activation, scaling, layers, max(norms), grad_fns, multitask, finetuned
  )


def gap_of(path):
  merged = path.multitask[0]
  for task, alpha in path.scaling.items():
    vector = tree.sub(path.finetuned[task][-1], path.multitask[0])
    merged = tree.add_scale(merged, alpha, vector)
  return tree.sub(merged, path.multitask[-1])


def bounds_over(path, extra=()):
  """Returns Bounds and mu over all iterates, `extra` and their segments."""
  results = []
  for task, layers in path.layers.items():
    _, join = split(layers)
    norms = weight_norms.largest(
        weight_norms.weight_norms(join(point))
        for point in (*path.multitask, *path.finetuned[task], *extra)
    )
    arguments = norms, path.activation, path.input_norm
    results.append(
        (
            *bounds.bounds_from_norms(*arguments),
            bounds.negative_curvature_from_norms(*arguments),
        )
    )
  gradient, hessian, mu = np.max(results, axis=0)
  return bounds.Bounds(gradient, hessian), mu


def _task_gradient(activation):
  def loss(trained, head, inputs, labels):
    layers = [ffn.Layer(*pair, True) for pair in (*trained, head)]
    return mean_loss(layers, activation, inputs, labels)

  gradient = jax.jit(jax.grad(loss))
  return lambda head, inputs, labels, trained: gradient(
      trained, head, inputs, labels
  )


_GRADS = {name: _task_gradient(name) for name in ('tanh', 'gelu')}


@pytest.mark.parametrize('activation', ['tanh', 'gelu'])
def test_certificates_hold_over_random_networks_and_keep_their_order(
    activation,
):
  num_epochs, learning_rate = 4, 0.1
  for seed in range(10):  # 20 networks in all
    path = train(seed, activation, num_epochs, learning_rate)
    certified, mu = bounds_over(path)
    gap = float(tree.norm(gap_of(path)))
    unsigned = bounds.gap_bound(
        certified,
        path.scaling,
        learning_rate=learning_rate,
        num_epochs=num_epochs,
    )
    signed = bounds.signed_gap_bound(
        certified,
        path.scaling,
        negative_curvature=mu,
        learning_rate=learning_rate,
        num_epochs=num_epochs,
    )
    assert 0 < gap <= signed <= unsigned


def test_the_certificates_of_a_quadratic_hold_with_a_stated_ratio():
  # L_t(x) = h_t (x - c_t)^2 / 2 in one dimension: G and H are known exactly, so
  # a missing factor shows. The gap is 1/3 to 1 of (4.6), 1/10 to 1 of (4.2).
  curvature, centres = 3.0, {'a': 1.0, 'b': -1.0}
  scaling = {'a': 0.5, 'b': -0.5}
  learning_rate, num_epochs = 0.1, 4
  own = dict.fromkeys(scaling, 0.0)
  multitask, gradient = 0.0, 0.0
  for _ in range(num_epochs):
    grads = {t: curvature * (multitask - c) for t, c in centres.items()}
    gradient = max(gradient, *map(abs, grads.values()))
    multitask -= learning_rate * sum(scaling[t] * grads[t] for t in scaling)
    own = {
        t: x - learning_rate * curvature * (x - centres[t])
        for t, x in own.items()
    }
  gap = abs(sum(scaling[t] * own[t] for t in scaling) - multitask)
  certified = bounds.Bounds(gradient, curvature)
  numbers = {'learning_rate': learning_rate, 'num_epochs': num_epochs}
  unsigned = bounds.gap_bound(certified, scaling, **numbers)
  signed = bounds.signed_gap_bound(
      certified, scaling, negative_curvature=0.0, **numbers
  )
  assert signed / 5 <= gap <= signed <= unsigned <= 20 * gap


def test_what_linear_response_leaves_is_below_its_a_posteriori_bound():
  num_epochs, learning_rate = 4, 0.1
  for seed in range(5):
    path = train(seed, 'tanh', num_epochs, learning_rate)

    def grad_and_hvp(gradient):
      return lambda params, v: jax.jvp(gradient, (params,), (v,))

    fns = {task: grad_and_hvp(fn) for task, fn in path.grad_fns.items()}
    states = list(
        response.responses(
            path.multitask[0],
            [fns] * num_epochs,
            path.scaling,
            learning_rate=learning_rate,
        )
    )
    errors = {task: [0.0] for task in fns}
    extra = []  # theta_MT + D
    for state in states[:-1]:
      for task, fn in fns.items():
        moved = tree.add(state.params, state.drift[task])
        extra.append(moved)
        gradient, hvp = fn(state.params, state.drift[task])
        rho = tree.sub(path.grad_fns[task](moved), tree.add(gradient, hvp))
        errors[task].append(float(tree.norm(rho)))
    certified, mu = bounds_over(path, extra)
    growth = max(1 + learning_rate * mu, learning_rate * certified.hessian - 1)
    left = float(tree.norm(tree.sub(gap_of(path), states[-1].response)))
    bound = bounds.remainder_bound(
        path.scaling, errors, growth=growth, learning_rate=learning_rate
    )
    # With q = 1 it is no certificate, but it is within its order of magnitude.
    sampled = bounds.remainder_bound(
        path.scaling, errors, growth=1.0, learning_rate=learning_rate
    )
    assert 0 < left <= bound
    assert left / 10 <= sampled <= 10 * left


def test_4_2_is_its_closed_form_and_begins_with_4_1():
  certified = bounds.Bounds(gradient=2.0, hessian=3.0)
  scaling = {'a': 0.3, 'b': 0.5}
  weight = 0.3 * (0.5 + 0.7) + 0.5 * (0.3 + 0.5)
  for learning_rate, num_epochs in ((0.1, 5), (1.0, 2), (0.3, 40)):
    growth = (1 + learning_rate * 3.0) ** num_epochs
    closed = weight * 2.0 * ((growth - 1) / 3.0 - learning_rate * num_epochs)
    assert bounds.gap_bound(
        certified, scaling, learning_rate=learning_rate, num_epochs=num_epochs
    ) == pytest.approx(closed, rel=1e-12)
  # At eta H = 3e-13 the closed form has lost every digit.
  leading = bounds.correction_bound(certified, scaling, num_epochs=7)
  assert leading == pytest.approx(weight * 21 * 2.0 * 3.0, rel=1e-14)
  assert bounds.gap_bound(
      certified, scaling, learning_rate=1e-13, num_epochs=7
  ) == pytest.approx(1e-26 * leading, rel=1e-11)


def test_one_epoch_one_task_and_flat_losses_have_no_gap():
  steep = bounds.Bounds(1e200, math.inf)
  numbers = {'learning_rate': 0.1, 'num_epochs': 9}
  assert bounds.correction_bound(steep, {'a': 0.5}, num_epochs=1) == 0
  assert (
      bounds.gap_bound(steep, {'a': 0.5}, learning_rate=0.1, num_epochs=1) == 0
  )
  assert bounds.gap_bound(steep, {'a': 1.0}, **numbers) == 0
  assert bounds.gap_bound(bounds.Bounds(3.0, 0.0), {'a': 0.5}, **numbers) == 0


def test_a_bound_that_overflows_is_infinite_and_warns_nobody():
  huge = (
      ffn.Layer(np.full((2, 2), 1e150), None, True),
      ffn.Layer(np.full((2, 2), 1e150), None, True),
      ffn.Layer(np.full((2, 2), 1e150), None, True),
  )
  result = bounds.ffn_bounds(huge, 'gelu', 1e10)
  assert result == (math.inf, math.inf)
  norms = weight_norms.weight_norms(huge)
  assert (
      bounds.classical_bounds_from_norms(norms, 'gelu', 1e10).hessian
      == math.inf
  )
  assert (
      bounds.gap_bound(
          bounds.Bounds(1.0, 1e10), {'a': 0.5}, learning_rate=1, num_epochs=99
      )
      == math.inf
  )


def test_the_largest_norms_hold_everywhere_on_a_segment():
  rng = np.random.default_rng(3)
  structure = STRUCTURES[3]
  one, other = random_layers(rng, structure), random_layers(rng, structure)
  largest = weight_norms.largest(
      weight_norms.weight_norms(end) for end in (one, other)
  )
  for share in np.linspace(0, 1, 11):
    between = tuple(
        ffn.Layer(
            (1 - share) * a.kernel + share * b.kernel,
            (1 - share) * a.bias + share * b.bias,
            a.trained,
        )
        for a, b in zip(one, other, strict=True)
    )
    for norm, bound in zip(
        weight_norms.weight_norms(between), largest, strict=True
    ):
      assert norm.kernel <= bound.kernel * (1 + 1e-12)
      assert norm.bias <= bound.bias * (1 + 1e-12)


def test_a_kernel_norm_is_its_largest_singular_value():
  rng = np.random.default_rng(4)
  for shape in ((7, 3), (3, 7), (5, 5)):
    kernel = rng.normal(size=shape) * 1e-170  # squares would underflow
    (norm,) = weight_norms.weight_norms([ffn.Layer(kernel, None, True)])
    exact = np.linalg.svd(kernel, compute_uv=False)[0]
    assert norm.kernel == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(
    'call, sentence',
    [
        (
            lambda: bounds.ffn_bounds(_ONE, 'relu', 1.0),
            'second derivative at 0',
        ),
        (lambda: bounds.ffn_bounds(_ONE, 'mish', 1.0), 'Unknown activation'),
        (lambda: bounds.ffn_bounds(_ONE, 'tanh', -1.0), 'input norm'),
        (lambda: bounds.ffn_bounds(_ONE, 'tanh', math.nan), 'input norm'),
        (lambda: bounds.ffn_bounds([], 'tanh', 1.0), 'at least one layer'),
        (
            lambda: bounds.ffn_bounds(_ONE + _ONE, 'tanh', 1.0),
            r'layer 1 must have shape \[3, n_out\]',
        ),
        (
            lambda: bounds.ffn_bounds(
                [ffn.Layer(np.ones((2, 3)), np.ones(2), True)], 'tanh', 1.0
            ),
            'bias of layer 0',
        ),
        (
            lambda: bounds.ffn_bounds(
                [ffn.Layer(np.full((2, 3), np.nan), None, True)], 'tanh', 1.0
            ),
            'not all finite',
        ),
        (
            lambda: bounds.classical_bounds([1.0], 'sigmoid', 1.0),
            r'phi\(0\) = 0',
        ),
        (lambda: bounds.classical_bounds([-1.0], 'tanh', 1.0), 'radius'),
        (
            lambda: bounds.classical_bounds([], 'tanh', 1.0),
            'at least one layer',
        ),
        (
            lambda: bounds.correction_bound(_UNIT, {}, num_epochs=2),
            'scaling is empty',
        ),
        (
            lambda: bounds.correction_bound(
                _UNIT, {'a': math.nan}, num_epochs=2
            ),
            "coefficient of 'a'",
        ),
        (
            lambda: bounds.correction_bound(_UNIT, {'a': 1.0}, num_epochs=0),
            'num_epochs must be at least 1, but is 0',
        ),
        (
            lambda: bounds.gap_bound(
                _UNIT, {'a': 1.0}, learning_rate=-0.1, num_epochs=2
            ),
            'learning rate must be at least 0, but is -0.1',
        ),
        (
            lambda: bounds.remainder_bound(
                {'a': 1.0}, {'b': [0.0]}, growth=1.0, learning_rate=0.1
            ),
            'same tasks',
        ),
        (lambda: weight_norms.largest([]), 'at least one point'),
        (
            lambda: weight_norms.largest(
                [
                    weight_norms.weight_norms(_ONE),
                    weight_norms.weight_norms(
                        [ffn.Layer(np.ones((2, 4)), None, True)]
                    ),
                ]
            ),
            'one network',
        ),
    ],
)
def test_a_wrong_call_gets_one_sentence(call, sentence):
  with pytest.raises(ValueError, match=sentence):
    call()


_ONE = (ffn.Layer(np.ones((2, 3)), None, True),)
_UNIT = bounds.Bounds(1.0, 1.0)
