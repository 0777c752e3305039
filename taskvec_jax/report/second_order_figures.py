"""Figures of claims 2 and 4: rates, and the ladder of bounds.

Each function returns a figure, or None where the run left out what it shows.
"""

from collections.abc import Sequence
import math

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import patches
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import results as results_lib
from taskvec_jax.report import style


def rates(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws gap and residuals against the learning rate, with their slopes."""
  runs = [run for run in results.rates if run.learning_rates]
  if not runs:
    return None
  batches = [
      name
      for name in ('full batch', 'mini-batches')
      if any(run.batches == name for run in runs)
  ]
  epochs = sorted({run.num_epochs for run in runs})[:4]
  figure, axes = style.grid(
      len(batches), len(epochs), height=2.9, sharex=True, sharey='row'
  )
  for row, name in enumerate(batches):
    for column, number in enumerate(epochs):
      panel = axes[row][column]
      style.title(panel, f'{name}, k = {number}')
      for run in runs:
        if (run.batches, run.num_epochs) == (name, number):
          _draw_rates(panel, run)
    axes[row][0].set_ylabel('Euclidean norm')
    low, high = axes[row][0].get_ylim()  # shared by the row
    axes[row][0].set_ylim(low, high * (high / low) ** 0.5)  # for the legends
  for panel in axes[-1]:
    panel.set_xlabel('learning rate η')
  return figure


def ladder(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws each bound as a multiple of what it bounds."""
  ladders = [one for one in results.ladders if one.rungs]
  if not ladders:
    return None
  num_rows = max(len(one.rungs) for one in ladders)
  figure, axes = style.grid(
      len(ladders),
      2,
      height=0.7 + 0.34 * num_rows,
      sharex='col',
      width_ratios=[3, 2],
  )
  kinds = {rung.kind for one in ladders for rung in one.rungs}
  for (rungs, certificates), one in zip(axes, ladders, strict=True):
    title = f'k = {one.num_epochs}, η = {one.learning_rate:.3g}'
    style.title(rungs, f'bounds on |C$_k$|, {title}')
    _bars(
        rungs,
        [rung.name for rung in one.rungs],
        [rung.ratio for rung in one.rungs],
        [style.KINDS.get(rung.kind, style.FAINT) for rung in one.rungs],
        num_rows=num_rows,
    )
    style.title(certificates, f'bounds on the gap, {title}')
    _bars(
        certificates,
        [certificate.name for certificate in one.certificates],
        [certificate.ratio for certificate in one.certificates],
        [style.KINDS['certified']] * len(one.certificates),
        num_rows=num_rows,
    )
    if not one.certificates:
      certificates.set_axis_off()
  axes[-1][0].set_xlabel('times |C$_k$| (log scale)')
  axes[-1][1].set_xlabel('times the measured gap (log scale)')
  figure.legend(
      handles=[
          patches.Patch(color=color, label=kind)
          for kind, color in style.KINDS.items()
          if kind in kinds
      ],
      loc='outside lower center',
      ncols=3,
      frameon=False,
      fontsize=9.5,
  )
  return figure


def _draw_rates(panel: mpl_axes.Axes, run: results_lib.Rates) -> None:
  rate = np.array(run.learning_rates)
  for label, values, slope, look in (
      ('gap', run.gap, run.gap_slope, ('o', style.GAP)),
      (
          'left by η²C',
          run.left_by_correction,
          run.correction_slope,
          ('s', style.CORRECTION),
      ),
      (
          'left by response',
          run.left_by_response,
          run.response_slope,
          ('^', style.RESPONSE),
      ),
  ):
    shown = [style.positive(value) for value in values]
    panel.plot(
        rate,
        shown,
        color=look[1],
        marker=look[0],
        markersize=4.5,
        linewidth=1.3,
        label=f'{label}: {slope:.2f}',
    )
  # Beside the points rather than under them: above the gap, below the rest.
  _draw_slope(panel, rate, run.gap, slope=2, factor=3.0)
  _draw_slope(panel, rate, run.left_by_response, slope=3, factor=1 / 3.0)
  panel.set_xscale('log')
  panel.set_yscale('log')
  # The rates span less than a decade or two: labels of the ends are enough,
  # and those of the minor ticks would run into each other.
  panel.set_xticks([rate.min(), rate.max()])
  panel.xaxis.set_major_formatter('{x:.1e}')
  panel.xaxis.set_minor_formatter(ticker.NullFormatter())
  panel.legend(
      frameon=False,
      fontsize=8,
      loc='upper left',
      title='fitted slope',
      title_fontsize=8,
      alignment='left',
      handlelength=1.4,
  )


def _draw_slope(
    panel: mpl_axes.Axes,
    rate: np.ndarray,
    values: Sequence[float],
    *,
    slope: int,
    factor: float,
) -> None:
  """Draws a reference line through `factor` times the middle value."""
  order = np.argsort(rate)
  middle = order[len(order) // 2]
  line = factor * values[middle] * (rate[order] / rate[middle]) ** slope
  panel.plot(rate[order], line, color=style.FAINT, linewidth=1.2, linestyle=':')
  above = factor > 1
  end = 0 if above else -1
  panel.annotate(
      f'slope {slope}',
      (rate[order][end], line[end]),
      xytext=(0, 11 if above else -13),
      textcoords='offset points',
      ha='left' if above else 'right',
      va='bottom' if above else 'top',
      fontsize=8,
      color=style.FAINT,
  )


def _bars(
    panel: mpl_axes.Axes,
    names: Sequence[str],
    ratios: Sequence[float | None],
    bar_colors: Sequence[str],
    *,
    num_rows: int,
) -> None:
  """Draws bars from 1, where a bound would be exact, to each ratio."""
  panel.set_xscale('log')
  panel.grid(False, axis='y')
  known = [ratio for ratio in ratios if ratio is not None and ratio > 0]
  panel.axvline(1, color=style.INK, linewidth=1)
  for y, (ratio, color) in enumerate(zip(ratios, bar_colors, strict=True)):
    if ratio is None or not ratio > 0:
      text, end = 'overflows', 1.0
    else:
      text, end = f'{_times(ratio)} ×', ratio
      panel.barh(y, ratio - 1, left=1, height=0.6, color=color)
      if ratio < 1.05:  # a bar too short to see
        panel.plot(ratio, y, 'o', color=color, markersize=5)
    panel.annotate(
        text,
        (max(end, 1.0), y),
        xytext=(6, 0),
        textcoords='offset points',
        va='center',
        fontsize=8.5,
        color=style.INK,
    )
  panel.set_yticks(range(len(names)), names)
  panel.set_ylim(num_rows - 0.4, -0.6)
  high = max([*known, 10.0])
  # Room for the labels; shared by all panels of the column.
  panel.set_xlim(min([*known, 1.0]) * 0.7, max(panel.get_xlim()[1], high**1.35))


def _times(ratio: float) -> str:
  if ratio < 100:
    return f'{ratio:.2g}'
  if ratio < 1e6:
    return f'{ratio:,.0f}'
  power = math.floor(math.log10(ratio))
  return f'{ratio / 10**power:.1f}·$10^{{{power}}}$'
