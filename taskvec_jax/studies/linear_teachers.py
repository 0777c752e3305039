"""Finetuning from one linear teacher to another: limits and risks.

A linear model `x . beta` starts at a source teacher `theta_S` and is trained to
convergence on n < d examples of a target teacher, `X theta_T`. With `P` the
projection onto the rows of X and `P_ = I - P`,

  beta   = P_ theta_S + P theta_T,
  R_1    = | Sigma^{1/2} P_ (theta_S - theta_T) |^2,                     (S2.1)

R being the population risk for inputs of covariance Sigma. A network of L
linear layers with one output whose layers start balanced (`deep_linear`)
follows, by Arora et al., with `g = X'(X beta - y) / n`,

  beta' = -|beta|^{2 - 2/L} ( g + (L - 1) beta beta' g / |beta|^2 ).     (S2.2)

DERIVED here from (S2.2); the paper states such a limit, but its text was not
available to us. `g` lies in the rows of X, so `P_ beta` only changes length,
and `d ln|P_ beta| = (1 - 1/L) d ln|beta|`: the vector

  P_ beta / |beta|^{1 - 1/L}   is conserved,                             (S2.3)

and where the flow ends on the data, with `rho = |beta|`,

  beta  = kappa P_ theta_S + P theta_T,   kappa = (rho / |theta_S|)^{1 - 1/L},
  rho^2 = kappa^2 |P_ theta_S|^2 + |P theta_T|^2.                        (S2.4)

In `q = (rho / |theta_S|)^2`, `A = |P_ theta_S|^2 / |theta_S|^2` and
`B = |P theta_T|^2 / |theta_S|^2` this is `q = A q^{1 - 1/L} + B`. Its right
side minus its left is concave and B at `q = 0`:

- B > 0: exactly one positive root;
- B = 0 < A: two roots, 0 and A^L. By (S2.3) `|P beta|^2 >= 0` means `q >= A^L`
  at all times, so the flow ends at the larger one and never at 0;
- A > 0: `q >= A^L > 0` also bounds the speed in (S2.2) from below, so the loss
  falls exponentially and the flow DOES end on the data, whatever theta_T;
- A = 0 (the rows of X span theta_S): the one positive root is B, but the flow
  may stop at the saddle beta = 0 instead. It does for d = 1 and opposite signs.

On `[A^L, A^L + L B]` the difference changes sign, since its slope at A^L is
1/L; Newton's method from the right end falls to the root. As L grows,
`kappa -> |P theta_T| / |P theta_S|`: the direction of theta_S alone matters.

DERIVED here: n examples of isotropic inputs have Haar rows, and for large d
`A = 1 - n/d`, `B = (n/d) alpha^2` with `alpha = |theta_T| / |theta_S|`; kappa
is then a number, and with `c` the cosine of the teachers

  E R / |theta_S|^2 = (1 - n/d) ( kappa^2 - 2 kappa alpha c + alpha^2 ).  (S2.5)

For L = 1 kappa = 1 and (S2.5) holds at every d. For Gaussian inputs of any
covariance with eigenvalues `lambda_i`, L = 1, the risk of a difference delta is

  E R ~ sum_i w_i delta_i^2,  w_i = lambda_i (k / (lambda_i + k))^2 / (1 - g),
  sum_i lambda_i / (lambda_i + k) = n,                                   (S2.6)
  g = (1/n) sum_i (lambda_i / (lambda_i + k))^2,

the known large-d law of least squares without noise, delta being its signal.
`w_i` is largest at `lambda_i = k`: strong directions are covered by the data,
weak ones carry no risk.

Cost: one singular value decomposition of X a problem.

Source: Shachaf, Brutzkus and Globerson, "A Theoretical Analysis of Fine-tuning
with Linear Teachers", arXiv:2107.01641. (S2.2): Arora, Cohen and Hazan,
arXiv:1802.06509. (S2.6): Hastie et al., arXiv:1903.08560.
"""

import math

import numpy as np
from scipy import optimize


def row_space(inputs: np.ndarray) -> np.ndarray:
  """Returns an orthonormal basis `[d, rank]` of the rows of `inputs [n, d]`."""
  _, sizes, rows = np.linalg.svd(inputs, full_matrices=False)
  rounding = np.finfo(sizes.dtype).eps * max(inputs.shape)
  return rows[sizes > rounding * sizes[0]].T


