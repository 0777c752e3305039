"""The ladder of bounds: from norms of weights down to |C_k| itself.

  R0   (4.1) with (4.5), a closed product over norm balls
  R1   (4.1) with (4.4), norms of the layers along the path
  R2   sum_t |alpha_t| sum_{e=1}^{k-1} Hbar_t^(e) |R_t^(e)|, Hbar by (4.10)
  R2K  the same with Hbar by (4.11)
  R3   the same with Hbar by Lanczos started at R_t^(e), from below
  R3t  sum_t |alpha_t| sum_{e=1}^{k-1} |H_t^(e) R_t^(e)|
  R4   |C_k|

with everything at the multitask parameters `theta_MT^(e)`. Each rung is at
least every rung of a later level; R2 and R2K share a level, since neither is
always the smaller. All of that is proved in docs/theory.md, PROVIDED that all
rungs are of one loss: the same examples, the same parameters, the same drifts.
A run in which a rung lies below a later one has found a bug and must stop.

Numbers in, numbers out; this file costs nothing.

Source: derived in docs/theory.md, section 4.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

# A rung is at least every rung of a higher level.
LEVELS = {'R0': 0, 'R1': 1, 'R2': 2, 'R2K': 2, 'R3': 3, 'R3t': 4, 'R4': 5}


class Rung(NamedTuple):
  """One rung of the ladder, a bound of `|C_k|` or `|C_k|` itself."""

  name: str  # a key of LEVELS
  value: float  # in units of |C_k|: gradient times Hessian
  ratio: float  # value / |C_k|; NaN where both are 0


def drift_rung(
    scaling: Mapping[str, float],
    hessian_norms: Mapping[str, Sequence[float]],
    drift_norms: Mapping[str, Sequence[float]],
) -> float:
  """Returns R2, R2K or R3, `sum_t |alpha_t| sum_e Hbar_t^(e) |R_t^(e)|`.

  Args:
    scaling: task -> alpha_t.
    hessian_norms: task -> `Hbar_t^(e)` for e = 1..k-1.
    drift_norms: task -> `|R_t^(e)|` for e = 1..k-1; `R_t^(0) = 0`.

  Raises:
    ValueError: if the tasks or the numbers of epochs differ.
  """
  _check_same_tasks(scaling, hessian_norms, 'Hessian norms')
  _check_same_tasks(scaling, drift_norms, 'drift norms')
  total = 0.0
  for task, alpha in scaling.items():
    hessians, drifts = hessian_norms[task], drift_norms[task]
    if len(hessians) != len(drifts):
      raise ValueError(
          f"Task '{task}' has {len(hessians)} Hessian norms but {len(drifts)}"
          ' drift norms; give one of each for every epoch from 1 to k-1.'
      )
    total += abs(alpha) * sum(
        h * r for h, r in zip(hessians, drifts, strict=True)
    )
  return float(total)


def hvp_rung(
    scaling: Mapping[str, float], hvp_norms: Mapping[str, Sequence[float]]
) -> float:
  """Returns R3t, `sum_t |alpha_t| sum_{e=1}^{k-1} |H_t^(e) R_t^(e)|`.

  Args:
    scaling: task -> alpha_t.
    hvp_norms: task -> `|H_t^(e) R_t^(e)|` for e = 1..k-1.

  Raises:
    ValueError: if the tasks differ.
  """
  _check_same_tasks(scaling, hvp_norms, 'Hessian-vector norms')
  return float(
      sum(abs(alpha) * sum(hvp_norms[task]) for task, alpha in scaling.items())
  )


def ladder(values: Mapping[str, float]) -> tuple[Rung, ...]:
  """Returns the rungs, highest level first, with their ratios to R4.

  Args:
    values: name of a rung -> value; R4 is needed, any other may be missing.

  Raises:
    ValueError: for a name that is no rung, or without R4.
  """
  unknown = sorted(set(values) - set(LEVELS))
  if unknown:
    raise ValueError(
        f'{unknown[0]} is no rung of the ladder; those are {", ".join(LEVELS)}.'
    )
  if 'R4' not in values:
    raise ValueError('The ladder needs R4, the norm of C_k, but has no R4.')
  return tuple(
      Rung(name, float(values[name]), _ratio(values[name], values['R4']))
      for name in LEVELS
      if name in values
  )


def check_ladder(
    rungs: Sequence[Rung], *, rtol: float = 1e-5, lanczos_rtol: float = 1e-3
) -> None:
  """Raises unless every rung is at least every rung of a later level.

  Args:
    rungs: from `ladder`.
    rtol: what rounding may take off a rung, relative to the rung below it.
    lanczos_rtol: the same for R3, which is estimated from below. Started at the
      drift and with 2 steps or more it needs no more than rounding.

  Raises:
    ArithmeticError: naming both rungs and both numbers.
  """
  for upper, lower in itertools.permutations(rungs, 2):
    if LEVELS[upper.name] < LEVELS[lower.name]:
      check_at_least(
          upper.name,
          upper.value,
          lower.name,
          lower.value,
          rtol=lanczos_rtol if upper.name == 'R3' else rtol,
      )


def check_at_least(
    upper_name: str,
    upper: float,
    lower_name: str,
    lower: float,
    *,
    rtol: float = 1e-5,
) -> None:
  """Raises an ArithmeticError unless `upper >= lower (1 - rtol)`.

  For rungs, and for the certificates (4.2) and (4.6) against the measured gap.
  A NaN on either side raises, too; an infinite bound is a bound.
  """
  if not upper >= lower * (1 - rtol):
    raise ArithmeticError(
        f'{upper_name} = {upper:.6g} lies below {lower_name} = {lower:.6g},'
        ' which it bounds: one of the two is computed wrongly.'
    )


def _ratio(value: float, correction_norm: float) -> float:
  if correction_norm:
    return float(value / correction_norm)
  return math.inf if value else math.nan


def _check_same_tasks(
    scaling: Mapping[str, float],
    norms: Mapping[str, Sequence[float]],
    what: str,
) -> None:
  if not scaling or set(scaling) != set(norms):
    raise ValueError(
        f'The coefficients name {sorted(scaling)}, but the {what} name'
        f' {sorted(norms)}; they must name the same tasks.'
    )
