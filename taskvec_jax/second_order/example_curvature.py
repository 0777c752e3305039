"""Curvature of one example's loss in a feed-forward network, as matrices.

For cross-entropy on logits `z_L`, with `M_l = dz_L/dz_l`, `c_l = M_l' res`,
`S = diag(p) - p p' = F F'`, and `P_{l,j} = |dz_l/dz_j|_2 hh_{j-1}`, the
curvature of the logits in layer norms u is at most `u' Q u`,

  Q = sum_{l>=2} |c_l| |phi'(z_{l-1})|_inf (e_l P_{l-1}' + P_{l-1} e_l')
      + |(W_l' c_l) * phi''(z_{l-1})|_inf P_{l-1} P_{l-1}',              (4.9)

and the Gauss-Newton part is made of `F' M_l` and of `[h_{l-1}; 1]`, both given
here exactly. No eigenvalues are taken on the device: `local_bounds` does that
on the host in float64. (jaxlib 0.10 on two CPU threads can also deadlock when
two batched eigendecompositions of one program run at once.)

Shapes: L layers, C classes, n_l units. Cost an example: one pass forward, C
passes back, and for L >= 3 products of Jacobians, about 12 n^3 operations a
pair of hidden layers.

Source: derived in docs/theory.md, section 4.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from taskvec_jax.models import ffn
from taskvec_jax.typing import Array

# lambda_max(G) <= trace(G^p)^(1/p): p = 2^6, at most n^(1/128) above |dz/dz|_2.
_NUM_SQUARINGS = 6


class ExampleCurvature(NamedTuple):
  """What one example contributes; every field gains a leading axis N."""

  gradient: Array  # |grad|
  widths: Array  # hh_{l-1}, 0 for a frozen layer, [L]
  curvature: Array  # Q, [L, L]
  blocks: Array  # F' M_l M_l' F, [L, C, C], with F F' = S
  hidden: tuple[Array, ...]  # [h_{l-1}; 1], [n_{l-1} + 1], for l = 1..L
  factors: tuple[Array, ...]  # F' M_l, [C, n_l], for l = 1..L


@functools.partial(jax.jit, static_argnames=('activation', 'trained'))
def example_curvatures(
    kernels: tuple[Array, ...],
    biases: tuple[Array | None, ...],
    kernel_norms: Array,
    inputs: Array,
    labels: Array,
    *,
    activation: str,
    trained: tuple[bool, ...],
) -> ExampleCurvature:
  """Returns what each of N examples contributes; fields gain a leading axis N.

  Args:
    kernels: `[n_{l-1}, n_l]`, first layer first, the head last.
    biases: `[n_l]`, or None for a layer that has none.
    kernel_norms: `|W_l|_2`, `[L]`.
    inputs: `[N, n_0]`.
    labels: `[N]`, integers below C.
    activation: a name in `models.ffn.ACTIVATIONS`.
    trained: which layers have directions of their own.
  """
  one = functools.partial(
      _one_example, kernels, biases, kernel_norms, activation, trained
  )
  # Reduced precision on an accelerator would break a bound by 1e-3.
  with jax.default_matmul_precision('highest'):
    return jax.vmap(one)(inputs, labels)


def _one_example(
    kernels: tuple[Array, ...],
    biases: tuple[Array | None, ...],
    kernel_norms: Array,
    activation: str,
    trained: tuple[bool, ...],
    x: Array,
    label: Array,
) -> ExampleCurvature:
  num_layers = len(kernels)
  hidden, slopes, curvatures = [], [], []
  h = x
  for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
    hidden.append(h if bias is None else jnp.append(h, 1))
    z = h @ kernel if bias is None else h @ kernel + bias
    if index + 1 < num_layers:
      h, slope, curvature = _derivatives(ffn.ACTIVATIONS[activation], z)
      slopes.append(slope)  # phi'(z_l)
      curvatures.append(curvature)  # phi''(z_l)

  p = jax.nn.softmax(z)
  root = jnp.sqrt(p)
  factor = jnp.diag(root) - jnp.outer(root, p)  # F', and F F' = S
  residual = p - jax.nn.one_hot(label, z.shape[0], dtype=z.dtype)
  factors, cotangents = [factor], [residual]  # F' M_l and c_l, last layer first
  for kernel, slope in zip(kernels[:0:-1], slopes[::-1], strict=True):
    factors.append(factors[-1] @ kernel.T * slope)
    cotangents.append(kernel @ cotangents[-1] * slope)
  factors, cotangents = factors[::-1], cotangents[::-1]

  widths = jnp.stack([_norm(h) for h in hidden]) * jnp.array(trained, x.dtype)
  cotangent_norms = jnp.stack([_norm(c) for c in cotangents])
  curvature = jnp.zeros((num_layers, num_layers), x.dtype)
  for layer in range(1, num_layers):
    reach = widths * _jacobian_norms(kernels, slopes, kernel_norms, layer - 1)
    direction = jnp.zeros(num_layers, x.dtype).at[layer].set(trained[layer])
    cross = jnp.outer(direction, reach)
    bend = jnp.abs(
        (kernels[layer] @ cotangents[layer]) * curvatures[layer - 1]
    ).max()
    curvature += cotangent_norms[layer] * jnp.abs(slopes[layer - 1]).max() * (
        cross + cross.T
    ) + bend * jnp.outer(reach, reach)
  return ExampleCurvature(
      gradient=_norm(widths * cotangent_norms),
      widths=widths,
      curvature=curvature,
      blocks=jnp.stack([f @ f.T for f in factors]),
      hidden=tuple(hidden),
      factors=tuple(factors),
  )


def _derivatives(
    phi: Callable[[Array], Array], z: Array
) -> tuple[Array, Array, Array]:
  """Returns `phi(z)`, `phi'(z)` and `phi''(z)`, elementwise."""
  ones = jnp.ones_like(z)

  def first(z):
    return jax.jvp(phi, (z,), (ones,))

  (value, slope), (_, curvature) = jax.jvp(first, (z,), (ones,))
  return value, slope, curvature


def _jacobian_norms(
    kernels: tuple[Array, ...],
    slopes: Sequence[Array],
    kernel_norms: Array,
    layer: int,
) -> Array:
  """Returns bounds of `|dz_layer / dz_j|_2` `[L]`, zero for later layers j."""
  norms = [jnp.ones_like(kernel_norms[0])]  # j = layer
  jacobian = None
  product = norms[0]  # of norms of the factors: keeps R2 below R1 in any case
  for j in range(layer - 1, -1, -1):
    step = kernels[j + 1].T * slopes[j]  # dz_{j+1} / dz_j, [n_{j+1}, n_j]
    jacobian = step if jacobian is None else jacobian @ step
    product = product * kernel_norms[j + 1] * jnp.abs(slopes[j]).max()
    norms.append(jnp.minimum(_schatten_norm(jacobian), product))
  norms = jnp.stack(norms[::-1])
  return jnp.pad(norms, (0, len(kernels) - layer - 1))


def _schatten_norm(matrix: Array) -> Array:
  """Returns `trace(G^64)^(1/128)`, G the Gram matrix: at least `|matrix|_2`.

  At most n^(1/128) above it, 4 % for n = 128 and only if all singular values
  are equal; matrix products are much quicker here than batched eigenvalues.
  """
  if matrix.shape[0] > matrix.shape[1]:
    matrix = matrix.T
  gram = matrix @ matrix.T
  trace = jnp.trace(gram)
  result = trace
  for squaring in range(_NUM_SQUARINGS):
    gram = gram / jnp.where(trace > 0, trace, 1)
    gram = gram @ gram
    trace = jnp.trace(gram)
    result = result * trace ** (0.5 ** (squaring + 1))
  return jnp.sqrt(result)


def _norm(vector: Array) -> Array:
  return jnp.sqrt(jnp.sum(vector**2))
