"""How every figure of the report looks: colours, sizes, axes.

The colours are those of Okabe and Ito, which stay apart for readers who do not
see all colours; each quantity and each model keeps its colour, marker and line
from figure to figure. Figures are drawn on white with the object interface of
matplotlib, so that importing this package changes no global state.
"""

from collections.abc import Sequence
import math

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker

INK = '#222222'
FAINT = '#767676'
GRID = '#e4e4e4'

GAP = '#222222'
CORRECTION = '#d55e00'
RESPONSE = '#0072b2'

KINDS = {'certified': '#0072b2', 'estimate': '#e69f00', 'measured': '#222222'}
REGIMES = {'exact': '#0072b2', 'empirical': '#d55e00'}
MODELS = {
    'base': '#767676',
    'finetuned': '#cc79a7',
    'multitask': '#222222',
    'merged 1/T': '#e69f00',
    'merged validation': '#0072b2',
}
MARKERS = {
    'base': '',
    'finetuned': 's',
    'multitask': '^',
    'merged 1/T': 'o',
    'merged validation': 'D',
}

# What figures of a study tell apart.
SERIES = (
    '#0072b2',
    '#d55e00',
    '#009e73',
    '#cc79a7',
    '#e69f00',
    '#56b4e9',
    '#222222',
    '#767676',
)

WIDTH = 9.0  # inches; the page shows it at most 960 pixels wide
DPI = 160


def grid(
    num_rows: int, num_columns: int, *, height: float, **subplots_options
) -> tuple[mpl_figure.Figure, list[list[mpl_axes.Axes]]]:
  """Returns a figure of page width and its axes; `height` inches a row."""
  figure = mpl_figure.Figure(
      figsize=(WIDTH, height * num_rows + 0.5), layout='constrained', dpi=DPI
  )
  axes = figure.subplots(
      num_rows, num_columns, squeeze=False, **subplots_options
  )
  for row in axes:
    for panel in row:
      plain(panel)
  return figure, [list(row) for row in axes]


def plain(panel: mpl_axes.Axes) -> None:
  """Takes away what carries no number: frame, heavy grid, dark ticks."""
  panel.spines[['top', 'right']].set_visible(False)
  panel.spines[['left', 'bottom']].set_color(FAINT)
  panel.tick_params(colors=INK, labelsize=8.5)
  panel.grid(True, color=GRID, linewidth=0.7)
  panel.set_axisbelow(True)
  panel.xaxis.label.set_fontsize(9.5)
  panel.yaxis.label.set_fontsize(9.5)


def title(panel: mpl_axes.Axes, text: str) -> None:
  """Sets the title of one panel, smaller than matplotlib would."""
  panel.set_title(text, fontsize=10)


def legend(
    figure: mpl_figure.Figure, panel: mpl_axes.Axes, *, num_columns: int
) -> None:
  """Puts one legend below all panels, each label of `panel` once."""
  handles, labels = panel.get_legend_handles_labels()
  unique = dict(zip(labels, handles, strict=True))
  figure.legend(
      unique.values(),
      unique.keys(),
      loc='outside lower center',
      ncols=num_columns,
      frameon=False,
      fontsize=9.5,
  )


def few_ticks(panel: mpl_axes.Axes, values: Sequence[float]) -> None:
  """Labels a logarithmic x axis at a few plain numbers within `values`."""
  low, high = min(values), max(values)
  candidates = [
      base * 10.0**power
      for power in range(-9, 7)
      for base in (1, 2, 5)
      if low * 0.99 <= base * 10.0**power <= high * 1.01
  ]
  step = max(1, math.ceil(len(candidates) / 6))
  panel.xaxis.set_major_locator(ticker.FixedLocator(candidates[::step]))
  panel.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def spread_out(values: Sequence[int], count: int) -> list[int]:
  """Returns at most `count` of `values`, evenly by index, with both ends."""
  if len(values) <= count:
    return list(values)
  last = len(values) - 1
  return [values[round(i * last / (count - 1))] for i in range(count)]


def positive(value: float | None) -> float:
  """Returns what a logarithmic axis can show; else a gap in the line."""
  return value if value is not None and value > 0 else math.nan
