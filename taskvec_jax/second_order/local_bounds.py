"""Local bounds of |H|_2 for feed-forward networks: rungs R2 and R2K.

At the data and the parameters at hand, example by example: with the true
logits' `res = p - onehot` and `S = diag(p) - p p'`, `M_l = dz_L/dz_l`, and
`hh_l = |[h_l; 1]|` (`|h_l|` for a layer without bias). The Hessian of one
example is a positive semidefinite Gauss-Newton part plus the curvature of the
logits, at most `u' Q u` in layer norms u, Q by (4.9) in `example_curvature`.

R2 bounds each example by itself and then takes the mean:

  |H_x|_2 <= min( lambda_max(sum_l hh_{l-1}^2 S^(1/2) M_l M_l' S^(1/2))
                    + lambda_max(Q),   lambda_max(K + Q) ),             (4.10)
  K_lj = hh_{l-1} hh_{j-1} |M_l' S M_j|_2.

R2K takes means before norms, using that a layer's Gauss-Newton block is a mean
of Kronecker products, `mean (M_l' S M_l) (x) ([h_{l-1};1] [h_{l-1};1]')`:

  kmin(A, h) = min( lambda_max mean |A|_2 h h', lambda_max mean |h|^2 A ),
  lambda_max(GN) <= sum_l k_l,  k_l = kmin(M_l' S M_l, [h_{l-1}; 1]),
  |H|_2 <= lambda_max( a a' + mean Q ),  a_l = sqrt(k_l).               (4.11)

Both are certified, up to rounding, at these parameters and for the mean loss of
exactly these examples; neither is always the smaller. A frozen layer has no
direction: its rows and columns are 0. What R2K certifies of the Gauss-Newton
part alone is `gauss_newton`; it says nothing without the curvature part.

Cost: that of `example_curvature` an example, eigenvalues of `[C, C]` matrices,
and of one smaller Gram matrix, at most min(N, n_l) wide, a layer. Memory: the
Jacobians of `chunk_size` examples, and N sum_l n_l float64 on the host, where
all means are taken.

Source: derived in docs/theory.md, section 4.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.models import ffn
from taskvec_jax.second_order import example_curvature
from taskvec_jax.second_order import weight_norms as weight_norms_lib
from taskvec_jax.typing import Array


class LocalBounds(NamedTuple):
  """Bounds of one task's mean loss at one point."""

  gradient: float  # the mean over examples of |grad|, at least |mean grad|
  hessian_r2: float  # (4.10), at least |H|_2
  hessian_r2k: float  # (4.11), at least |H|_2
  gauss_newton: float  # sum_l k_l, at least lambda_max of the Gauss-Newton part
  negative_curvature: (
      float  # lambda_max(mean Q): lambda_min(H) is above minus it
  )


def local_bounds(
    layers: Sequence[ffn.Layer],
    activation: str,
    inputs: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    chunk_size: int = 64,
) -> LocalBounds:
  """Returns R2's and R2K's bounds of `|H|_2` at these parameters and data.

  Args:
    layers: (kernel `[n_in, n_out]`, bias `[n_out]` or None, trained) triples,
      first layer first, the head last; they give the dtype.
    activation: a name in `models.ffn.ACTIVATIONS`.
    inputs: `[N, d]`, flattened as the network reads them.
    labels: `[N]`, integers below C.
    chunk_size: how many examples' Jacobians are in memory at once.

  Raises:
    ValueError: for ReLU or an unknown activation, or shapes that do not fit.
  """
  ffn.check_activation(activation)
  norms = weight_norms_lib.weight_norms(layers)
  inputs, labels = np.asarray(inputs), np.asarray(labels)
  _check_data(inputs, labels, layers, chunk_size)
  kernels = tuple(jnp.asarray(layer[0]) for layer in layers)
  curvatures_of = functools.partial(
      example_curvature.example_curvatures,
      kernels,
      tuple(layer[1] for layer in layers),
      jnp.asarray([norm.kernel for norm in norms], kernels[0].dtype),
      activation=activation,
      trained=tuple(norm.trained for norm in norms),
  )
  inputs = inputs.astype(kernels[0].dtype)
  every, sums = _in_chunks(curvatures_of, inputs, labels, chunk_size)
  curvature = np.asarray(every.curvature).mean(0)
  block_norms = _largest(every.blocks)  # |M_l' S M_l|_2, [N, L]
  block_bounds = np.zeros(len(norms))  # k_l
  for index, norm in enumerate(norms):
    if norm.trained:
      hidden = np.asarray(every.hidden[index])
      block_bounds[index] = _kronecker_bound(
          block_norms[:, index], hidden, sums[index]
      )
  roots = np.sqrt(block_bounds)
  return LocalBounds(
      gradient=float(every.gradient.mean()),
      hessian_r2=float(_example_bounds(every).mean()),
      hessian_r2k=float(_largest(np.outer(roots, roots) + curvature)),
      gauss_newton=float(block_bounds.sum()),
      negative_curvature=float(_largest(curvature)),
  )


