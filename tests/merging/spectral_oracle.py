"""Singular value methods without a singular value decomposition.

Triples come from the eigenvectors of `A'A`, polar factors from the inverse
square root of a Gram matrix, both by `eigh` and cut where squares, 1e-16 of
the largest, are rounding.
"""

import numpy as np


def triples(matrix, num):
  """Returns up to `num` largest (u, s, v) of a matrix."""
  values, vectors = np.linalg.eigh(matrix.T @ matrix)
  found = []
  for value, v in list(zip(values, vectors.T, strict=True))[::-1][:num]:
    if value > 1e-12 * max(values[-1], 1e-300):
      s = np.sqrt(value)
      found.append((matrix @ v / s, s, v))
  return found


def polar(columns):
  """Returns the nearest partial isometry `A (A'A)^(-1/2)` `[n, k]`."""
  values, vectors = np.linalg.eigh(columns.T @ columns)
  inverse = np.array(
      [value**-0.5 if value > 1e-12 * values[-1] else 0.0 for value in values]
  )
  return columns @ vectors @ np.diag(inverse) @ vectors.T


def isometric_sum(found, weights):
  """Returns sum_i w_i u*_i v*_i' with U, V replaced by polar factors."""
  left = polar(np.stack([u for u, _, _ in found], axis=1))
  right = polar(np.stack([v for _, _, v in found], axis=1))
  return sum(
      w * np.outer(u, v)
      for w, u, v in zip(weights, left.T, right.T, strict=True)
  )


def tsv_m(matrices):
  num_kept = min(matrices[0].shape) // len(matrices)
  if num_kept == 0:
    return sum(matrices) / len(matrices)
  found = [part for m in matrices for part in triples(m, num_kept)]
  if not found:
    return np.zeros_like(matrices[0])
  return isometric_sum(found, [s for _, s, _ in found])


def iso_c(matrices):
  found = triples(sum(matrices), min(matrices[0].shape))
  if not found:
    return np.zeros_like(matrices[0])
  mean = sum(s for _, s, _ in found) / len(found)
  return sum(mean * np.outer(u, v) for u, _, v in found)


def iso_cts(matrices, fraction):
  size, num_tasks = min(matrices[0].shape), len(matrices)
  own = round((size - int(fraction * size + 1e-9)) / num_tasks)
  own = min(own, size // num_tasks)
  if own == 0:
    return iso_c(matrices)
  found = triples(sum(matrices), size - own * num_tasks)
  common = np.stack([u for u, _, _ in found], axis=1) if found else None
  parts = list(found)
  for matrix in matrices:
    outside = matrix
    if common is not None:
      # By least squares, not by the projector.
      outside = matrix - common @ np.linalg.lstsq(common, matrix, rcond=None)[0]
    norm = np.linalg.norm(matrix, 2)
    parts += [t for t in triples(outside, own) if t[1] > 1e-8 * norm]
  if not parts:
    return np.zeros_like(matrices[0])
  mean = sum(s for _, s, _ in parts) / len(parts)
  return isometric_sum(parts, [mean] * len(parts))
