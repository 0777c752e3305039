"""Merging task vectors of linear teachers: interference of projections.

T tasks share the base theta_0 and differ in teacher `theta_t` and inputs X_t.
With `delta_t = theta_t - theta_0` and `P_t` the projection onto the rows of
X_t, a converged task vector of one layer is `tau_t = P_t delta_t`, and (DERIVED
here, like all of this page) the merge `theta_0 + sum_t alpha_t tau_t` misses
teacher i by

  -(I - alpha_i P_i) delta_i + sum_{t/=i} alpha_t P_t delta_t:           (S2.7)

what task i left out, and what the others put there. Its risk is a quadratic in
the coefficients with inner products `delta_s' P_s Sigma P_t delta_t`. On task
i's own examples, at alpha_i = 1, nothing but `sum_t alpha_t P_i P_t delta_t`
remains: task addition keeps every task's training exact iff all `P_i P_t`
vanish on the differences.

For isotropic inputs the P_t are independent Haar projections, E P = (n/d) I.
With `m_t = n_t / d`, `D_st = delta_s' delta_t`, at every d,

  E R_i = (1 - (2 alpha_i - alpha_i^2) m_i) D_ii + sum_{t/=i} alpha_t^2 m_t D_tt
          + sum_{s/=t, both /=i} alpha_s alpha_t m_s m_t D_st
          - 2 (1 - alpha_i m_i) sum_{t/=i} alpha_t m_t D_it.             (S2.8)

What the projections have to do with that is their inner product, the overlap of
two tasks' rows,

  <P_s, P_t> = tr(P_s P_t),   E tr(P_s P_t) = n_s n_t / d,              (S2.14)

as E P_t = (n_t/d) I, and its cosine, divided by sqrt(n_s n_t), is n/d for equal
n. Weighted with the differences it enters the risk of every task alike,

  I = sum_{s/=t} alpha_s alpha_t <P_s delta_s, P_t delta_t>,
  E I = sum_{s/=t} alpha_s alpha_t m_s m_t D_st :                       (S2.15)

the interference of the merge. It vanishes on average for unrelated tasks, for
however much their rows overlap, and for alike ones it is the price of summing
the same answer more than once.

Equal sizes, equal m, one cosine c between any two differences: the best common
coefficient is

  alpha* = (1 + (T - 1) c) / (T (1 + (T - 1) m c)),                      (S2.9)

averaging for c = 0, for m = 1, and nearly addition for equal tasks seen
thinly. A parabola is symmetric, so addition beats averaging iff alpha* is above
their middle,

  c > 1 / (2 - (T + 1) m)   and   (T + 1) m < 2.                         (S2.10)

Multitask training, `sum_t |X_t (theta - theta_t)|^2 / n_t` from theta_0,
ends at

  theta_0 + ( sum_t G_t )^+ sum_t G_t delta_t,   G_t = X_t' X_t / n_t,   (S2.11)

and since `G_t delta_t = G_t tau_t` that IS RegMean on the task vectors (its
off-diagonal factor 1, its ridge going to 0).

L layers, balanced, one base network: a finetuned network keeps the base's
hidden directions (`linear_flow`), so adding kernels adds `s_t b_t` in the first
layer and `s_t` in all others, with `beta_t = s_t^L b_t` of (S2.4). The merged
network is

  s^{L-1} v,   v = s_0 b_0 + sum_t alpha_t (s_t b_t - s_0 b_0),
               s = s_0 + sum_t alpha_t (s_t - s_0).                      (S2.12)

Cost: one singular value decomposition a task.

Source: derived here. Task arithmetic: Ilharco et al., arXiv:2212.04089;
RegMean: Jin et al., arXiv:2212.09849; the setting of (S2.1): arXiv:2107.01641.
"""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.studies import linear_teachers


