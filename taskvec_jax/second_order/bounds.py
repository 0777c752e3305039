"""How large the gap can be: certificates from norms alone.

Let `|grad L_t| <= G`, `|H_t|_2 <= H`, and
`kappa_t = sum_{s != t} |alpha_s| + |alpha_t - 1|`; then `|r_t| <= kappa_t G`.
With learning rate `eta` and k epochs,

  |C_k|               <= sum_t |alpha_t| kappa_t (k(k-1)/2) G H,         (4.1)
  |theta_TA-theta_MT| <= eta^2 sum_t |alpha_t| kappa_t G H
                         sum_{e=1}^{k-1} sum_{m<e} (1 + eta H)^m,        (4.2)

which is `sum_t |alpha_t| kappa_t G (((1+eta H)^k - 1)/H - eta k)` written
without cancellation; and, with every eigenvalue of `H_t` in `[-mu, H]`, the
same with `q = max(1 + eta mu, eta H - 1)` in place of `1 + eta H` and
`max(H, mu)` in place of the factor H (4.6). For a feed-forward network under
cross-entropy the norms of its layers give G, H and mu: with
`hh = sqrt(h^2 + 1)` (`hh = h` for a layer without bias) and `e_l` the direction
of layer l (zero for a frozen layer),

  A_l = s_l beta_1 A_{l-1} + hh_{l-1} e_l,
  Q_l = beta_1 (e_l A_{l-1}' + A_{l-1} e_l')
        + s_l (beta_1 Q_{l-1} + beta_2 A_{l-1} A_{l-1}'),                (4.3)
  G = sqrt(2) |A_L|,   H = lambda_max(A_L A_L' / 2 + sqrt(2) Q_L).       (4.4)

Everything is float64 NumPy on the host and takes microseconds once the norms
are there; a bound that overflows is infinite, which is true and says enough.

Source: derived in docs/theory.md, section 4; the setting is Zhou et al., "On
Task Vectors and Gradients", arXiv:2508.16082.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.models import ffn
from taskvec_jax.second_order import weight_norms as weight_norms_lib


class Bounds(NamedTuple):
  """Bounds of one loss: each is a norm over all trained parameters."""

  gradient: float  # G >= |grad L_t|
  hessian: float  # H >= |H_t|_2


def ffn_bounds(
    layers: Sequence[ffn.Layer], activation: str, input_norm: float
) -> Bounds:
  """Returns (4.4): G and H of any mean of cross-entropies over such inputs.

  Args:
    layers: (kernel `[n_in, n_out]`, bias `[n_out]` or None, trained) triples,
      first layer first, a frozen head last; no activation after the last.
    activation: a name in `models.ffn.ACTIVATIONS`.
    input_norm: B_x, the largest Euclidean norm of an input.

  Raises:
    ValueError: for ReLU or an unknown activation, layers that do not fit each
      other, or an input norm that is negative or not finite.
  """
  norms = weight_norms_lib.weight_norms(layers)
  return bounds_from_norms(norms, activation, input_norm)


def bounds_from_norms(
    norms: Sequence[weight_norms_lib.WeightNorms],
    activation: str,
    input_norm: float,
) -> Bounds:
  """Returns (4.4) from norms of layers, as `ffn_bounds` does from layers.

  With `weight_norms.largest` over several points, the bounds hold at each of
  them and on the segments between them.
  """
  first, second = _logit_derivatives(norms, activation, input_norm)
  with np.errstate(over='ignore', invalid='ignore'):
    curvature = np.outer(first, first) / 2 + math.sqrt(2) * second
    gradient = math.sqrt(2) * float(np.linalg.norm(first))
  return Bounds(gradient, _largest_eigenvalue(curvature))


def negative_curvature(
    layers: Sequence[ffn.Layer], activation: str, input_norm: float
) -> float:
  """Returns mu of (4.6): no eigenvalue of the Hessian is below -mu.

  The Gauss-Newton part of the Hessian is positive semidefinite, so only the
  curvature of the logits counts: `mu = sqrt(2) lambda_max(Q_L)`, at most the H
  of `ffn_bounds`. Arguments and errors are those of `ffn_bounds`.
  """
  norms = weight_norms_lib.weight_norms(layers)
  return negative_curvature_from_norms(norms, activation, input_norm)


def negative_curvature_from_norms(
    norms: Sequence[weight_norms_lib.WeightNorms],
    activation: str,
    input_norm: float,
) -> float:
  """Returns mu of (4.6) from norms of layers."""
  _, second = _logit_derivatives(norms, activation, input_norm)
  return math.sqrt(2) * _largest_eigenvalue(second)


def classical_bounds(
    radii: Sequence[float], activation: str, input_norm: float
) -> Bounds:
  """Returns (4.5), a closed product over norm balls `|W_l|_2 <= B_l`.

    D_l = beta_1^(l-1) B_x (sum_{i<=l} prod_{j<=l, j != i} B_j^2)^(1/2),
    E_l = beta_1 D_{l-1} + B_l (beta_2 D_{l-1}^2 + beta_1 E_{l-1}),  E_1 = 0,
    G = sqrt(2) D_L,   H = D_L^2 / 2 + sqrt(2) E_L.

  It is for networks without biases and never below (4.4) with `s_l = B_l`.

  Args:
    radii: B_l, first layer first; every layer counts as trained.
    activation: a name in `models.ffn.ACTIVATIONS` with `phi(0) = 0`.
    input_norm: B_x, the largest Euclidean norm of an input.

  Raises:
    ValueError: for an activation that is unknown, ReLU, or not 0 at 0.
  """
  slopes = weight_norms_lib.slopes(activation)
  if slopes.at_zero:
    raise ValueError(
        f"Activation '{activation}' has |phi(0)| = {slopes.at_zero:.3g}, but"
        ' (4.5) needs phi(0) = 0; use classical_bounds_from_norms.'
    )
  return _classical(radii, slopes.beta_1, slopes.beta_2, input_norm)


def classical_bounds_from_norms(
    norms: Sequence[weight_norms_lib.WeightNorms],
    activation: str,
    input_norm: float,
) -> Bounds:
  """Returns (4.5) for any network of `models.ffn`, biases and phi(0) included.

  Without biases and with `phi(0) = 0` it is `classical_bounds` at
  `B_l = |W_l|_2`. Otherwise every layer carries a unit that is always 1 and
  that feeds the biases: then `B_l` is the norm of `[[s_l, c_l], [0, 1]]` with
  `c_l = |b_l| + |phi(0)| sqrt(n_l) / beta_1`, the slope is at least that of the
  constant unit, 1, and the input has norm `sqrt(B_x^2 + 1)`. Never below (4.4).
  """
  slopes = weight_norms_lib.slopes(activation)
  if not slopes.at_zero and all(norm.bias is None for norm in norms):
    return classical_bounds(
        [norm.kernel for norm in norms], activation, input_norm
    )
  radii = []
  for norm in norms:
    constant = slopes.at_zero * math.sqrt(norm.width) / slopes.beta_1
    column = (norm.bias or 0.0) + constant
    augmented = np.array([[norm.kernel, column], [0.0, 1.0]])
    radii.append(float(np.linalg.norm(augmented, 2)))
  return _classical(
      radii, max(slopes.beta_1, 1.0), slopes.beta_2, math.hypot(input_norm, 1.0)
  )


def correction_bound(
    bounds: Bounds, scaling: Mapping[str, float], *, num_epochs: int
) -> float:
  """Returns (4.1), a bound of `|C_k|`.

  Args:
    bounds: G of every task at `theta_MT^(0..k-2)`, H at `theta_MT^(1..k-1)`.
    scaling: task -> alpha_t.
    num_epochs: k.

  Raises:
    ValueError: for an empty scaling or numbers that make no sense.
  """
  _check(bounds, scaling, num_epochs)
  pairs = num_epochs * (num_epochs - 1) / 2
  return _product(_weight(scaling), pairs, bounds.gradient, bounds.hessian)


def gap_bound(
    bounds: Bounds,
    scaling: Mapping[str, float],
    *,
    learning_rate: float,
    num_epochs: int,
) -> float:
  """Returns (4.2), a bound of `|theta_TA^(k) - theta_MT^(k)|` at any step size.

  Args:
    bounds: G of every task at `theta_MT^(0..k-2)`; H of each task on its own
      segments from `theta_MT^(e)` to `theta_t^(e)`, e = 1..k-1.
    scaling: task -> alpha_t.
    learning_rate: eta, the step size of gradient descent.
    num_epochs: k.

  Raises:
    ValueError: for an empty scaling or numbers that make no sense.
  """
  # With mu = H the largest growth factor is 1 + eta H.
  return signed_gap_bound(
      bounds,
      scaling,
      negative_curvature=bounds.hessian,
      learning_rate=learning_rate,
      num_epochs=num_epochs,
  )


def signed_gap_bound(
    bounds: Bounds,
    scaling: Mapping[str, float],
    *,
    negative_curvature: float,
    learning_rate: float,
    num_epochs: int,
) -> float:
  """Returns (4.6), `gap_bound` with the sign of the curvature used.

  Args:
    bounds: as for `gap_bound`; H bounds the largest eigenvalue.
    scaling: task -> alpha_t.
    negative_curvature: mu; no eigenvalue is below -mu on the same segments.
    learning_rate: eta, the step size of gradient descent.
    num_epochs: k.

  Raises:
    ValueError: for an empty scaling or numbers that make no sense.
  """
  _check(bounds, scaling, num_epochs)
  _check_not_negative('The negative curvature', negative_curvature)
  _check_not_negative('The learning rate', learning_rate)
  growth = max(
      1 + _product(learning_rate, negative_curvature),
      _product(learning_rate, bounds.hessian) - 1,
  )
  powers = 1.0  # sum_{m<e} growth^m at e = 1
  total = 0.0
  for _ in range(1, num_epochs):
    total += powers
    powers = 1 + growth * powers
  return _product(
      _weight(scaling),
      learning_rate,
      learning_rate,
      bounds.gradient,
      max(bounds.hessian, negative_curvature),
      total,
  )


def remainder_bound(
    scaling: Mapping[str, float],
    linearisation_errors: Mapping[str, Sequence[float]],
    *,
    growth: float,
    learning_rate: float,
) -> float:
  """Returns a bound of what linear response (3.7) leaves of the gap, (4.7).

  With `rho_m = grad L_t(theta_MT^(m) + D_m) - g_t^(m) - H_t^(m) D_m`, what one
  gradient more than (3.7) measures,

    |gap - Delta_k| <= eta sum_t |alpha_t| sum_{m<k} q^(k-1-m) |rho_m|.

  Args:
    scaling: task -> alpha_t.
    linearisation_errors: task -> `|rho_m|` for m = 0..k-1 (the first is 0).
    growth: q, at least `|I - eta H_t|_2` on the segments from
      `theta_MT^(m) + D_m` to `theta_t^(m)`: a certificate if that is certified,
      an estimate if q is sampled.
    learning_rate: eta.

  Raises:
    ValueError: if the tasks differ, or a number makes no sense.
  """
  if not scaling or set(scaling) != set(linearisation_errors):
    raise ValueError(
        f'The coefficients name {sorted(scaling)}, but the errors name'
        f' {sorted(linearisation_errors)}; they must name the same tasks.'
    )
  _check_not_negative('The growth factor', growth)
  _check_not_negative('The learning rate', learning_rate)
  total = 0.0
  for task, alpha in scaling.items():
    error = 0.0
    for rho in linearisation_errors[task]:
      error = _product(growth, error) + rho
    total += _product(abs(alpha), error)
  return _product(learning_rate, total)


def _logit_derivatives(
    norms: Sequence[weight_norms_lib.WeightNorms],
    activation: str,
    input_norm: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `A_L` `[L]` and `Q_L` `[L, L]` of (4.3)."""
  slopes = weight_norms_lib.slopes(activation)
  _check_not_negative('The input norm', input_norm)
  num_layers = len(norms)
  first = np.zeros(num_layers)
  second = np.zeros((num_layers, num_layers))
  hidden = float(input_norm)  # h_{l-1}
  with np.errstate(over='ignore', invalid='ignore'):
    for index, norm in enumerate(norms):
      direction = np.zeros(num_layers)
      direction[index] = norm.trained
      cross = np.outer(direction, first)
      second = slopes.beta_1 * (cross + cross.T) + norm.kernel * (
          slopes.beta_1 * second + slopes.beta_2 * np.outer(first, first)
      )
      width = hidden if norm.bias is None else math.hypot(hidden, 1.0)
      first = norm.kernel * slopes.beta_1 * first + width * direction
      # gamma and not beta_1: a chord of phi from 0, not a tangent.
      root = math.sqrt(norm.width)
      affine = norm.kernel * hidden + (norm.bias or 0.0)
      hidden = min(
          slopes.gamma * affine + slopes.at_zero * root, slopes.supremum * root
      )
  # An overflow times the 0 of another layer's direction: still no bound.
  first[np.isnan(first)] = math.inf
  second[np.isnan(second)] = math.inf
  return first, second


