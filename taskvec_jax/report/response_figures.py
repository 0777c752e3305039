"""Figures of claim 3: where linear response and the second-order term hold.

Each function returns a figure, or None where the run left out what it shows.
"""

from collections.abc import Sequence
import math

from matplotlib import axes as mpl_axes
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure as mpl_figure
from matplotlib import patches
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import response_findings
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import style

_MOST_PANELS = 6


def response_map(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws what both predictions leave, and the indicator, over (eta, k)."""
  found = results.response_map
  columns = [i for i, epochs in enumerate(found.epochs) if epochs >= 2]
  order = _by_rate(found)
  if not columns or not order:
    return None
  figure, axes = style.grid(
      1, 3, height=0.8 + 0.36 * len(order), sharex=True, sharey=True
  )
  norm = colors.LogNorm(0.01, 10)
  palette = cm.ScalarMappable(norm, 'cividis_r')
  for panel, (title, table) in zip(
      axes[0],
      (
          ('left by η²C', found.left_by_correction),
          ('left by linear response', found.left_by_response),
          ('indicator', found.indicator),
      ),
      strict=True,
  ):
    panel.grid(False)
    style.title(panel, title)
    for y, row in enumerate(order):
      for x, column in enumerate(columns):
        _draw_cell(panel, x, y, table[row][column], palette)
    panel.set_xlim(-0.5, len(columns) - 0.5)
    panel.set_ylim(-0.5, len(order) - 0.5)
    panel.set_xticks(
        range(len(columns)), [str(found.epochs[i]) for i in columns]
    )
    panel.set_xlabel('epochs k')
    _mark_edge(panel, _steps(found, order))
  axes[0][0].set_yticks(
      range(len(order)), [f'{step:.2g}' for step in _steps(found, order)]
  )
  axes[0][0].set_ylabel('step size η λ$_{max}$')
  figure.colorbar(
      palette,
      ax=axes[0],
      location='right',
      pad=0.02,
      extend='both',
      ticks=[0.01, 0.1, 1, 10],
      format=ticker.PercentFormatter(1, decimals=0),
  ).ax.tick_params(labelsize=8.5)
  return figure


def gap_by_epochs(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws measured and predicted gap by epochs, one panel a step size."""
  found = results.response_map
  columns = [i for i, epochs in enumerate(found.epochs) if epochs >= 2]
  order = [
      row
      for row in _by_rate(found)
      if any(found.gap_share[row][column] is not None for column in columns)
  ]
  if not columns or not order:
    return None
  chosen = style.spread_out(order, _MOST_PANELS)
  width = min(3, len(chosen))
  figure, axes = style.grid(
      math.ceil(len(chosen) / width),
      width,
      height=2.5,
      sharex=True,
      sharey=True,
  )
  panels = [panel for row in axes for panel in row]
  epochs = [found.epochs[column] for column in columns]
  for panel, row in zip(panels, chosen, strict=False):
    for label, table, color, marker, line in (
        ('measured', found.gap_share, style.GAP, 'o', '-'),
        ('η²C', found.correction_share, style.CORRECTION, 's', '--'),
        ('linear response', found.response_share, style.RESPONSE, '^', '-.'),
    ):
      panel.plot(
          epochs,
          [style.positive(table[row][column]) for column in columns],
          label=label if label == 'measured' else f'predicted by {label}',
          color=color,
          marker=marker,
          linestyle=line,
          markersize=4,
          linewidth=1.5,
      )
    step = found.learning_rates[row] * found.lambda_max
    style.title(
        panel,
        f'η λ$_{{max}}$ = {step:.2g}'
        + (
            ', past the edge'
            if step > response_findings.EDGE_OF_STABILITY
            else ''
        ),
    )
    panel.set_xscale('log')
    panel.set_yscale('log')
    # A prediction that blows up would press the measured gap flat.
    measured = [
        value
        for r in chosen
        for c in columns
        if (value := found.gap_share[r][c]) is not None and value > 0
    ]
    if measured:
      panel.set_ylim(min(measured) / 3, max(measured) * 30)
    style.few_ticks(panel, epochs)
  for panel in panels[len(chosen) :]:
    panel.set_visible(False)
  for row_axes in axes:
    row_axes[0].set_ylabel('gap / |θ$_{MT}$ − θ$_0$|')
  for panel in panels[max(0, len(chosen) - width) : len(chosen)]:
    panel.set_xlabel('epochs k')
    panel.tick_params(labelbottom=True)
  style.legend(figure, panels[0], num_columns=3)
  return figure


def _draw_cell(
    panel: mpl_axes.Axes,
    x: int,
    y: int,
    value: float | None,
    palette: cm.ScalarMappable,
) -> None:
  """Draws one cell: its share in per cent, hatched where the run diverged."""
  corner = (x - 0.5, y - 0.5)
  if value is None:
    panel.add_patch(
        patches.Rectangle(
            corner,
            1,
            1,
            facecolor='white',
            edgecolor='#aaaaaa',
            hatch='////',
            linewidth=0,
        )
    )
    return
  color = palette.to_rgba(np.clip(value, *palette.get_clim()))
  panel.add_patch(
      patches.Rectangle(
          corner, 1, 1, facecolor=color, edgecolor='white', linewidth=1
      )
  )
  brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
  panel.text(
      x,
      y,
      _percent(value),
      ha='center',
      va='center',
      fontsize=7.5,
      color='black' if brightness > 0.5 else 'white',
      fontweight=('bold' if value < response_findings.USABLE else 'normal'),
  )


def _percent(value: float) -> str:
  if value >= 9.995:
    return '>999'
  return f'{100 * value:.1f}' if value < 0.0995 else f'{100 * value:.0f}'


def _mark_edge(panel: mpl_axes.Axes, steps: Sequence[float]) -> None:
  """Draws the edge of stability between the rates that it separates."""
  below = sum(step <= response_findings.EDGE_OF_STABILITY for step in steps)
  if 0 < below < len(steps):
    panel.axhline(below - 0.5, color=style.CORRECTION, linewidth=2)


def _by_rate(found: results_lib.ResponseMap) -> list[int]:
  return sorted(
      range(len(found.learning_rates)), key=lambda i: found.learning_rates[i]
  )


def _steps(found: results_lib.ResponseMap, order: list[int]) -> list[float]:
  return [found.learning_rates[row] * found.lambda_max for row in order]