def merged_risks(
    differences: np.ndarray,
    inputs: Sequence[np.ndarray],
    scaling: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
  """Returns the merge's population risk on every task, `[T]`, by (S2.7).

  Args:
    differences: `delta_t`, `[T, d]`.
    inputs: T times `[n_t, d]`.
    scaling: `alpha_t`, `[T]`.
    covariance: eigenvalues of Sigma `[d]`, on the axes.

  Raises:
    ValueError: the numbers of tasks differ.
  """
  if not len(differences) == len(inputs) == len(scaling):
    raise ValueError(
        f'There are {len(differences)} differences, {len(inputs)} sets of'
        f' inputs and {len(scaling)} coefficients; give one each a task.'
    )
  vectors = np.stack(
      [
          linear_teachers.seen(linear_teachers.row_space(x), delta)
          for x, delta in zip(inputs, differences, strict=True)
      ]
  )
  missed = scaling @ vectors - differences
  return np.sum(covariance * missed**2, axis=-1)


def expected_risks(
    gram: np.ndarray, coverage: np.ndarray, scaling: np.ndarray
) -> np.ndarray:
  """Returns (S2.8), the mean over isotropic inputs, `[T]`.

  Args:
    gram: `D`, inner products of the differences, `[T, T]`.
    coverage: `m_t = n_t / d`, `[T]`, from 0 to 1.
    scaling: `alpha_t`, `[T]`.
  """
  mean = scaling * coverage  # E alpha_t P_t is this times I
  own = np.diag(gram)
  # With all P replaced by their means, plus the variance of each by itself:
  # E |alpha P delta|^2 - |E alpha P delta|^2 = alpha^2 (m - m^2) |delta|^2.
  variance = np.sum(scaling**2 * (coverage - coverage**2) * own)
  return mean @ gram @ mean - 2 * gram @ mean + own + variance


def overlaps(inputs: Sequence[np.ndarray]) -> np.ndarray:
  """Returns cosines of (S2.14), `tr(P_s P_t) / sqrt(rank_s rank_t)`, `[T, T]`.

  Args:
    inputs: T times `[n_t, d]`.
  """
  bases = [linear_teachers.row_space(x) for x in inputs]
  return np.array(
      [
          [
              np.sum((one.T @ other) ** 2)
              / np.sqrt(one.shape[1] * other.shape[1])
              for other in bases
          ]
          for one in bases
      ]
  )


def expected_overlaps(coverage: np.ndarray) -> np.ndarray:
  """Returns the mean of `overlaps` over isotropic inputs; 1 with itself.

  Args:
    coverage: `m_t = n_t / d`, `[T]`, above 0, at most 1.
  """
  found = np.sqrt(np.outer(coverage, coverage))
  np.fill_diagonal(found, 1.0)
  return found


def interference(gram: np.ndarray, scaling: np.ndarray) -> float:
  """Returns I of (S2.15): what pairs of task vectors add to every risk.

  Args:
    gram: inner products of task vectors, `[T, T]`; those of their means,
      `m_s m_t D_st` off the diagonal, give E I.
    scaling: `alpha_t`, `[T]`.
  """
  return float(scaling @ (gram - np.diag(np.diag(gram))) @ scaling)


def best_scaling(num_tasks: int, coverage: float, cosine: float) -> float:
  """Returns alpha* of (S2.9).

  Args:
    num_tasks: T.
    coverage: m = n/d.
    cosine: c, of any two differences; at least -1/(T - 1).
  """
  others = (num_tasks - 1) * cosine
  return (1 + others) / (num_tasks * (1 + others * coverage))


def addition_beats_averaging(
    num_tasks: int, coverage: float, cosine: float
) -> bool:
  """Returns (S2.10): whether alpha = 1 has less risk than alpha = 1/T."""
  middle = (1 + 1 / num_tasks) / 2
  return best_scaling(num_tasks, coverage, cosine) > middle


def multitask_limit(
    differences: np.ndarray, inputs: Sequence[np.ndarray]
) -> np.ndarray:
  """Returns `theta_MT - theta_0` of (S2.11), `[d]`.

  Args:
    differences: `delta_t`, `[T, d]`.
    inputs: T times `[n_t, d]`; every task counts alike.
  """
  rows = np.concatenate([x / np.sqrt(len(x)) for x in inputs])
  labels = np.concatenate(
      [
          x @ delta / np.sqrt(len(x))
          for x, delta in zip(inputs, differences, strict=True)
      ]
  )
  return np.linalg.lstsq(rows, labels, rcond=None)[0]


def merged_network(
    source: np.ndarray,
    finetuned: np.ndarray,
    scaling: np.ndarray,
    *,
    num_layers: int,
) -> np.ndarray:
  """Returns `beta` of the merged balanced network, (S2.12), `[..., d]`.

  Args:
    source: `theta_0`, `[..., d]`, not zero.
    finetuned: `beta_t` of (S2.4), `[T, ..., d]`.
    scaling: `alpha_t`, `[T]`.
    num_layers: L.
  """

  def factors(end_to_end):
    norm = np.linalg.norm(end_to_end, axis=-1, keepdims=True)
    scale = norm ** (1 / num_layers)
    return scale, end_to_end / norm * scale

  scale, first = factors(source)
  scales, firsts = factors(finetuned)
  merged_scale = scale + np.tensordot(scaling, scales - scale, 1)
  merged_first = first + np.tensordot(scaling, firsts - first, 1)
  return merged_scale ** (num_layers - 1) * merged_first


def equicorrelated(
    rng: np.random.Generator, *, num_tasks: int, dimension: int, cosine: float
) -> np.ndarray:
  """Returns T unit vectors `[T, d]` with the same cosine between any two.

  Raises:
    ValueError: the cosine is not from 0 to 1, or T + 1 vectors do not fit.
  """
  if not 0 <= cosine <= 1 or num_tasks >= dimension:
    raise ValueError(
        'cosine must be from 0 to 1 and num_tasks below dimension, but they are'
        f' {cosine}, {num_tasks} and {dimension}.'
    )
  axes = np.linalg.qr(rng.normal(size=(dimension, num_tasks + 1)))[0].T
  return np.sqrt(cosine) * axes[0] + np.sqrt(1 - cosine) * axes[1:]
