"""How predicted regions are judged and drawn, for all maps of patterns."""

from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments.studies.provable_editing import (
    config as config_lib,
)
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import pattern_tasks
from taskvec_jax.studies import provable_editing as law

AXES = ('correlation α of the tasks', 'coefficient λ')
PAPER = (
    'arXiv:2504.10957, as known from a review; its constants are fixed in the'
    ' config. The margin law is derived for this project.'
)


def judged(
    config: config_lib.ProvableEditingStudyConfig,
    where: str,
    predicted: str,
    region: np.ndarray,
    measured: np.ndarray,
) -> verdicts.Finding:
  """Returns the finding on a predicted region.

  Args:
    config: margin and bar.
    where: the region, in words.
    predicted: what it hangs on, in words.
    region: bool `[Y, X]`.
    measured: bool `[Y, S, X]`, whether each seed succeeds.
  """
  clear = law.outside_margin(region, margin=config.margin)
  found = [
      law.agreement(region, measured[:, seed], clear)
      for seed in range(measured.shape[1])
  ]
  share = accuracy.spread([one.share for one in found])
  kept = accuracy.spread([one.kept for one in found])
  if not clear.any():
    verdict = verdicts.SAYS_NOTHING
  elif min(one.share for one in found) >= config.bar:
    verdict = verdicts.HOLDS
  elif min(one.kept for one in found) >= config.bar:
    verdict = verdicts.IN_PART
  else:
    verdict = verdicts.DOES_NOT_HOLD
  promised = (
      f'Of the promised ones {spreads.points(kept)} % succeed; where that alone'
      ' passes, it holds in part.'
      if np.any(clear & region)
      else 'None of them is promised.'
  )
  return verdicts.Finding(
      where,
      predicted,
      f'{spreads.points(share)} % of cells' if clear.any() else '-',
      verdict,
      f'Agreement on the {clear.sum()} of {clear.size} cells more than'
      f' {config.margin} from the predicted edge; {config.bar:.0%} is asked of'
      f' every seed. {promised}',
  )


def losses(
    config: config_lib.ProvableEditingStudyConfig,
    name: str,
    scalings: Sequence[float],
    tasks: Sequence[pattern_tasks.Scores],
) -> study_results.Map:
  """Returns the losses `[L, S, A]` of both tasks as a figure."""
  return study_results.Map(
      name=f'{name}_losses',
      title=f'{name.capitalize()}: the loss on the two tasks',
      alt=f'Hinge loss of both tasks by correlation and coefficient, {name}.',
      reading='Hinge loss on test examples, mean over seeds; all above 1 looks'
      ' like 1.',
      x_label=AXES[0],
      y_label=AXES[1],
      value_label='hinge loss',
      low=0.0,
      high=1.0,
      panels=[
          study_panels.cells(
              f'task {number}', config.alphas, scalings, one.loss.mean(1)
          )
          for number, one in enumerate(tasks, start=1)
      ],
  )


def regions(
    name: str,
    title: str,
    panels: Sequence[tuple[str, np.ndarray, np.ndarray]],
    x: Sequence[float],
    y: Sequence[float],
    *,
    labels: tuple[str, str] = AXES,
) -> study_results.Map:
  """Returns measured successes and predicted regions as a figure.

  Args:
    name: of the figure.
    title: of the figure.
    panels: (title, region `[Y, X]`, successes `[Y, S, X]`) each.
    x: of the cells.
    y: of the cells.
    labels: of both axes.
  """
  return study_results.Map(
      name=name,
      title=title,
      alt=f'Share of seeds that succeed, with predicted regions. {title}.',
      reading='Colour: the share of seeds that succeed. Orange: the edge of'
      ' what is predicted.',
      x_label=labels[0],
      y_label=labels[1],
      value_label='share of seeds',
      low=0.0,
      high=1.0,
      panels=[
          study_panels.cells(panel, x, y, measured.mean(1), region)
          for panel, region, measured in panels
      ],
  )


def grid(
    scalings: Sequence[float], alphas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns lambda `[L, 1]` and alpha `[1, A]`, to be broadcast."""
  return np.array(scalings)[:, None], np.array(alphas)[None]


def mean_expert(experts: Sequence[law.Expert]) -> law.Expert:
  """Returns the mean over seeds of what the margin law reads off experts."""
  return law.Expert(*np.mean(np.array(experts), axis=0).tolist())
