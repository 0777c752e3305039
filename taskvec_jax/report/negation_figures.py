"""Figures of a negation run: curves of forgetting, disentanglement maps.

Each function returns a figure, or None where the run left out what it shows.
"""

import math
import statistics

from matplotlib import axes as mpl_axes
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure as mpl_figure
from matplotlib import patches
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import negation_findings
from taskvec_jax.report import negation_results
from taskvec_jax.report import style

_TARGET, _CONTROL = '#d55e00', '#0072b2'


def curves(results: negation_results.Results) -> mpl_figure.Figure | None:
  """Draws validation accuracy against lambda, one panel a start."""
  if not results.forgetting:
    return None
  figure, panels = _panels(results, height=3.4)
  for panel, rows in panels:
    for field, color, name in (
        ('target_curve', _TARGET, 'the target'),
        ('control_curve', _CONTROL, 'the other tasks'),
    ):
      values = 100 * np.asarray([getattr(row, field) for row in rows])
      low, high = np.quantile(values, (0.1, 0.9), axis=0)
      panel.fill_between(
          rows[0].scalings, low, high, color=color, alpha=0.18, linewidth=0
      )
      panel.plot(rows[0].scalings, values.mean(axis=0), color=color, label=name)
    chosen = sorted(row.scaling for row in rows)
    panel.axvline(
        chosen[len(chosen) // 2],
        color=style.FAINT,
        linestyle='--',
        linewidth=1.2,
        label='λ chosen, median',
    )
    panel.set_xlabel('λ')
  panels[0][0].set_ylabel('validation accuracy (%)')
  style.legend(figure, panels[0][0], num_columns=3)
  return figure


def targets(results: negation_results.Results) -> mpl_figure.Figure | None:
  """Draws accuracy on each target before and after, one panel a start."""
  if not results.forgetting:
    return None
  figure, panels = _panels(results, height=3.2, sharex=True)
  names = list(dict.fromkeys(row.target for row in results.forgetting))[::-1]
  for panel, rows in panels:
    for y, name in enumerate(names):
      _draw_target(panel, y, [row for row in rows if row.target == name])
    panel.set_yticks(range(len(names)), names)
    panel.set_xlim(0, 102)
    panel.set_xlabel('accuracy on the target (%)')
  style.legend(figure, panels[-1][0], num_columns=4)
  return figure


def maps(results: negation_results.Results) -> mpl_figure.Figure | None:
  """Draws xi over two coefficients, one heat map a model, mean over seeds."""
  models = [
      model
      for model in negation_results.MODELS
      if any(one.model == model for one in results.disentanglement)
  ]
  if not models:
    return None
  figure, axes = style.grid(1, len(models), height=3.9, sharey=True)
  tables = {
      model: 100
      * np.mean(
          [one.error for one in results.disentanglement if one.model == model],
          axis=0,
      )
      for model in models
  }
  highest = max(float(table.max()) for table in tables.values()) or 1.0
  norm = colors.Normalize(0, highest)
  first = results.disentanglement[0]
  at = np.asarray(first.scalings)
  step = (at[-1] - at[0]) / max(len(at) - 1, 1) or 1.0
  extent = (at[0] - step / 2, at[-1] + step / 2) * 2
  for panel, model in zip(axes[0], models, strict=True):
    panel.grid(False)
    panel.imshow(
        tables[model].T,
        origin='lower',
        extent=extent,
        cmap='cividis_r',
        norm=norm,
        aspect='equal',
    )
    panel.add_patch(
        patches.Rectangle(
            (0, 0), 1, 1, fill=False, edgecolor='white', linewidth=1.5
        )
    )
    style.title(panel, f'{model} model')
    panel.set_xlabel(f'a$_1$, {first.tasks[0]}')
  axes[0][0].set_ylabel(f'a$_2$, {first.tasks[1]}')
  bar = figure.colorbar(
      cm.ScalarMappable(norm, 'cividis_r'),
      ax=axes[0],
      location='right',
      pad=0.02,
      format=ticker.PercentFormatter(100, decimals=0),
  )
  bar.set_label('ξ, of 200% at most', fontsize=9.5)
  bar.ax.tick_params(labelsize=8.5)
  return figure


def _panels(
    results: negation_results.Results, *, height: float, **grid_options
) -> tuple[
    mpl_figure.Figure,
    list[tuple[mpl_axes.Axes, list[negation_results.Forgetting]]],
]:
  """Returns a figure and, of each start that was run, its panel and rows."""
  by_start = {
      start: [row for row in results.forgetting if row.start == start]
      for start in negation_results.STARTS
  }
  by_start = {start: rows for start, rows in by_start.items() if rows}
  figure, (axes,) = style.grid(
      1, len(by_start), height=height, sharey=True, **grid_options
  )
  for panel, start in zip(axes, by_start, strict=True):
    style.title(panel, negation_results.STARTS[start])
  return figure, list(zip(axes, by_start.values(), strict=True))


def _draw_target(
    panel: mpl_axes.Axes, y: int, rows: list[negation_results.Forgetting]
) -> None:
  """Draws one target: an arrow from before to after, means over seeds."""
  if not rows:
    return

  def value(model):
    found = [negation_findings.target(row, model) for row in rows]
    return 100 * statistics.fmean(found)

  before, after, never = (value(m) for m in ('before', 'after', 'never'))
  panel.plot([before, after], [y, y], color=style.FAINT, linewidth=1.2)
  panel.plot(before, y, 'o', color=_CONTROL, label='before')
  panel.plot(after, y, 'o', color=_TARGET, label='after')
  panel.plot(
      100 * rows[0].chance, y, '|', color=style.INK, ms=11, label='chance'
  )
  if not math.isnan(never):
    panel.plot(
        never, y, 'D', color='#009e73', ms=5, mfc='none', label='never learned'
    )
