"""What a negation run says of each question, with the criteria.

One number a seed: means over the targets, and differences within a seed
(`spreads`).

Source: Ilharco et al., arXiv:2212.04089, for negation and analogies;
Ortiz-Jimenez, Favero and Frossard, arXiv:2305.12827, for disentanglement. The
comparison with models that never learned the task is this project's.
"""

from collections.abc import Callable
import math
import statistics

from taskvec_jax.report import accuracy
from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import negation_results
from taskvec_jax.report import spreads
from taskvec_jax.report import verdicts


def claims(results: negation_results.Results) -> list[claims_lib.Claim]:
  """Returns every part of every question, judged, in order."""
  return claims_lib.judged(_STATEMENTS, results)


def target(row: negation_results.Forgetting, model: str) -> float:
  """Returns the accuracy on the target of 'before', 'after' or 'never'.

  NaN where there is no model that never learned it.
  """
  accuracies = getattr(row, model)
  return math.nan if accuracies is None else accuracies[row.target]


def control(row: negation_results.Forgetting, model: str) -> float:
  """Returns the mean accuracy on the other tasks, as `target` does."""
  accuracies = getattr(row, model)
  if accuracies is None:
    return math.nan
  others = [value for task, value in accuracies.items() if task != row.target]
  return statistics.fmean(others)


def over_targets(
    results: negation_results.Results,
    start: str,
    value_fn: Callable[[negation_results.Forgetting], float],
) -> dict[int, float]:
  """Returns seed -> mean of a value over the targets of one start."""
  values: dict[int, list[float]] = {}
  for row in results.forgetting:
    value = value_fn(row) if row.start == start else math.nan
    if not math.isnan(value):
      values.setdefault(row.seed, []).append(value)
  return {seed: statistics.fmean(own) for seed, own in values.items()}


def mean_error(
    found: negation_results.Disentanglement, *, inside: bool
) -> float:
  """Returns xi over the map, or over 0 < a_1, a_2 <= 1 alone."""
  kept = [
      value
      for first, line in zip(found.scalings, found.error, strict=True)
      for second, value in zip(found.scalings, line, strict=True)
      if not inside or (0 < first <= 1 and 0 < second <= 1)
  ]
  return statistics.fmean(kept) if kept else math.nan


def _forgetting(results: negation_results.Results) -> list[verdicts.Finding]:
  found = []
  for start, name in negation_results.STARTS.items():
    before, after = (
        over_targets(results, start, lambda row, m=m: target(row, m))
        for m in ('before', 'after')
    )
    fall = spreads.paired(before, after)
    change = spreads.paired(after, before)
    share = over_targets(
        results,
        start,
        lambda row: control(row, 'after') / control(row, 'before'),
    )
    where = f'{name}: the target falls'
    if fall is None or change is None:
      found.append(verdicts.not_measured(where, 'lower, in points'))
      continue
    chance = over_targets(results, start, lambda row: row.chance)
    kept = accuracy.spread(list(share.values()))
    found += [
        verdicts.Finding(
            where,
            'lower, in points',
            f'{spreads.difference(change)}: {spreads.per_cent(before)} to'
            f' {spreads.per_cent(after)} %'
            f' (chance {spreads.per_cent(chance)} %)',
            spreads.above(fall),
            'Test accuracy on the task that is forgotten, mean over the'
            ' targets, before and after.',
        ),
        verdicts.Finding(
            f'{name}: the control stays',
            f'at least {100 * results.control:g} % of before',
            f'{spreads.points(kept)} %',
            spreads.above(kept, results.control),
            'λ keeps this share on validation images by its choice; this is'
            ' the share on test images, mean over the targets. “Undecided”:'
            ' the interval over seeds holds the bar.',
        ),
    ]
  return found


