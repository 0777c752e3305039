"""Inner products of projections, and what they add to the risk of a merge."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taskvec_jax.experiments.studies.linear_teachers import training
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import linear_merging

_STANDARD_ERRORS = 3


class Number(NamedTuple):
  """One number, predicted and measured."""

  law: float
  mean: float  # over draws
  error: float  # one standard error of it

  @property
  def distance(self) -> float:
    """In standard errors; without a spread, none is known."""
    return abs(self.mean - self.law) / self.error if self.error else 0.0


class Overlaps(NamedTuple):
  """Of one number of tasks and one cosine of their differences."""

  num_tasks: int
  cosine: float
  overlap: Number  # (S2.14), mean over pairs
  interference: Number  # (S2.15) of addition, alpha = 1
  share: float  # of addition's predicted mean risk


def measure(
    task_vectors: Mapping[str, np.ndarray], inputs: np.ndarray, *, cosine: float
) -> Overlaps:
  """Returns what was predicted and measured of one curve's draws.

  Args:
    task_vectors: task -> what descent ended in, `[draw, d]`.
    inputs: `[draw, T, n, d]`.
    cosine: c, of any two differences, which have length 1.
  """
  _, num_tasks, n, d = inputs.shape
  coverage, ones = np.full(num_tasks, n / d), np.ones(num_tasks)
  pairs = ~np.eye(num_tasks, dtype=bool)
  taus = np.stack(list(task_vectors.values()), axis=1)
  gram = cosine + (1 - cosine) * np.eye(num_tasks)

  def number(law, values) -> Number:
    (mean,), (error,) = study_panels.means(np.array([values]))
    return Number(float(law), float(mean), float(error))

  # Pairs of one draw share their projections: one value a draw.
  overlap = number(
      linear_merging.expected_overlaps(coverage)[pairs].mean(),
      [linear_merging.overlaps(x)[pairs].mean() for x in inputs],
  )
  interference = number(
      linear_merging.interference(gram * np.outer(coverage, coverage), ones),
      [linear_merging.interference(tau @ tau.T, ones) for tau in taus],
  )
  risk = linear_merging.expected_risks(gram, coverage, ones).mean()
  return Overlaps(
      num_tasks, cosine, overlap, interference, interference.law / float(risk)
  )


def findings(found: Sequence[Overlaps]) -> list[verdicts.Finding]:
  """Returns what is judged of all curves."""
  return [
      _finding(
          'inner products of projections, by (S2.14)',
          [one.overlap for one in found],
          'tr(P_iP_t)/√(n_in_t) of the rows of two tasks, mean over pairs.',
      ),
      _finding(
          'interference in the risk of addition, by (S2.15)',
          [one.interference for one in found],
          'Sum over pairs of inner products of task vectors by descent.',
      ),
  ]


def table(found: Sequence[Overlaps]) -> study_results.Table:
  """Returns every curve's numbers."""
  return study_results.Table(
      caption='Overlap of the rows of two tasks, and the interference that it'
      ' makes of addition; ± one standard error. The share is of addition’s'
      ' mean risk, both predicted.',
      columns=[
          'Tasks',
          'overlap by (S2.14)',
          'measured',
          'interference by (S2.15)',
          'measured',
          'share of the risk',
      ],
      rows=[
          [
              f'T = {one.num_tasks}, cosine {one.cosine:g}',
              f'{one.overlap.law:.4f}',
              f'{one.overlap.mean:.4f} ± {one.overlap.error:.4f}',
              f'{one.interference.law:.3f}',
              f'{one.interference.mean:.3f} ± {one.interference.error:.3f}',
              f'{one.share:.0%}',
          ]
          for one in found
      ],
  )


def _finding(where, numbers: Sequence[Number], note) -> verdicts.Finding:
  off = max(one.distance for one in numbers)
  return training.finding(
      where,
      f'within {_STANDARD_ERRORS} standard errors',
      f'{off:.1f}',
      off <= _STANDARD_ERRORS,
      f'{note} Largest distance over the curves, in standard errors; the table'
      ' has the numbers.',
  )