def seen(basis: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Returns `P v` for `vectors [..., d]`, `basis` as of `row_space`."""
  return (vectors @ basis) @ basis.T


def risk(
    end_to_end: np.ndarray, target: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
  """Returns `E (x . beta - x . theta_T)^2`.

  Args:
    end_to_end: `beta`, `[..., d]`.
    target: `theta_T`, `[..., d]`.
    covariance: eigenvalues of Sigma `[d]`; the axes are its eigenvectors.
  """
  return np.sum(covariance * (end_to_end - target) ** 2, axis=-1)


def finetuned_risk(
    source: np.ndarray,
    target: np.ndarray,
    inputs: np.ndarray,
    covariance: np.ndarray,
) -> float:
  """Returns (S2.1), the risk of one layer; vectors `[d]`, inputs `[n, d]`."""
  difference = source - target
  unseen = difference - seen(row_space(inputs), difference)
  return float(np.sum(covariance * unseen**2))


def growth(
    unseen_share: float | np.ndarray,
    seen_size: float | np.ndarray,
    *,
    num_layers: float,
) -> np.ndarray:
  """Returns kappa of (S2.4): how the part that no example sees is rescaled.

  Args:
    unseen_share: A, from 0 to 1.
    seen_size: B, not negative.
    num_layers: L; `math.inf` for the limit.

  Raises:
    ValueError: L below 1, A or B out of range, or no finite limit: infinitely
      many layers and a source that no example sees.
  """
  a, b = np.broadcast_arrays(
      np.asarray(unseen_share, float), np.asarray(seen_size, float)
  )
  if not num_layers >= 1:
    raise ValueError(f'num_layers must be at least 1 but is {num_layers}.')
  if not (np.all((a >= 0) & (a <= 1)) and np.all(b >= 0)):
    raise ValueError(
        'unseen_share must be from 0 to 1 and seen_size not negative, but they'
        f' are {unseen_share} and {seen_size}.'
    )
  if math.isinf(num_layers):
    if np.any(a == 1):
      raise ValueError(
          'With infinitely many layers the source must have a part that the'
          ' data see, but unseen_share is 1.'
      )
    return np.sqrt(b / (1 - a))
  return _root(a, b, num_layers) ** ((1 - 1 / num_layers) / 2)


def _root(a: np.ndarray, b: np.ndarray, num_layers: float) -> np.ndarray:
  """Returns the larger root q of `q = a q^(1 - 1/L) + b`, by Newton."""
  power = 1 - 1 / num_layers
  q = a**num_layers + num_layers * b
  for _ in range(100):
    # Where q is 0 so is the root, and 0 ** 0 keeps L = 1 right.
    safe = np.where(q > 0, q, 1.0)
    slope = 1 - power * a * safe ** (power - 1)
    step = np.where(q > 0, (q - a * safe**power - b) / slope, 0.0)
    q = q - step
    if np.all(np.abs(step) <= 4 * np.finfo(float).eps * q):
      break
  return q


def finetuned(
    source: np.ndarray,
    target: np.ndarray,
    inputs: np.ndarray,
    *,
    num_layers: float,
) -> np.ndarray:
  """Returns `beta [d]` of (S2.4), where a balanced network of L layers ends.

  Args:
    source: `theta_S`, `[d]`, not zero if L > 1.
    target: `theta_T`, `[d]`.
    inputs: X, `[n, d]`.
    num_layers: L, at least 1; `math.inf` for the limit.

  Raises:
    ValueError: shapes differ, L is below 1, or several layers at zero.
  """
  if source.shape != target.shape or inputs.shape[1:] != source.shape:
    raise ValueError(
        f'source {source.shape}, target {target.shape} and inputs'
        f' {inputs.shape} must be [d], [d] and [n, d].'
    )
  basis = row_space(inputs)
  unseen = source - seen(basis, source)
  learned = seen(basis, target)
  size = float(source @ source)
  if size == 0:
    if num_layers > 1:
      raise ValueError(
          'A balanced network at zero does not move, but source is zero; give'
          ' a small one.'
      )
    return learned
  kappa = growth(
      min(float(unseen @ unseen) / size, 1.0),
      float(learned @ learned) / size,
      num_layers=num_layers,
  )
  return kappa * unseen + learned


def typical_growth(
    coverage: float, alpha: float | np.ndarray, *, num_layers: float
) -> np.ndarray:
  """Returns kappa for large d: `coverage` is n/d, `alpha |theta_T|/|theta_S|`.

  Raises:
    ValueError: coverage is not between 0 and 1, or L below 1.
  """
  if not 0 < coverage < 1:
    raise ValueError(f'coverage must lie between 0 and 1 but is {coverage}.')
  return growth(
      1 - coverage, coverage * np.square(alpha), num_layers=num_layers
  )


def typical_risk(
    coverage: float,
    alpha: float | np.ndarray,
    cosine: float | np.ndarray,
    *,
    num_layers: float,
) -> np.ndarray:
  """Returns (S2.5), the mean risk in units of `|theta_S|^2`.

  Args:
    coverage: n/d.
    alpha: `|theta_T| / |theta_S|`.
    cosine: of the two teachers.
    num_layers: L; `math.inf` for the limit.
  """
  kappa = typical_growth(coverage, alpha, num_layers=num_layers)
  return (1 - coverage) * (
      kappa**2 - 2 * kappa * alpha * cosine + np.square(alpha)
  )


def effective_ridge(covariance: np.ndarray, *, num_examples: int) -> float:
  """Returns k of (S2.6) for eigenvalues `[d]`.

  Raises:
    ValueError: there are not fewer examples than positive eigenvalues.
  """
  rank = int(np.sum(covariance > 0))
  if not 0 < num_examples < rank:
    raise ValueError(
        f'num_examples must be from 1 to {rank - 1}, fewer than the positive'
        f' eigenvalues, but is {num_examples}.'
    )
  # At the ends the left side is below and above n: each term is at most
  # lambda / k, and at least 1 - k / lambda.
  high = np.sum(covariance) / num_examples
  low = (rank - num_examples) / np.sum(1 / covariance[covariance > 0])
  root = optimize.brentq(
      lambda log: np.sum(covariance / (covariance + math.exp(log)))
      - num_examples,
      math.log(low) - 1,
      math.log(high) + 1,
      xtol=1e-14,
  )
  return math.exp(root)  # pyright: ignore[reportArgumentType]


def direction_weights(
    covariance: np.ndarray, *, num_examples: int
) -> np.ndarray:
  """Returns `w_i [d]` of (S2.6): the risk of a unit difference on axis i."""
  ridge = effective_ridge(covariance, num_examples=num_examples)
  learned = covariance / (covariance + ridge)
  return (
      covariance * (1 - learned) ** 2 / (1 - np.sum(learned**2) / num_examples)
  )
