"""The rows of the comparison, over seeds, grouped by what a method saw.

Two accuracies relative to the tasks' own models are in use, both of one seed:

  normalised = mean over tasks of accuracy / accuracy of the task's own model,
  share      = (model - base) / (own models - base), means over tasks.

The first is the custom; a base model that is good already makes it large, which
the second does not.
"""

from collections.abc import Sequence
import statistics
from typing import NamedTuple

from taskvec_jax.report import accuracy as accuracy_lib
from taskvec_jax.report import claims
from taskvec_jax.report import merging_results
from taskvec_jax.report import merging_words

# The least that a row's class was allowed to see, to the most.
CLASSES = {
    'reference': 'References, not merged',
    'data-free': 'Data-free: the models alone',
    'validation': 'Labelled validation images',
    'test inputs': 'The test images themselves, without labels',
    'training': 'Training images',
}

BAR = 10.0  # a corrected merge is nearer by this factor at small steps


class Row(NamedTuple):
  """One method, one rule for its scaling, one regime; over seeds."""

  regime: str
  method: str
  rule: str
  cost: str  # a key of CLASSES
  label: str
  scaling: accuracy_lib.Spread | None
  accuracy: accuracy_lib.Spread  # mean over the tasks
  normalised: accuracy_lib.Spread
  share: accuracy_lib.Spread | None  # None where finetuning gains under a point
  distance: accuracy_lib.Spread | None  # relative to |theta_MT - theta_0|
  cosine: accuracy_lib.Spread | None
  tasks: dict[str, accuracy_lib.Spread]  # task -> accuracy
  examples: dict[str, int]  # of the first seed; seeds differ by nothing
  seconds: float  # median over seeds


def rows(results: merging_results.Results, regime: str) -> list[Row]:
  """Returns a regime's rows, in the order of what they saw."""
  groups: dict[tuple[str, str], list[merging_results.Merge]] = {}
  for entry in results.merges:
    if entry.regime == regime:
      groups.setdefault((entry.method, entry.rule), []).append(entry)
  known = {
      (entry.seed, entry.method): entry
      for entry in results.merges
      if entry.regime == regime and entry.method in merging_words.REFERENCES
  }
  order = list(merging_words.REFERENCES) + list(merging_words.METHODS)
  found = [_row(entries, known) for entries in groups.values()]
  return sorted(
      found,
      key=lambda row: (list(CLASSES).index(row.cost), order.index(row.method)),
  )


def cost_class(entry: merging_results.Merge) -> str:
  """Returns the class of what a merge read."""
  if entry.method in merging_words.REFERENCES:
    return 'reference'
  read = [kind for kind in merging_results.KINDS if entry.examples.get(kind)]
  if not read:
    return 'data-free'
  return read[-1].replace('training inputs', 'training')


def ledger(examples: dict[str, int]) -> str:
  """Returns what was read in words, such as '1,162 validation'."""
  return ', '.join(
      f'{examples[kind]:,} {kind}'
      for kind in merging_results.KINDS
      if examples.get(kind)
  )


def label(method: str, rule: str, scaling: accuracy_lib.Spread | None) -> str:
  """Returns a method's name with how it was scaled."""
  name = merging_words.words(method).label
  if rule == 'validation':
    return f'{name}, α tuned'
  if rule == 'fixed' and scaling is not None:
    return f'{name}, α = {scaling.mean:g}'
  return name


class Bar(NamedTuple):
  """How much nearer corrected merges are at the small learning rates."""

  second_order: float  # the smallest ratio of distances over eta and k
  linear_response: float

  @property
  def holds(self) -> bool:
    """Whether both are at least 10 times nearer."""
    return min(self) >= BAR


