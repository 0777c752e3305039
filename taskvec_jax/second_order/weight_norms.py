"""What the bounds need to know of a network: norms of layers, slopes of phi.

A bound of docs/theory.md section 4 reads a feed-forward network through two
numbers a layer, `s_l = |W_l|_2` and `|b_l|`, and through six numbers of its
activation. Both norms are convex in the weights: on a segment of parameters
they are at most the larger of their values at the two ends. So a bound that is
to hold at several points, or on the segments between them, is the bound of the
elementwise largest norms (`largest`).

Everything is float64 NumPy on the host. Cost: one eigenvalue problem of the
smaller side of each kernel.

Source: derived in docs/theory.md, section 4.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.models import ffn


class Slopes(NamedTuple):
  """Suprema of an activation phi over the real line, rounded up."""

  beta_1: float  # sup |phi'|
  beta_2: float  # sup |phi''|
  gamma: float  # sup |phi(z) - phi(0)| / |z|, at most beta_1
  supremum: float  # sup |phi|, infinite where phi is not bounded
  at_zero: float  # |phi(0)|


# The names are those of models/ffn.py. Where the supremum has no closed form it
# is the tenth decimal, rounded up: max of sigma(z) + z sigma'(z) at z = 2.3994
# for SiLU, of Phi(z) + z Phi'(z) at z = sqrt(2) for GELU, and of the slope of
# GELU's tanh form at z = 1.4185.
_SILU_SLOPE = 1.0998393202
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
SLOPES: dict[str, Slopes] = {
    'identity': Slopes(1.0, 0.0, 1.0, math.inf, 0.0),
    'tanh': Slopes(1.0, 4 / (3 * math.sqrt(3)), 1.0, 1.0, 0.0),
    'sigmoid': Slopes(0.25, 1 / (6 * math.sqrt(3)), 0.25, 1.0, 0.5),
    'softplus': Slopes(1.0, 0.25, 1.0, math.inf, math.log(2)),
    'gelu': Slopes(1.1289041452, _SQRT_2_OVER_PI, 1.0, math.inf, 0.0),
    'silu': Slopes(_SILU_SLOPE, 0.5, 1.0, math.inf, 0.0),
    'quick_gelu': Slopes(_SILU_SLOPE, 0.851, 1.0, math.inf, 0.0),
    'gelu_tanh': Slopes(1.1289930687, _SQRT_2_OVER_PI, 1.0, math.inf, 0.0),
}


class WeightNorms(NamedTuple):
  """The norms of one layer, at one point or the largest over several."""

  kernel: float  # |W_l|_2, the largest singular value
  bias: float | None  # |b_l|, None for a layer that has no bias
  width: int  # n_l, the number of outputs
  trained: bool  # False for a frozen head


def slopes(activation: str) -> Slopes:
  """Returns the constants of `activation`.

  Raises:
    ValueError: for ReLU, which has no second derivative at 0, and for a name
      that models/ffn.py does not know.
  """
  ffn.check_activation(activation)
  return SLOPES[activation]


def weight_norms(layers: Sequence[ffn.Layer]) -> tuple[WeightNorms, ...]:
  """Returns the norms of each layer, in float64.

  Args:
    layers: (kernel `[n_in, n_out]`, bias `[n_out]` or None, trained) triples,
      first layer first, the head last.

  Raises:
    ValueError: if there are no layers, if they do not fit each other, or if a
      parameter is not finite.
  """
  if not layers:
    raise ValueError('The bounds need at least one layer, but got none.')
  norms = []
  num_inputs = None
  for index, (kernel, bias, trained) in enumerate(layers):
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or num_inputs not in (None, kernel.shape[0]):
      raise ValueError(
          f'The kernel of layer {index} must have shape'
          f' [{num_inputs or "n_in"}, n_out], but has {kernel.shape}.'
      )
    num_inputs = kernel.shape[1]
    if bias is not None and np.shape(bias) != (num_inputs,):
      raise ValueError(
          f'The bias of layer {index} must have shape ({num_inputs},), but has'
          f' {np.shape(bias)}.'
      )
    bias_norm = (
        None
        if bias is None
        else float(np.linalg.norm(np.asarray(bias, np.float64)))
    )
    if not (np.isfinite(kernel).all() and np.isfinite(bias_norm or 0.0)):
      raise ValueError(f'The parameters of layer {index} are not all finite.')
    norms.append(
        WeightNorms(_spectral_norm(kernel), bias_norm, num_inputs, trained)
    )
  return tuple(norms)


def largest(
    norms_at_points: Iterable[Sequence[WeightNorms]],
) -> tuple[WeightNorms, ...]:
  """Returns the elementwise largest norms over the points of a path.

  By convexity they hold on every segment between those points, too.

  Args:
    norms_at_points: the `weight_norms` of one network at several parameters.

  Raises:
    ValueError: if there are no points, or they are not of one network.
  """
  points = list(norms_at_points)
  if not points:
    raise ValueError('The largest norms need at least one point, but got none.')
  structures = {
      tuple((norm.bias is None, norm.width, norm.trained) for norm in point)
      for point in points
  }
  if len(structures) > 1:
    raise ValueError(
        'The largest norms are over points of one network, but these differ in'
        f' their layers: {sorted(structures)}.'
    )
  merged = []
  for same_layer in zip(*points, strict=True):
    biases = [norm.bias for norm in same_layer if norm.bias is not None]
    merged.append(
        same_layer[0]._replace(
            kernel=max(norm.kernel for norm in same_layer),
            bias=max(biases) if biases else None,
        )
    )
  return tuple(merged)


def _spectral_norm(kernel: np.ndarray) -> float:
  """Returns `|kernel|_2`; the smaller Gram matrix is quicker than an SVD."""
  scale = np.abs(kernel).max(initial=0.0)
  if scale == 0.0:
    return 0.0
  kernel = kernel / scale  # squares of the entries neither overflow nor vanish
  if kernel.shape[0] > kernel.shape[1]:
    kernel = kernel.T
  return float(scale * math.sqrt(np.linalg.eigvalsh(kernel @ kernel.T)[-1]))