def _classical(
    radii: Sequence[float], beta_1: float, beta_2: float, input_norm: float
) -> Bounds:
  """Returns (4.5) from the radii and the slopes."""
  _check_not_negative('The input norm', input_norm)
  if not radii:
    raise ValueError('The bounds need at least one layer, but got none.')
  for radius in radii:
    _check_not_negative('A radius', radius)
  squares = np.asarray(radii, np.float64) ** 2
  previous, second = 0.0, 0.0  # D_{l-1} and E_{l-1}
  with np.errstate(over='ignore', invalid='ignore'):
    for index, radius in enumerate(radii):
      if index:
        second = beta_1 * previous + radius * (
            beta_2 * previous * previous + beta_1 * second
        )
      first = squares[: index + 1]
      others = sum(np.prod(np.delete(first, i)) for i in range(index + 1))
      previous = beta_1**index * input_norm * math.sqrt(others)
  return Bounds(
      math.sqrt(2) * previous, previous * previous / 2 + math.sqrt(2) * second
  )


def _weight(scaling: Mapping[str, float]) -> float:
  """Returns `sum_t |alpha_t| kappa_t`."""
  total = sum(abs(alpha) for alpha in scaling.values())
  return sum(
      abs(alpha) * (total - abs(alpha) + abs(alpha - 1))
      for alpha in scaling.values()
  )


