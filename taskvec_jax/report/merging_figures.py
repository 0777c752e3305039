"""Figures of the comparison of merging methods.

Each function returns a figure, or None where the run has nothing to show.
Colours say what a method was allowed to see.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
import numpy as np

from taskvec_jax.report import merging_results
from taskvec_jax.report import merging_table
from taskvec_jax.report import merging_words
from taskvec_jax.report import style

_CLASSES = {
    'data-free': '#0072b2',
    'validation': '#e69f00',
    'test inputs': '#009e73',
    'training': '#d55e00',
}
# Of Okabe and Ito, but for the yellow, which is too light for a line.
_LINES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#222222')
_DASHES = ('-', '--', ':')
# Nearer than this to multitask training is drawn at this distance.
_NEAREST = 1e-2


class _Name(NamedTuple):
  """A label beside a dot."""

  text: str
  offset: tuple[int, int] = (5, 4)  # points
  align: str = 'left'


# Named in the figure of distances; all others are dots.
_NAMES = {
    ('base', ''): _Name('base'),
    ('multitask', ''): _Name('multitask', (0, 8), 'center'),
    ('average', ''): _Name('average', (4, -10)),
    ('tsv_m', 'validation'): _Name('TSV-M, tuned', (6, -3)),
    ('regmean', ''): _Name('RegMean', (4, 4)),
    ('atm', ''): _Name('ATM', (4, -11)),
    ('linear_response', ''): _Name('linear response', (-5, 4), 'right'),
    ('second_order', ''): _Name('second order', (-6, 4), 'right'),
}


def by_method(
    results: merging_results.Results,
) -> mpl_figure.Figure | None:
  """Draws accuracy with its spread, one line a method, a panel a regime."""
  tables = _tables(results)
  methods = _ordered(tables)
  if not methods:
    return None
  height = 0.24 * len(methods) + 1.2
  figure, axes = style.grid(1, len(tables), height=height, sharey=True)
  for panel, (regime, rows) in zip(axes[0], tables.items(), strict=True):
    for row in rows:
      if row.cost == 'reference':
        _draw_reference(panel, row)
      else:
        # A little apart, so that one rule does not hide the other.
        offset = {'fixed': 0.13, 'validation': -0.13}.get(row.rule, 0.0)
        panel.errorbar(
            [100 * row.accuracy.mean],
            [methods.index(row.method) + offset],
            xerr=[100 * (row.accuracy.std or 0.0)],
            color=_CLASSES[row.cost],
            marker='o',
            markersize=5,
            markerfacecolor='white' if row.rule == 'fixed' else None,
            elinewidth=1,
            linestyle='',
        )
    style.title(panel, f'{regime}, {results.num_epochs[regime]} epochs')
    panel.set_xlabel('test accuracy, mean over the tasks (%)')
    panel.set_yticks(
        range(len(methods)),
        [merging_words.words(method).label for method in methods],
    )
    panel.set_ylim(-0.7, len(methods) - 0.3)
  _legend(figure, axes[0][0], with_rules=True)
  return figure


def near_multitask(
    results: merging_results.Results,
) -> mpl_figure.Figure | None:
  """Draws accuracy against distance and cosine to multitask training."""
  tables = {
      regime: [row for row in rows if row.distance is not None]
      for regime, rows in _tables(results).items()
  }
  if not any(tables.values()):
    return None
  figure, axes = style.grid(len(tables), 2, height=3.6, sharey='row')
  for line, (regime, rows) in zip(axes, tables.items(), strict=True):
    for row in rows:
      _draw_place(line, row)
    line[0].set_xscale('log')
    for panel in line:
      panel.margins(x=0.12, y=0.12)
    style.title(line[0], f'{regime}: distance')
    style.title(line[1], f'{regime}: direction')
    line[0].set_ylabel('test accuracy (%)')
  axes[-1][0].set_xlabel('|θ − θ$_{MT}$| / |θ$_{MT}$ − θ$_0$|')
  axes[-1][1].set_xlabel('cos(θ − θ$_0$, θ$_{MT}$ − θ$_0$)')
  _legend(figure, axes[0][0], with_rules=False)
  return figure


def scalings(results: merging_results.Results) -> mpl_figure.Figure | None:
  """Draws the score on validation data over the scaling, mean over seeds."""
  curves: dict[str, dict[str, list[merging_results.Merge]]] = {}
  for entry in results.merges:
    if entry.curve:
      by_method = curves.setdefault(entry.regime, {})
      by_method.setdefault(entry.method, []).append(entry)
  if not curves:
    return None
  figure, axes = style.grid(1, len(curves), height=4.4, sharey=True)
  names = list(merging_words.METHODS)
  methods = sorted(
      {method for found in curves.values() for method in found}, key=names.index
  )
  lowest = math.inf
  for panel, (regime, found) in zip(axes[0], curves.items(), strict=True):
    for index, method in enumerate(methods):
      if method not in found:
        continue
      scalings = np.array(found[method][0].scalings)
      mean = 100 * np.mean([entry.curve for entry in found[method]], axis=0)
      lowest = min(lowest, mean[0])
      best = int(np.argmax(mean))
      color = _LINES[index % len(_LINES)]
      panel.plot(
          scalings,
          mean,
          color=color,
          linestyle=_DASHES[index // len(_LINES) % len(_DASHES)],
          linewidth=1.4,
          label=merging_words.words(method).label,
      )
      panel.plot(scalings[best], mean[best], 'o', color=color, markersize=4)
    style.title(panel, regime)
    panel.set_xlabel('scaling α')
  # Far below the base model there is nothing to choose.
  low, high = axes[0][0].get_ylim()
  axes[0][0].set_ylim(max(low, lowest - 15), high)
  axes[0][0].set_ylabel('validation accuracy / own model’s (%)')
  style.legend(figure, axes[0][0], num_columns=4)
  return figure


def _tables(
    results: merging_results.Results,
) -> dict[str, list[merging_table.Row]]:
  return {
      regime: merging_table.rows(results, regime)
      for regime in results.num_epochs
  }


def _ordered(tables: dict[str, list[merging_table.Row]]) -> list[str]:
  """Returns the methods, the best last, by their best row in the last regime.

  Those that it does not have come first.
  """
  best: dict[str, float] = {}
  *_, last = tables
  for regime, rows in tables.items():
    for row in rows:
      if row.cost != 'reference':
        value = row.accuracy.mean if regime == last else 0.0
        best[row.method] = max(best.get(row.method, 0.0), value)
  return sorted(best, key=lambda method: best[method])


def _draw_reference(panel: mpl_axes.Axes, row: merging_table.Row) -> None:
  panel.axvline(
      100 * row.accuracy.mean,
      color=style.MODELS[row.method],
      linestyle={'base': '--', 'multitask': '-', 'finetuned': ':'}[row.method],
      linewidth=1.4,
      zorder=0,
  )


def _draw_place(line: Sequence[mpl_axes.Axes], row: merging_table.Row) -> None:
  reference = row.cost == 'reference'
  color = style.MODELS[row.method] if reference else _CLASSES[row.cost]
  name = _NAMES.get((row.method, row.rule))
  assert row.distance is not None
  places = [max(row.distance.mean, _NEAREST)]
  places += [row.cosine.mean] if row.cosine else []
  for panel, x in zip(line, places, strict=False):
    y = 100 * row.accuracy.mean
    panel.plot(
        x,
        y,
        '*' if reference else 'o',
        color=color,
        markersize=10 if reference else 4.5,
        markerfacecolor='white' if row.rule == 'fixed' else color,
    )
    if name:
      panel.annotate(
          name.text,
          (x, y),
          textcoords='offset points',
          xytext=name.offset,
          ha=name.align,
          fontsize=7,
          color=style.INK,
      )


def _legend(
    figure: mpl_figure.Figure, panel: mpl_axes.Axes, *, with_rules: bool
) -> None:
  """Adds what colours and hollow marks mean, and with rules the lines."""
  for text, cost in (
      ('data-free', 'data-free'),
      ('labelled validation images', 'validation'),
      ('test images without labels', 'test inputs'),
      ('training images', 'training'),
  ):
    panel.plot([], [], 'o', color=_CLASSES[cost], label=text)
  panel.plot(
      [],
      [],
      'o',
      color=style.INK,
      markerfacecolor='white',
      label='hollow: fixed scaling',
  )
  if with_rules:
    for name, look, text in (
        ('base', '--', 'base'),
        ('multitask', '-', 'multitask training'),
        ('finetuned', ':', 'single-task models'),
    ):
      color = style.MODELS[name]
      panel.plot([], [], color=color, linestyle=look, label=text)
  style.legend(figure, panel, num_columns=4)