def bar(results: merging_results.Results) -> Bar | None:
  """Returns the smallest ratios; None where they were not measured."""
  ratios = [
      (gap / max(second, _TINY), gap / max(linear, _TINY))
      for run in results.small_steps
      for gap, second, linear in zip(
          run.gap, run.left_by_correction, run.left_by_response, strict=True
      )
  ]
  if not ratios:
    return None
  return Bar(min(r[0] for r in ratios), min(r[1] for r in ratios))


_TINY = 1e-300
_COLUMNS = (
    ('', 44, '<'),
    ('accuracy', 13, '>'),
    ('norm.', 6, '>'),
    ('|th-MT|', 8, '>'),
    ('cos', 6, '>'),
    ('read', 14, '>'),
)


def format_table(results: merging_results.Results) -> str:
  """Returns a plain ASCII table, at most 96 columns, without a last newline."""
  lines = []
  for regime, num_epochs in results.num_epochs.items():
    head = [f'{regime} regime, {num_epochs} epochs']
    head += [name for name, _, _ in _COLUMNS[1:]]
    lines += [_line(head), '-' * 96]
    cost = ''
    for row in rows(results, regime):
      if row.cost != cost:
        cost = row.cost
        lines.append(CLASSES[cost])
      lines.append(_line(_cells(row)))
    lines.append('')
  found = bar(results)
  if found is not None:
    lines += [
        'At the small learning rates of the slope test (float64) corrected'
        ' merges are nearer to',
        'multitask training than task arithmetic by factors of at least'
        f' {found.second_order:,.0f} (second order)',
        f'and {found.linear_response:,.0f} (linear response);'
        f' {BAR:g} is the bar: {"holds" if found.holds else "missed"}.',
    ]
  return '\n'.join(lines).rstrip()


def _cells(row: Row) -> list[str]:
  spread = f'{100 * row.accuracy.mean:.1f}'
  if row.accuracy.std is not None:
    spread += f' ± {100 * row.accuracy.std:.1f}'
  return [
      '  ' + row.label,
      spread,
      f'{100 * row.normalised.mean:.1f}',
      '' if row.distance is None else f'{row.distance.mean:.2g}',
      '' if row.cosine is None else f'{row.cosine.mean:.2f}',
      f'{sum(row.examples.values()):,}' if row.examples else '',
  ]


def _line(cells: Sequence[str]) -> str:
  return ' '.join(
      f'{claims.plain_ascii(cell):{align}{width}}'
      for cell, (_, width, align) in zip(cells, _COLUMNS, strict=True)
  ).rstrip()


def _row(entries: list[merging_results.Merge], known) -> Row:
  first = entries[0]
  scaling = accuracy_lib.spread_of_all([entry.scaling for entry in entries])
  own = [known[entry.seed, 'finetuned'] for entry in entries]
  base = [known[entry.seed, 'base'] for entry in entries]
  normalised = [
      statistics.fmean(
          entry.accuracy[task] / max(one.accuracy[task], _TINY)
          for task in entry.accuracy
      )
      for entry, one in zip(entries, own, strict=True)
  ]
  means = [
      [accuracy_lib.over_tasks(one.accuracy) for one in models]
      for models in zip(entries, base, own, strict=True)
  ]
  shares = [accuracy_lib.share(*one) for one in means]
  return Row(
      regime=first.regime,
      method=first.method,
      rule=first.rule,
      cost=cost_class(first),
      label=label(first.method, first.rule, scaling),
      scaling=scaling,
      accuracy=accuracy_lib.spread([mean for mean, _, _ in means]),
      normalised=accuracy_lib.spread(normalised),
      share=accuracy_lib.spread_of_all(shares),
      distance=accuracy_lib.spread_of_all(
          [entry.relative_distance for entry in entries]
      ),
      cosine=accuracy_lib.spread_of_all([entry.cosine for entry in entries]),
      tasks={
          task: accuracy_lib.spread([entry.accuracy[task] for entry in entries])
          for task in first.accuracy
      },
      examples=first.examples,
      seconds=statistics.median(entry.seconds for entry in entries),
  )
