"""Model Breadcrumbs: without the smallest and the largest steps.

Each tensor of each task vector loses both tails of its magnitudes, and what is
left is added up:

  tau_m = sum_t m_t tau_t,   m_t = 1 [ low_t < |tau_t| < high_t ].

Three parametrisations are in use, of the same masks up to rounding:

  here, the paper's    beta    share of smallest coordinates that are masked
                       gamma   rank, as a share, from which on the largest are
  the reference code's beta'   share that is kept
                       gamma'  share of largest coordinates that are masked
  mergekit's           density = beta', gamma = gamma'

so that gamma = 1 - gamma' and beta = 1 - beta' - gamma'. The defaults 0.85 and
0.993 mask the smallest 85 % and the largest 0.7 % and go with a scaling near
0.3; the reference's command (beta' = 0.2, gamma' = 0.1, scaling 0.4) is beta =
0.7, gamma = 0.9.

`parametrisation='reference'` is the reference implementation itself: it reads
beta and gamma as beta' and gamma', and masks within each ROW, the last axis,
not each tensor; of a row of n it masks the int(gamma' n) largest, then keeps
the int(beta' n) largest of the rest. In rows shorter than 1 / beta' nothing is
left. Equal magnitudes are told apart by their index, which torch leaves open.

By tensor, floor(beta n) of n coordinates are masked from below and
floor((1 - gamma) n) from above. Both cuts are strict, as in the paper, so all
that ties with a masked coordinate is masked: of a vector whose entries all have
one magnitude, such as a first step of Adam, nothing is left unless beta and
1 - gamma are too small to mask anything. Scalars, and tensors too short for the
shares, stay whole.

Cost: a partial sort of each tensor. For tensors too large to hold, `cuts` takes
the magnitudes and `mask_tails` goes slice by slice.

Source: Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model
Merging with Sparse Masks", arXiv:2312.06795.
"""

from collections.abc import Mapping

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

PARAMETRISATIONS = ('paper', 'reference')


def breadcrumbs(
    task_vectors: Mapping[str, Params],
    *,
    beta: float = 0.85,
    gamma: float = 0.993,
    parametrisation: str = 'paper',
) -> Params:
  """Returns `sum_t m_t tau_t`, to be scaled as task arithmetic is.

  Args:
    task_vectors: task name -> `tau_t`.
    beta: 'paper': share masked from below; 'reference': share kept of a row.
    gamma: 'paper': share of coordinates below the upper cut, at least beta;
      'reference': share of a row masked from above.
    parametrisation: 'paper' or 'reference'.

  Raises:
    ValueError: no task, trees that differ, or a number out of its range.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_fraction('beta', beta)
  checks.check_fraction('gamma', gamma)
  checks.check_choice('parametrisation', parametrisation, PARAMETRISATIONS)
  if parametrisation == 'paper' and beta > gamma:
    raise ValueError(
        f'beta must not exceed gamma but they are {beta} and {gamma}: nothing'
        " would be kept; the reference implementation's beta, the share kept,"
        " is read with parametrisation='reference'."
    )

  def leaf_fn(_, stack):
    if parametrisation == 'reference':
      return leaves.added(mask_rows(stack, beta=beta, gamma=gamma))
    tails = [
        cuts(np.abs(np.asarray(vector)).ravel(), beta=beta, gamma=gamma)
        for vector in stack
    ]
    low, high = (np.stack(values) for values in zip(*tails, strict=True))
    return leaves.added(mask_tails(stack, low, high))

  return leaves.merged(leaf_fn, task_vectors)


def cuts(
    magnitudes: Array, *, beta: float, gamma: float
) -> tuple[np.floating, np.floating]:
  """Returns (low, high), between which, strictly, magnitudes are kept.

  Args:
    magnitudes: `|tau_t|` of a tensor, `[n]`.
    beta: share masked from below.
    gamma: share of coordinates below the upper cut.
  """
  magnitudes = np.asarray(magnitudes)
  dtype, size = magnitudes.dtype.type, magnitudes.size
  num_small, num_large = num_masked(size, beta=beta, gamma=gamma)
  low, high = dtype(-1.0), dtype(np.inf)  # keep everything
  if num_small:
    low = np.partition(magnitudes, num_small - 1)[num_small - 1]
  if num_large:
    high = np.partition(magnitudes, size - num_large)[size - num_large]
  return low, high


def num_masked(size: int, *, beta: float, gamma: float) -> tuple[int, int]:
  """Returns how many of `size` are masked from (below, above), ties aside."""
  return leaves.share(beta, size), leaves.complement_share(gamma, size)


def mask_tails(stack: Array, low: Array, high: Array) -> Array:
  """Returns `m_t tau_t` of `stack [T, ...]`, a tensor or a slice.

  Args:
    stack: `tau_t`.
    low: lower cuts `[T]`.
    high: upper cuts `[T]`.
  """
  xp = leaves.namespace(stack)
  column = (-1,) + (1,) * (np.ndim(stack) - 1)
  low = xp.reshape(xp.asarray(low), column)
  high = xp.reshape(xp.asarray(high), column)
  magnitudes = xp.abs(stack)
  return xp.where((low < magnitudes) & (magnitudes < high), stack, 0)


def mask_rows(stack: Array, *, beta: float, gamma: float) -> Array:
  """Returns `m_t tau_t` of `stack [T, ..., n]`, by the reference's rows.

  Args:
    stack: `tau_t`; a slice must hold whole rows. Scalars, `[T]`, stay.
    beta: share kept of a row.
    gamma: share of a row masked from above, first.
  """
  xp = leaves.namespace(stack)
  if stack.ndim == 1:
    return stack
  size = stack.shape[-1]
  num_large, num_kept = int(size * gamma), int(size * beta)
  order = xp.argsort(-xp.abs(stack), axis=-1, stable=True)
  rank = xp.argsort(order, axis=-1)  # 0 for the largest
  keep = (rank >= num_large) & (rank < num_large + num_kept)
  return xp.where(keep, stack, 0)
