"""Figures of a study, drawn from the curves and maps in its results."""

from matplotlib import axes as mpl_axes
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import study_results
from taskvec_jax.report import style

_LOOK = {  # of a line, by how its numbers came about
    study_results.PREDICTED: {'linestyle': '--', 'linewidth': 1.6},
    study_results.MEASURED: {'marker': 'o', 'markersize': 4, 'linewidth': 1.1},
    study_results.BOUND: {'linestyle': ':', 'linewidth': 1.8},
    study_results.REFERENCE: {'linewidth': 1.2, 'alpha': 0.75},
}


def curves(figure: study_results.Curves) -> mpl_figure.Figure:
  """Draws every panel's lines with their spread, and one legend."""
  drawn, axes = style.grid(1, len(figure.panels), height=3.6, sharey=True)
  handles = {}
  for axis, panel in zip(axes[0], figure.panels, strict=True):
    for series in panel.series:
      handles.setdefault(series.label, _line(axis, series))
    if figure.log_x:
      axis.set_xscale('log')
      style.few_ticks(axis, [x for one in panel.series for x in one.x])
    elif all(x == round(x) for one in panel.series for x in one.x):
      axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if figure.log_y:
      axis.set_yscale('log')
    style.title(axis, panel.title)
    axis.set_xlabel(figure.x_label)
  axes[0][0].set_ylabel(figure.y_label)
  drawn.legend(
      handles.values(),
      handles.keys(),
      loc='outside lower center',
      ncols=min(len(handles), 3),
      frameon=False,
      fontsize=9.5,
  )
  return drawn


def heat_map(figure: study_results.Map) -> mpl_figure.Figure:
  """Draws every panel's values, and the edge of what was predicted."""
  drawn, axes = style.grid(1, len(figure.panels), height=3.9, sharey=True)
  norm = colors.Normalize(figure.low, figure.high)
  for axis, panel in zip(axes[0], figure.panels, strict=True):
    axis.grid(False)
    values = np.asarray(panel.values, float)  # None becomes NaN: left white
    axis.pcolormesh(
        panel.x, panel.y, values, cmap='cividis', norm=norm, shading='nearest'
    )
    if panel.predicted is not None:
      _edge(axis, panel)
    style.title(axis, panel.title)
    axis.set_xlabel(figure.x_label)
  axes[0][0].set_ylabel(figure.y_label)
  bar = drawn.colorbar(
      cm.ScalarMappable(norm, 'cividis'), ax=axes[0], location='right', pad=0.02
  )
  bar.set_label(figure.value_label, fontsize=9.5)
  bar.ax.tick_params(labelsize=8.5)
  return drawn


def _line(axis: mpl_axes.Axes, series: study_results.Series):
  color = style.SERIES[series.color]
  if series.low is not None and series.high is not None:
    axis.fill_between(
        series.x,
        np.asarray(series.low, float),
        np.asarray(series.high, float),
        color=color,
        alpha=0.18,
        linewidth=0,
    )
  (line,) = axis.plot(
      series.x,
      np.asarray(series.y, float),
      color=color,
      **_LOOK[series.kind],
  )
  return line


def _edge(axis: mpl_axes.Axes, panel: study_results.MapPanel) -> None:
  """Draws the edge of the predicted region, cell by cell, not smoothed."""
  region = np.asarray(panel.predicted, bool)
  x, y = _bounds(panel.x), _bounds(panel.y)
  segments = []
  for row, column in np.argwhere(region[:, 1:] != region[:, :-1]):
    segments.append([[x[column + 1]] * 2, [y[row], y[row + 1]]])
  for row, column in np.argwhere(region[1:] != region[:-1]):
    segments.append([[x[column], x[column + 1]], [y[row + 1]] * 2])
  for xs, ys in segments:
    axis.plot(xs, ys, color='white', linewidth=3, solid_capstyle='projecting')
  for xs, ys in segments:
    axis.plot(
        xs, ys, color='#d55e00', linewidth=1.6, solid_capstyle='projecting'
    )


def _bounds(centres: list[float]) -> np.ndarray:
  """Returns the edges of cells around `centres`, `[len + 1]`."""
  at = np.asarray(centres, float)
  if len(at) == 1:
    return np.array([at[0] - 0.5, at[0] + 0.5])
  middles = (at[1:] + at[:-1]) / 2
  first, last = at[0] - (middles[0] - at[0]), at[-1] + (at[-1] - middles[-1])
  return np.concatenate([[first], middles, [last]])
