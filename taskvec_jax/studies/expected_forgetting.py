"""How much is forgotten on average over all rotations, exactly; and the bound.

In the setting of `forgetting`, b what A alone ends in, r = |b|, w = O'b,

  tau = O (b - S w)   for any symmetric S: in sequence, stopped, or beside (0).

w is uniform on the sphere of radius r. Given w, O takes w to b and turns what
is orthogonal to w at random; so tau is a b, with a = w'(b - S w) / r^2, and a
part of known length in a random direction orthogonal to b. DERIVED HERE:

  E a       = - tr S / p
  E a^2     = 1/p + ( (tr S)^2 + 2 tr S^2 ) / ( p (p + 2) )
  E |tau|^2 = r^2 (1 + tr S^2 / p)
  V = E tau'Sigma tau
            = E a^2 q + ( E |tau|^2 - r^2 E a^2 ) ( tr Sigma - q/r^2 ) / (p - 1)

with Sigma = W W' + I and q = b'Sigma b. The risk of any s b + t tau, sequence,
sum, average or difference, then has an exact mean given X_A,

  E R_A = R_A(s b) + 2 t (E a) b'(s Sigma b - W theta) + t^2 V
  E R_B = R_A(t b)
          + r^2/p ( s^2 tr Sigma - 2 s t tr S Sigma + t^2 tr S Sigma S )

on both tasks. To leading order at p >> n >> d (derived, an approximation) a
sequence forgets

  |theta|^2 ( m (d + 1/gamma)/p (1 + n/p) + m^2 ( (n/p)^2 + 2/(gamma p) ) ),

m = n gamma / (1 + n gamma): there X_A X_A' is p (gamma Z Z' + I) with
Z'Z = n I, so that W'b = m theta and r^2 = m |theta|^2 / (p gamma).

THE PAPER'S (theorem 2.3): for n >= d, p >= max(17 n, 1/gamma), with probability
at least 1 - 10 exp(-c d), c not stated as a number,

  forgetting <= ( 66 sqrt(n/p) + 12/(p gamma) ) |theta|^2,

which falls like 1/sqrt(p) where the mean falls like 1/p.

Cost: the products of W with Q, p n d operations.

Source: Goldfarb and Hand, "Analysis of Catastrophic Forgetting for Random
Orthogonal Transformation Tasks in the Overparameterized Regime",
arXiv:2207.06475. A later paper, arXiv:2401.12617, has an exact expression for
the forgetting of an arbitrary first task; it was not compared with.
"""

import numpy as np

from taskvec_jax.studies import forgetting


def expected_risks(
    task: forgetting.Regression,
    first: forgetting.Trained,
    rule: forgetting.Rule,
) -> tuple[float, float]:
  """Returns the exact means over Haar rotations of the risks on A and B.

  Args:
    task: A; any W will do, `W'W = p gamma I` is not needed.
    first: A trained; B is trained for as long.
    rule: what to make of the two task vectors.
  """
  b, p = first.params, len(first.params)
  gains = first.gains if rule.sequential else np.zeros_like(first.gains)
  s, t = rule.first, rule.second
  r2 = float(b @ b)
  signal = b @ task.features  # W'b
  trace, trace_of_square = gains.sum(), np.sum(gains**2)
  size = float(signal @ signal) + r2  # b' Sigma b
  total = float(np.sum(task.features**2)) + p  # tr Sigma
  along = 1 / p + (trace**2 + 2 * trace_of_square) / (p * (p + 2))
  across = r2 * (1 + trace_of_square / p) - r2 * along
  square = along * size + across * (total - size / r2) / (p - 1)
  cross = -trace / p * (s * size - float(signal @ task.theta))
  on_first = forgetting.risk(task, s * b) + 2 * t * cross + t**2 * square
  # q_i' Sigma q_i of the directions that the first task's examples span.
  energies = np.sum((first.basis.T @ task.features) ** 2, axis=1) + 1
  on_second = forgetting.risk(task, t * b) + r2 / p * (
      s**2 * total
      - 2 * s * t * float(gains @ energies)
      + t**2 * float(gains**2 @ energies)
  )
  return float(on_first), float(on_second)


def best_scaling(
    task: forgetting.Regression, first: forgetting.Trained
) -> float:
  """Returns the alpha of the least expected risk of `alpha (b + O b)`.

  alpha = b'W theta / ( b'Sigma b + r^2 tr Sigma / p ), the same on both.
  """
  signal = first.params @ task.features
  r2 = float(first.params @ first.params)
  total = float(np.sum(task.features**2)) / len(first.params) + 1
  return float(signal @ task.theta / (signal @ signal + r2 + r2 * total))


def bound_applies(
    *, num_features: int, num_examples: int, num_latent: int, gamma: float
) -> bool:
  """Returns whether n >= d and p >= max(17 n, 1/gamma), as the bound needs."""
  return num_examples >= num_latent and num_features >= max(
      17 * num_examples, 1 / gamma
  )


def relative_bound(
    *, num_features: int, num_examples: int, gamma: float
) -> float:
  """Returns the paper's bound on the forgetting, over |theta|^2."""
  p = num_features
  return 66 * float(np.sqrt(num_examples / p)) + 12 / (p * gamma)


def leading_law(
    *, num_features: int, num_examples: int, num_latent: int, gamma: float
) -> float:
  """Returns the forgetting over |theta|^2 to leading order at p >> n >> d."""
  n, p = num_examples, num_features
  learned = n * gamma / (1 + n * gamma)  # m
  new = (num_latent + 1 / gamma) / p * (1 + n / p)
  undone = (n / p) ** 2 + 2 / (gamma * p)
  return learned * new + learned**2 * undone