def _in_chunks(
    curvatures_of: Callable[..., example_curvature.ExampleCurvature],
    inputs: np.ndarray,
    labels: np.ndarray,
    chunk_size: int,
) -> tuple[example_curvature.ExampleCurvature, list[np.ndarray]]:
  """Returns all examples in float64, and `sum_x |h|^2 M_l' S M_l` a layer.

  The second takes the place of the factors, which would be N C sum_l n_l
  numbers.
  """
  num_examples = len(inputs)
  # Chunks as equal as they can be; the last is padded with its first example.
  size = math.ceil(num_examples / math.ceil(num_examples / chunk_size))
  chunks, sums = [], []
  for first in range(0, num_examples, size):
    num_real = min(size, num_examples - first)
    chosen = first + np.where(np.arange(size) < num_real, np.arange(size), 0)
    chunk = jax.tree.map(
        lambda x, n=num_real: np.asarray(x, np.float64)[:n],
        curvatures_of(inputs[chosen], labels[chosen]),
    )
    sums.append(
        [
            _gram(np.linalg.norm(hidden, axis=-1)[:, None, None] * factors)
            for hidden, factors in zip(chunk.hidden, chunk.factors, strict=True)
        ]
    )
    chunks.append(chunk._replace(factors=()))
  every = jax.tree.map(lambda *x: np.concatenate(x), *chunks)
  return every, [np.sum(layer, axis=0) for layer in zip(*sums, strict=True)]


def _gram(factors: np.ndarray) -> np.ndarray:
  """Returns `sum_x F_x' F_x` `[n, n]` of `[N, C, n]`."""
  rows = factors.reshape(-1, factors.shape[-1])
  return rows.T @ rows


def _example_bounds(every: example_curvature.ExampleCurvature) -> np.ndarray:
  """Returns (4.10) of each example, `[N]`."""
  gauss_newton = np.einsum('nl,nlcd->ncd', every.widths**2, every.blocks)
  joint = _block_products(every.blocks) * (
      every.widths[:, :, None] * every.widths[:, None]
  )
  return np.minimum(
      _largest(gauss_newton) + _largest(every.curvature),
      _largest(joint + every.curvature),
  )


def _kronecker_bound(
    norms: np.ndarray, hidden: np.ndarray, total: np.ndarray
) -> float:
  """Returns `kmin` from `|A_x|` `[N]`, `h_x` `[N, n]` and `sum_x |h|^2 A`."""
  weighted = np.sqrt(np.maximum(norms, 0.0))[:, None] * hidden
  if weighted.shape[0] > weighted.shape[1]:  # the smaller Gram matrix of two
    weighted = weighted.T
  largest = min(_largest(weighted @ weighted.T), _largest(total))
  return float(largest) / len(norms)


def _block_products(blocks: Array | np.ndarray) -> np.ndarray:
  """Returns `|M_l' S M_j|_2` `[N, L, L]` from `blocks` `[N, L, C, C]`."""
  values, vectors = np.linalg.eigh(blocks)
  roots = np.einsum(
      'nlcx,nlx,nldx->nlcd', vectors, np.sqrt(np.maximum(values, 0)), vectors
  )
  # |B_l' B_j|^2 = lambda_max(G_l^(1/2) G_j G_l^(1/2)) for G_l = B_l' B_l.
  left = roots[:, :, None]
  return np.sqrt(_largest(left @ blocks[:, None] @ left))


def _largest(matrices: Array | np.ndarray) -> np.ndarray:
  """Returns the largest eigenvalues `[...]` of `[..., n, n]`, at least 0."""
  return np.maximum(np.linalg.eigvalsh(matrices)[..., -1], 0.0)


def _check_data(
    inputs: np.ndarray,
    labels: np.ndarray,
    layers: Sequence[ffn.Layer],
    chunk_size: int,
) -> None:
  num_inputs, num_classes = layers[0][0].shape[0], layers[-1][0].shape[1]
  if inputs.ndim != 2 or inputs.shape[1] != num_inputs or not len(inputs):
    raise ValueError(
        f'inputs must have shape [N, {num_inputs}] with N at least 1, but have'
        f' {inputs.shape}.'
    )
  if labels.shape != inputs.shape[:1]:
    raise ValueError(
        f'labels must have shape {inputs.shape[:1]}, one for each input, but'
        f' have {labels.shape}.'
    )
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
        f'labels must lie in 0..{num_classes - 1}, but reach from'
        f' {labels.min()} to {labels.max()}.'
    )
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be at least 1, but is {chunk_size}.')