def _largest_eigenvalue(matrix: np.ndarray) -> float:
  """Returns the largest eigenvalue, infinite if an entry has overflowed."""
  if not np.isfinite(matrix).all():
    return math.inf
  # Entries are not negative, so neither is the largest eigenvalue.
  return max(float(np.linalg.eigvalsh(matrix)[-1]), 0.0)


def _product(*factors: float) -> float:
  """Returns the product; 0 wins over infinity: nothing times any bound is 0."""
  return 0.0 if 0.0 in factors else math.prod(factors)


def _check(
    bounds: Bounds, scaling: Mapping[str, float], num_epochs: int
) -> None:
  if not scaling:
    raise ValueError('A bound needs at least one task, but scaling is empty.')
  for task, alpha in scaling.items():
    if not math.isfinite(alpha):
      raise ValueError(f"The coefficient of '{task}' is {alpha}, not finite.")
  if num_epochs < 1:
    raise ValueError(f'num_epochs must be at least 1, but is {num_epochs}.')
  _check_not_negative('The bound of the gradient', bounds.gradient)
  _check_not_negative('The bound of the Hessian', bounds.hessian)


def _check_not_negative(what: str, value: float) -> None:
  if not value >= 0:  # also refuses NaN
    raise ValueError(f'{what} must be at least 0, but is {value}.')