def _never(results: negation_results.Results) -> list[verdicts.Finding]:
  found = []
  for start, other in (
      ('merged', 'the merge of the others'),
      ('multitask', 'training on the others'),
  ):
    for kind, value_fn in (('target', target), ('control', control)):
      after, never = (
          over_targets(results, start, lambda row, m=m, f=value_fn: f(row, m))
          for m in ('after', 'never')
      )
      where = f'{negation_results.STARTS[start]}, {kind}'
      # Lower is better for what is forgotten, higher for what is kept.
      pair = (never, after) if kind == 'target' else (after, never)
      gain = spreads.paired(*pair)
      word = 'no higher' if kind == 'target' else 'no lower'
      if gain is None:
        found.append(verdicts.not_measured(where, f'{word} than {other}'))
        continue
      difference = spreads.paired(after, never)
      assert difference is not None
      found.append(
          verdicts.Finding(
              where,
              f'{word} than {other}',
              f'{spreads.difference(difference)}: {spreads.per_cent(after)}'
              f' against {spreads.per_cent(never)} %',
              spreads.above(gain, -accuracy.MARGIN),
              'Test accuracy after forgetting minus that of the model that'
              ' never learned the target, mean over the targets; a point in'
              ' the wrong direction is allowed.',
          )
      )
  return found


def _disentanglement(
    results: negation_results.Results,
) -> list[verdicts.Finding]:
  def by_seed(model, value_fn):
    own = [one for one in results.disentanglement if one.model == model]
    return spreads.by_seed(own, value_fn)

  found = []
  for where, value_fn in (
      ('error, all of the map', lambda one: mean_error(one, inside=False)),
      ('error, 0 < a ≤ 1', lambda one: mean_error(one, inside=True)),
      (
          'accuracy at the own vector',
          lambda one: accuracy.over_tasks(one.alone),
      ),
  ):
    predicted = 'linearised lower, in points'
    curved, linear = (by_seed(m, value_fn) for m in negation_results.MODELS)
    fall = spreads.paired(curved, linear)
    change = spreads.paired(linear, curved)
    if fall is None or change is None or math.isnan(fall.mean):
      found.append(verdicts.not_measured(where, predicted))
      continue
    found.append(
        verdicts.Finding(
            where,
            predicted,
            f'{spreads.difference(change)}: {spreads.per_cent(curved)} to'
            f' {spreads.per_cent(linear)} %',
            spreads.above(fall),
            'The error ξ is a sum over the two tasks, so 200 % at most. The'
            ' price of linearising is the accuracy of θ₀ + τ on the vector’s'
            ' own task, mean over the two.',
        )
    )
  return found


def _analogy(results: negation_results.Results) -> list[verdicts.Finding]:
  chance = {task.name: 1 / task.num_classes for task in results.setting.tasks}
  ours = spreads.by_seed(results.analogies, lambda one: one.accuracy['analogy'])
  return [
      spreads.higher(
          f'analogy above {name}',
          ours,
          spreads.by_seed(results.analogies, value_fn),
          'Test accuracy on D, whose images are those of C inverted; λ of each'
          ' is chosen on D’s validation images.',
      )
      for name, value_fn in (
          ('chance', lambda one: chance[one.asked]),
          ('the base', lambda one: one.accuracy['base']),
          ('C’s vector alone', lambda one: one.accuracy['C alone']),
      )
  ]


_STATEMENTS = (
    (
        'negation forgets one task',
        'Subtracting a task’s vector lowers the accuracy on that task and'
        ' leaves the others, the control, nearly where they were.',
        _forgetting,
    ),
    (
        'as far as never having learned it',
        'Our question: does the edit forget at least as much as never learning'
        ' the task would, and does it keep the others as well?',
        _never,
    ),
    (
        'linear models are disentangled',
        'Two tasks’ vectors disturb each other less in the model linearised at'
        ' θ₀, which pays for it with accuracy on each task alone.',
        _disentanglement,
    ),
    (
        'analogies',
        'C is to D as A is to B: θ₀ + λ (τ of C + τ of B − τ of A) solves D'
        ' better than chance, and than what knows nothing of D.',
        _analogy,
    ),
)
