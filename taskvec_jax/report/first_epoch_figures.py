"""Figures of claims 5 and 6: the first epoch, and accuracy after merging.

Each function returns a figure, or None where the run left out what it shows.
"""

from collections.abc import Sequence
import statistics

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from taskvec_jax.report import accuracy
from taskvec_jax.report import first_epoch_findings
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import style

_BAND = (0.1, 0.9)  # quantiles over the runs
_CONVERGED = 'conv.'


def first_epoch(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws share of the path and cosines by epoch, one row a regime."""
  regimes = [
      regime
      for regime in accuracy.REGIMES
      if first_epoch_findings.task_runs(results, regime)
  ]
  if not regimes:
    return None
  figure, axes = style.grid(len(regimes), 3, height=2.7)
  for row, regime in zip(axes, regimes, strict=True):
    runs = first_epoch_findings.task_runs(results, regime)
    color = style.REGIMES[regime]
    _draw_by_epoch(row[0], runs, [run.path_shares for run in runs], color)
    row[0].yaxis.set_major_formatter(
        ticker.FuncFormatter(lambda share, _: f'{100 * share:g}%')
    )
    row[0].set_ylim(bottom=0)
    style.title(row[0], f'{regime}: share of the path')
    _draw_by_epoch(row[1], runs, [run.cos_update_first for run in runs], color)
    style.title(row[1], 'cos(δ$^{(e)}$, δ$^{(1)}$)')
    _draw_snapshots(row[2], runs, color)
    style.title(row[2], 'cosines of the task vector')
    for panel in row[1:]:
      low = min(panel.get_ylim()[0], 0.0)
      panel.set_ylim(low, 1.05)
  for panel in axes[-1]:
    panel.set_xlabel('epoch e')
  return figure


def merging(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws accuracy by epochs of finetuning before merging, by regime."""
  rows = accuracy.rows(results)
  regimes = [
      regime
      for regime in accuracy.REGIMES
      if any(row.regime == regime and row.model == 'merged' for row in rows)
  ]
  if not regimes:
    return None
  figure, axes = style.grid(1, len(regimes), height=4.0, sharey=True)
  for panel, regime in zip(axes[0], regimes, strict=True):
    own = [row for row in rows if row.regime == regime]
    labels = _labels([(row.epochs, row.converged) for row in own])
    panel.set_xticks(range(len(labels)), labels)
    panel.set_xlim(-0.3, len(labels) - 0.7)
    style.title(panel, regime)
    panel.set_xlabel('epochs of finetuning')
    for row in rows:
      if row.model == 'base':
        _draw_base(panel, row.accuracy)
    for model, name in (
        ('finetuned', 'finetuned'),
        ('multitask', 'multitask'),
        ('merged 1/T', 'merged, α = 1/T'),
        ('merged validation', 'merged, α tuned'),
    ):
      curve = [
          row
          for row in own
          if ' '.join(filter(None, (row.model, row.alpha_rule))) == model
      ]
      _draw_model(panel, curve, labels, model, name)
  axes[0][0].set_ylabel('test accuracy, mean over the tasks (%)')
  style.legend(figure, axes[0][0], num_columns=5)
  return figure


def similarity(results: results_lib.Results) -> mpl_figure.Figure | None:
  """Draws cosines between task vectors: the first epochs, then converged."""
  groups: dict[tuple[str, int | None], list[results_lib.Similarity]] = {}
  for one in results.similarities:
    if one.epochs in (1, None) and len(one.tasks) > 1:
      groups.setdefault((one.regime, one.epochs), []).append(one)
  if not groups:
    return None
  num_columns = min(len(groups), 2)
  num_rows = -(-len(groups) // num_columns)
  figure, axes = style.grid(num_rows, num_columns, height=3.6)
  panels = [panel for row in axes for panel in row]
  for panel in panels[len(groups) :]:
    panel.set_visible(False)
  for panel, ((regime, epochs), seeds) in zip(
      panels, groups.items(), strict=False
  ):
    cosines = np.mean([one.cosines for one in seeds], axis=0)
    norms = np.mean([one.norms for one in seeds], axis=0)
    _draw_cosines(panel, cosines, norms, seeds[0].tasks)
    when = 'converged' if epochs is None else f'{epochs} epoch'
    style.title(panel, f'{regime}, {when}')
  return figure


def _draw_cosines(
    panel: mpl_axes.Axes,
    cosines: np.ndarray,
    norms: np.ndarray,
    tasks: Sequence[str],
) -> None:
  """Draws a table of cosines; the lengths stand beside the names."""
  panel.grid(False)
  panel.imshow(cosines, cmap='PuOr', vmin=-1, vmax=1)
  for row, column in np.ndindex(*cosines.shape):
    value = cosines[row, column]
    panel.text(
        column,
        row,
        f'{value:.2f}',
        ha='center',
        va='center',
        fontsize=7.5,
        color='white' if abs(value) > 0.6 else style.INK,
    )
  labels = [
      f'{task}\n|τ| = {norm:.2g}'
      for task, norm in zip(tasks, norms, strict=True)
  ]
  panel.set_yticks(range(len(tasks)), labels)
  panel.set_xticks(range(len(tasks)), tasks, rotation=35, ha='right')


def _draw_by_epoch(
    panel: mpl_axes.Axes,
    runs: Sequence[results_lib.Finetuning],
    curves: Sequence[Sequence[float]],
    color: str,
) -> None:
  """Draws mean and band over the runs that still go on at each epoch.

  The line ends where fewer than half of the runs go on: a mean over the few
  slowest tasks is another quantity.
  """
  kept = [
      curve[: run.converged_epoch]
      for run, curve in zip(runs, curves, strict=True)
  ]
  kept = [curve for curve in kept if curve]
  if not kept:
    return
  lengths = sorted(len(curve) for curve in kept)
  last = lengths[len(lengths) // 2]
  columns = [
      [curve[epoch] for curve in kept if len(curve) > epoch]
      for epoch in range(last)
  ]
  epochs = np.arange(1, last + 1)
  _draw_band(panel, epochs, columns, color)
  if last > 12:
    panel.set_xscale('log')
    style.few_ticks(panel, [1, last])
  else:
    panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _draw_snapshots(
    panel: mpl_axes.Axes,
    runs: Sequence[results_lib.Finetuning],
    color: str,
) -> None:
  """Draws cosines of tau^(e) with tau^(1) and with tau^(converged)."""
  places = [
      (epoch, index == len(run.snapshot_epochs) - 1)
      for run in runs
      for index, epoch in enumerate(run.snapshot_epochs)
  ]
  labels = _labels(places)
  for name, look, values in (
      ('with τ$^{(1)}$', '-', [run.cos_tau_first for run in runs]),
      ('with τ$^{(conv.)}$', '--', [run.cos_tau_last for run in runs]),
  ):
    columns: list[list[float]] = [[] for _ in labels]
    for run, cosines in zip(runs, values, strict=True):
      final = len(run.snapshot_epochs) - 1
      for index, cosine in enumerate(cosines):
        label = _label(run.snapshot_epochs[index], index == final)
        columns[labels.index(label)].append(cosine)
    _draw_band(
        panel,
        np.arange(len(labels)),
        columns,
        color,
        label=name,
        linestyle=look,
    )
  panel.set_xticks(range(len(labels)), labels)
  panel.axhline(
      first_epoch_findings.LEAST_COSINE,
      color=style.FAINT,
      linewidth=1,
      linestyle=':',
  )
  panel.legend(frameon=False, fontsize=8.5, loc='lower center')


def _draw_band(
    panel: mpl_axes.Axes,
    x: np.ndarray,
    columns: Sequence[Sequence[float]],
    color: str,
    **look,
) -> None:
  means = [statistics.fmean(values) for values in columns]
  low, high = np.array(
      [np.quantile(np.array(values), _BAND) for values in columns]
  ).T
  panel.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
  marker = 'o' if len(means) <= 30 else ''
  panel.plot(
      x, means, color=color, linewidth=1.7, marker=marker, markersize=3, **look
  )


def _draw_base(panel: mpl_axes.Axes, spread: accuracy.Spread) -> None:
  panel.axhline(
      100 * spread.mean,
      color=style.MODELS['base'],
      linewidth=1.6,
      linestyle='--',
      label='base',
  )


def _draw_model(
    panel: mpl_axes.Axes,
    curve: Sequence[accuracy.Row],
    labels: list[str],
    model: str,
    name: str,
) -> None:
  """Draws one model; a bar of one standard deviation where seeds give one."""
  if not curve:
    return
  merged = model.startswith('merged')
  if len(curve) == 1:  # a reference: a line to compare with at all epochs
    panel.axhline(
        100 * curve[0].accuracy.mean,
        color=style.MODELS[model],
        linewidth=1,
        linestyle=':',
    )
  # A little apart, so that bars at the same epochs do not hide one another.
  offset = 0.06 * (list(style.MODELS).index(model) - 2.5)
  panel.errorbar(
      [
          labels.index(_label(row.epochs, row.converged)) + offset
          for row in curve
      ],
      [100 * row.accuracy.mean for row in curve],
      yerr=[100 * (row.accuracy.std or 0.0) for row in curve],
      color=style.MODELS[model],
      marker=style.MARKERS[model],
      markersize=5,
      linewidth=2.0 if merged else 1.2,
      linestyle='-' if merged else ':',
      capsize=2,
      elinewidth=1,
      label=name,
  )


def _labels(places: Sequence[tuple[int | None, bool]]) -> list[str]:
  """Returns the labels of an axis of snapshots: epochs in order, converged."""
  epochs = sorted(
      {
          epoch
          for epoch, converged in places
          if epoch is not None and not converged
      }
  )
  labels = [str(epoch) for epoch in epochs]
  if any(converged for _, converged in places):
    labels.append(_CONVERGED)
  return labels


def _label(epoch: int | None, converged: bool) -> str:
  return _CONVERGED if converged else str(epoch)
