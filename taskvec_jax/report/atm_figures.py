"""Figures of an ATM run: accuracy by round, splits of one budget, the identity.

Each function returns a figure, or None where the run left out what it shows.
"""

import statistics

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import accuracy
from taskvec_jax.report import atm_findings
from taskvec_jax.report import atm_results
from taskvec_jax.report import style

_LOOKS = {  # method: color, marker, line
    'pa': ('#0072b2', 'o', '-'),
    'ties': ('#cc79a7', 'v', '--'),
    'fedavg': ('#e69f00', 's', '--'),
    'joint': ('#222222', '^', '-'),
    'descent': ('#009e73', 'D', ':'),
    'ph': ('#d55e00', 'o', '-'),
    'ph-joint': ('#222222', '^', '-'),
}
_SPLITS = ('#0072b2', '#56b4e9', '#e69f00', '#d55e00', '#cc79a7', '#009e73')


def by_round(results: atm_results.Results) -> mpl_figure.Figure | None:
  """Draws accuracy by round of everything that has the most rounds."""
  methods = ['pa', 'ties', 'fedavg', 'joint', 'descent']
  return _panels(results, methods, 'rounds from the base model')


def post_hoc(results: atm_results.Results) -> mpl_figure.Figure | None:
  """Draws accuracy by round of what starts from the one-shot merge."""
  figure = _panels(results, ['ph', 'ph-joint'], 'rounds on validation images')
  if figure is not None:
    start = list(atm_findings.final(results, 'pa', 1).values())
    _line(figure.axes[0], start, 'the merge they start from', '#56b4e9', '-.')
    figure.legends[0].remove()
    style.legend(figure, figure.axes[0], num_columns=3)
  return figure


def splits(results: atm_results.Results) -> mpl_figure.Figure | None:
  """Draws accuracy against the epochs spent, one line a split."""
  names = atm_findings.split_names(results)
  if not names:
    return None
  figure, axes = style.grid(1, 1, height=3.8)
  panel = axes[0][0]
  for (rounds, name), color in zip(names.items(), _SPLITS * 9, strict=False):
    epochs = results.budget // rounds
    x = epochs * np.arange(1, rounds + 1)
    _draw(panel, results, 'pa', rounds, x, name, (color, 'o', '-'))
  _references(panel, results)
  panel.set_xlabel('epochs spent on every task’s images')
  panel.set_ylabel('test accuracy, mean over the tasks (%)')
  panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  style.legend(figure, panel, num_columns=6)
  return figure


def identity(results: atm_results.Results) -> mpl_figure.Figure | None:
  """Draws how far rounds and multitask descent are apart, by round."""
  if not results.identity:
    return None
  figure, axes = style.grid(1, 1, height=2.8)
  panel = axes[0][0]
  # The two lines lie on one another, so the second lets the first be seen.
  looks = ((style.RESPONSE, '-', 9), (style.CORRECTION, '--', 4))
  for one, (color, line, size) in zip(results.identity, looks, strict=False):
    panel.plot(
        range(1, len(one.gap_ulps) + 1),
        one.gap_ulps,
        color=color,
        linestyle=line,
        marker='o',
        markersize=size,
        label=f'|gap|, {one.dtype}',
    )
  rounds = np.arange(1, len(results.identity[0].gap_ulps) + 1)
  panel.plot(
      rounds,
      atm_findings.ULPS_A_ROUND * rounds,
      color=style.FAINT,
      linestyle=':',
      label='allowed',
  )
  panel.set_xlabel('round')
  panel.set_ylabel('ulps')
  panel.set_ylim(bottom=0)
  panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  style.legend(figure, panel, num_columns=3)
  return figure


def _panels(
    results: atm_results.Results, methods: list[str], label: str
) -> mpl_figure.Figure | None:
  """Draws the methods by round, beside the base and the tasks' own models."""
  there = [m for m in methods if atm_findings.final(results, m)]
  if not there:
    return None
  figure, axes = style.grid(1, 1, height=4.2)
  panel = axes[0][0]
  for method in there:
    rounds = max(c.num_rounds for c in results.curves if c.method == method)
    x = np.arange(1, rounds + 1)
    name = atm_results.METHODS[method]
    _draw(panel, results, method, rounds, x, name, _LOOKS[method])
  _references(panel, results)
  panel.set_xlabel(label)
  panel.set_ylabel('test accuracy, mean over the tasks (%)')
  panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  style.legend(figure, panel, num_columns=3)
  return figure


def _draw(
    panel: mpl_axes.Axes,
    results: atm_results.Results,
    method: str,
    num_rounds: int,
    x: np.ndarray,
    name: str,
    look: tuple[str, str, str],
) -> None:
  """Draws mean and standard deviation over seeds, round by round."""
  color, marker, line = look
  curves = [
      [accuracy.over_tasks(accuracies) for accuracies in curve.accuracy]
      for curve in results.curves
      if curve.method == method and curve.num_rounds == num_rounds
  ]
  found = [
      accuracy.spread([float(v) for v in column])
      for column in np.transpose(curves)
  ]
  panel.errorbar(
      x,
      [100 * one.mean for one in found],
      yerr=[100 * (one.std or 0.0) for one in found],
      color=color,
      marker=marker,
      markersize=4.5,
      linestyle=line,
      linewidth=1.6,
      capsize=2,
      elinewidth=1,
      label=name,
  )


def _references(panel: mpl_axes.Axes, results: atm_results.Results) -> None:
  base = [accuracy.over_tasks(one.base) for one in results.references]
  own = [accuracy.over_tasks(one.finetuned) for one in results.references]
  _line(panel, base, 'base', style.MODELS['base'], '--')
  _line(panel, own, 'each task’s own model', style.MODELS['finetuned'], '--')


def _line(
    panel: mpl_axes.Axes, values: list[float], name: str, color: str, line: str
) -> None:
  if values:
    panel.axhline(
        100 * statistics.fmean(values),
        color=color,
        linestyle=line,
        linewidth=1.4,
        label=name,
    )
