"""Extreme eigenvalues of a Hessian from Hessian-vector products.

Lanczos with full reorthogonalisation builds an orthonormal basis `V_m` of the
Krylov space of a start vector and the tridiagonal `T_m = V_m' H V_m`:

  H v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1}.

The extreme eigenvalues of `T_m` lie inside the spectrum of H, so what is
returned is estimated FROM BELOW in magnitude: `|T_m|_2 <= |H|_2`. Started at
`R`, two steps or more give `|T_m|_2 >= |H R| / |R|`, because the first column
of `T_m` then holds `H v_1` in full: this keeps rung R3 above R3t and R4. With
`|H|_F` known exactly, (4.8) turns the same numbers into a certificate:

  lambda_max(H) <= lambda_max [[T_m, beta_m e_m], [beta_m e_m', f]],
  f^2 = |H|_F^2 - |T_m|_F^2 - 2 beta_m^2.                                (4.8)

Cost: m Hessian-vector products, and m + 3 copies of the parameters: the whole
basis is kept, since float32 Lanczos without reorthogonalisation repeats
eigenvalues.

Source: C. Lanczos (1950), J. Res. Natl. Bur. Stand. 45; B. Parlett, "The
Symmetric Eigenvalue Problem", chapter 13. (4.8) is derived in docs/theory.md.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from taskvec_jax import tree
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def extreme_eigenvalues(
    key: Array,
    hvp_fn: Callable[[Params], Params],
    params: Params,
    *,
    num_iterations: int,
    start: Params | None = None,
) -> tuple[float, float]:
  """Returns (lowest, highest) eigenvalue of H, both from inside the spectrum.

  `|H|_2` is the larger magnitude of the two. Exact, to rounding, once
  `num_iterations` reaches the number of parameters.

  Args:
    key: a JAX random key, for the start vector and for restarts.
    hvp_fn: `v -> H v` at parameters that are fixed inside it.
    params: any tree with the structure, shapes and dtypes of the vectors v;
      its values are not read.
    num_iterations: m, at least 1; 2 or more for the guarantee at `start`.
    start: the first direction, of any length; None, or a tree of zeros, for a
      random one.

  Raises:
    ValueError: if `num_iterations` is below 1, or `start` is not such a tree.
    FloatingPointError: if a Hessian-vector product is not finite.
  """
  alphas, betas = tridiagonal(
      key, hvp_fn, params, num_iterations=num_iterations, start=start
  )
  eigenvalues = np.linalg.eigvalsh(_dense(alphas, betas[:-1]))
  return float(eigenvalues[0]), float(eigenvalues[-1])


def tridiagonal(
    key: Array,
    hvp_fn: Callable[[Params], Params],
    params: Params,
    *,
    num_iterations: int,
    start: Params | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `alpha_1..alpha_m` and `beta_1..beta_m` of Lanczos, float64 `[m]`.

  m is `num_iterations` or, if smaller, the number of parameters. Where the
  Krylov space is exhausted early (`beta_j = 0`) a fresh random direction
  continues: `T_m` then falls into blocks and stays `V_m' H V_m`. Arguments and
  errors are those of `extreme_eigenvalues`.
  """
  if num_iterations < 1:
    raise ValueError(
        f'num_iterations must be at least 1, but is {num_iterations}.'
    )
  _check_start(start, params)
  dimension = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))
  num_steps = min(num_iterations, dimension)
  key, subkey = jax.random.split(key)
  vector = None if start is None else _normalised(start)
  if vector is None:
    vector = _normalised(
        optax.tree.random_like(subkey, params, jax.random.normal)
    )
  basis = []
  alphas, betas = np.zeros(num_steps), np.zeros(num_steps)
  for step in range(num_steps):
    basis.append(vector)
    product = hvp_fn(vector)
    alphas[step] = float(jnp.asarray(tree.vdot(vector, product)))
    scale = float(tree.norm(product))
    if not math.isfinite(scale):
      raise FloatingPointError(
          f'The Hessian-vector product of Lanczos step {step + 1} is not'
          ' finite.'
      )
    residual = _orthogonalised(product, basis)
    beta = float(tree.norm(residual))
    # Below this the residual is rounding: the space is invariant under H.
    largest = max(scale, np.abs(alphas).max(), betas.max())
    epsilon = max(
        float(np.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(residual)
    )
    if beta > 2 * epsilon * largest and step + 1 < dimension:
      betas[step] = beta
      vector = tree.scale(1 / beta, residual)
    elif step + 1 < num_steps:
      key, subkey = jax.random.split(key)
      fresh = optax.tree.random_like(subkey, params, jax.random.normal)
      vector = _normalised(_orthogonalised(fresh, basis))
  return alphas, betas


def certified_largest(
    alphas: Sequence[float] | np.ndarray,
    betas: Sequence[float] | np.ndarray,
    frobenius_norm: float,
) -> float:
  """Returns (4.8), a number that `lambda_max(H)` does not exceed (R3c).

  Of `-H`, with `-alphas`, it bounds the lowest eigenvalue. Up to the rounding
  of Lanczos itself; the closer `|T_m|_F` comes to `|H|_F` the tighter.

  Args:
    alphas: `[m]`, from `tridiagonal`.
    betas: `[m]`, from `tridiagonal`; the last couples `T_m` to the rest of H.
    frobenius_norm: `|H|_F`, exactly or from above.

  Raises:
    ValueError: if the lengths differ, or `|H|_F` is below `|T_m|_F`.
  """
  alphas, betas = np.asarray(alphas), np.asarray(betas)
  if alphas.shape != betas.shape or alphas.ndim != 1 or not len(alphas):
    raise ValueError(
        f'alphas and betas must be of one length, but have {alphas.shape} and'
        f' {betas.shape}.'
    )
  known = float(np.sum(alphas**2) + 2 * np.sum(betas**2))
  rest = frobenius_norm**2 - known
  if not rest >= -1e-5 * known:
    raise ValueError(
        f'The Frobenius norm {frobenius_norm:.6g} is below {known**0.5:.6g},'
        ' that of the part of H which Lanczos has seen.'
    )
  corner = math.sqrt(max(rest, 0.0))
  matrix = _dense(np.append(alphas, corner), betas)
  return float(np.linalg.eigvalsh(matrix)[-1])


@jax.jit
def _without(vector: Params, direction: Params) -> Params:
  """Returns `vector` less its part along the unit vector `direction`."""
  component = jnp.asarray(tree.vdot(direction, vector))
  return tree.add_scale(vector, -component, direction)


def _orthogonalised(vector: Params, basis: Sequence[Params]) -> Params:
  """Returns `vector` orthogonal to `basis`: Gram-Schmidt, and once again."""
  for _ in range(2):  # twice is enough
    for direction in basis:
      vector = _without(vector, direction)
  return vector


def _normalised(vector: Params) -> Params | None:
  """Returns `vector / |vector|`, or None for a vector of zeros."""
  largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(vector))
  if largest == 0.0:
    return None
  vector = tree.scale(1 / largest, vector)  # squares must not underflow
  return tree.scale(1 / float(tree.norm(vector)), vector)


def _dense(diagonal: np.ndarray, off_diagonal: np.ndarray) -> np.ndarray:
  return (
      np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
  )


def _check_start(start: Params | None, params: Params) -> None:
  if start is None:
    return
  if jax.tree.structure(start) != jax.tree.structure(params):
    raise ValueError(
        'The start vector must be a tree like the parameters, but has'
        f' {jax.tree.structure(start)}, not {jax.tree.structure(params)}.'
    )
  shapes = [
      [np.shape(leaf) for leaf in jax.tree.leaves(t)] for t in (start, params)
  ]
  if shapes[0] != shapes[1]:
    raise ValueError(
        'The start vector must have the shapes of the parameters, but has'
        f' {shapes[0]}, not {shapes[1]}.'
    )
