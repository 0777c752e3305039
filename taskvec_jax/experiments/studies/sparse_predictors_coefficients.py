"""Sparse coefficients of task vectors: do they find a target's sources?"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments.studies import sparse_predictors_config
from taskvec_jax.experiments.studies import sparse_predictors_sources
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts

_KINDS = ('one source', 'two sources')
_METHODS = ('base', 'mean', 'ridge', 'lasso', 'known')
_FOUND = 0.9  # of the targets: the largest coefficients are the sources'
_BAR = 1e-5  # of the derivative in the penalty

Target = sparse_predictors_sources.Target


def section(
    config: sparse_predictors_config.Coefficients, seeds: Sequence[int]
) -> study_results.Section:
  """Returns the section on task vectors."""
  main = sparse_predictors_sources.main_config(config)
  tasks = setting_lib.load_tasks(main)
  found, errors, names = {}, [], []
  for seed in seeds:
    setting = setting_lib.build(main, tasks, seed=seed)
    one = sparse_predictors_sources.targets(config, setting, seed=seed)
    found[seed], names = one.targets, one.names
    errors.append(one.derivative_error)
  return study_results.Section(
      title='The bridge: which task vectors does a target need?',
      claim=(
          'Sparse coefficients over a basis of task vectors name the sources of'
          ' a target from a few images, and merge as well as dense ones.'
      ),
      source=(
          'This project’s, neither paper’s: the l1 inner problem and its'
          ' derivative from arXiv:2211.14666, coefficients over task vectors'
          ' from aTLAS, the linearised model from arXiv:2305.12827.'
      ),
      text=[
          f'{len(names)} sources: each task’s classes in {config.num_parts}'
          ' parts, finetuned by full-batch descent with the frozen head of the'
          f' whole task. A target is known by {config.shots} images that no'
          ' source saw; as many more choose the penalty, by descent along the'
          ' implicit derivative. A mixture has half of its images from each'
          ' source.',
          'Coefficients are of the linearised model; accuracies are of the'
          ' model itself at θ₀ + Σ a τ.',
      ],
      formulas=[
          'a(λ) = argmin over a of L(a) + λ|a|₁,  f(x; a) = f(x; θ₀) + Σ_b a_b'
          ' J(x) τ_b',
          'dV/dλ = ∇Vᵀ da/dλ,  H_SS da_S/dλ = −sign(a_S)',
      ],
      findings=_findings(found, errors, names),
      maps=[_map(found, names)],
      tables=[_table(found), _names(names)],
  )


def _kind(target: Target) -> str:
  return _KINDS[len(target.sources) - 1]


def _hit(target: Target, method: str, names: Sequence[str]) -> bool:
  """Returns whether the largest coefficients are those of the sources."""
  sizes = np.abs(target.coefficients[method])
  largest = np.argsort(sizes)[::-1][: len(target.sources)]
  return {names[index] for index in largest} == set(target.sources)


def _mass(target: Target, method: str, names: Sequence[str]) -> float:
  """Returns the share of |a|_1 that is the sources'; of zeros it is 0."""
  sizes = np.abs(target.coefficients[method])
  return float(
      sizes[np.isin(names, target.sources)].sum() / (sizes.sum() or 1.0)
  )


def _by_seed(
    found: Mapping[int, list[Target]],
    kind: str,
    value_fn: Callable[[Target], float],
) -> dict[int, float]:
  """Returns seed -> the mean over targets of that kind."""
  return {
      seed: float(
          np.mean([value_fn(one) for one in targets if _kind(one) == kind])
      )
      for seed, targets in found.items()
  }


def _over_seeds(
    found: Mapping[int, list[Target]],
    kind: str,
    value_fn: Callable[[Target], float],
) -> accuracy.Spread:
  return accuracy.spread(list(_by_seed(found, kind, value_fn).values()))


def _findings(found, errors, names) -> list[study_results.Finding]:
  findings = []
  for kind in _KINDS:
    hits = {
        method: _over_seeds(
            found, kind, lambda one, m=method: _hit(one, m, names)
        )
        for method in ('lasso', 'ridge')
    }
    holds = hits['lasso'].mean >= _FOUND
    findings.append(
        study_results.Finding(
            where=f'{kind}: found by the lasso',
            predicted=f'{100 * _FOUND:.0f} % or more',
            measured=f'{100 * hits["lasso"].mean:.0f} %',
            verdict=verdicts.of(holds),
            note=(
                'Targets whose largest coefficients are those of their sources,'
                ' mean over seeds. By ridge:'
                f' {spreads.points(hits["ridge"], digits=0)} %.'
            ),
        )
    )
    for what, value_fn, note in (
        (
            'weight on the sources',
            lambda one, method: _mass(one, method, names),
            'Share of |a|₁ on the sources',
        ),
        (
            'test accuracy',
            lambda one, method: one.accuracies[method],
            'Accuracy of the merged model, in points',
        ),
    ):
      lead = spreads.paired(
          *(
              _by_seed(found, kind, lambda one, m=m, fn=value_fn: fn(one, m))
              for m in ('lasso', 'ridge')
          )
      )
      assert lead is not None  # the seeds are the same
      findings.append(
          study_results.Finding(
              where=f'{kind}: {what}',
              predicted='lasso above ridge',
              measured=spreads.difference(lead),
              verdict=spreads.above(lead),
              note=f'{note}, lasso minus ridge, 95% interval over seeds.',
          )
      )
  worst = max(errors)
  findings.append(
      study_results.Finding(
          where='derivative in the penalty',
          predicted=f'below {_BAR:g}',
          measured=f'{worst:.0e}',
          verdict=verdicts.of(worst <= _BAR),
          note=(
              'Relative error of dV/dlog λ against central differences in'
              ' float64, one target a seed.'
          ),
      )
  )
  return findings


def _map(found, names) -> study_results.Map:
  """Returns coefficients of one-source targets, as shares, mean over seeds."""
  numbers = [float(index + 1) for index in range(len(names))]

  def panel(method):
    values = np.zeros((len(names), len(names)))
    for targets in found.values():
      for one in targets:
        if _kind(one) == _KINDS[0]:
          sizes = np.abs(one.coefficients[method])
          row = names.index(one.sources[0])
          values[row] += sizes / (sizes.sum() or 1.0) / len(found)
    shown: list[list[float | None]] = [[*row] for row in values.tolist()]
    return study_results.MapPanel(method, numbers, numbers, shown)

  return study_results.Map(
      name='coefficients',
      title='Where the weight goes',
      alt='Share of the weight on each source, for every target.',
      reading=(
          'Share of |a|₁ of each source, mean over seeds. Right is the'
          ' diagonal. The numbers of the sources are in the table below.'
      ),
      x_label='source',
      y_label='target, one source',
      value_label='share of |a|₁',
      low=0.0,
      high=1.0,
      panels=[panel('lasso'), panel('ridge')],
  )


def _table(found) -> study_results.Table:
  labels = {
      'base': 'base model, a = 0',
      'mean': 'mean of all task vectors, a = 1/B',
      'ridge': 'ridge',
      'lasso': 'lasso',
      'known': 'the sources’ own, a = 1, if one knew them',
  }
  rows = []
  for method in _METHODS:
    cells = [
        _over_seeds(found, kind, lambda one, m=method: one.accuracies[m])
        for kind in _KINDS
    ]
    rows.append([labels[method], *map(spreads.points, cells)])
  for method in ('ridge', 'lasso'):
    cells = [
        _over_seeds(
            found,
            kind,
            lambda one, m=method: float(np.count_nonzero(one.coefficients[m])),
        )
        for kind in _KINDS
    ]
    rows.append(
        [
            f'sources used by {method}, a ≠ 0 (a number)',
            *(spreads.plain(cell, digits=1) for cell in cells),
        ]
    )
  return study_results.Table(
      caption=(
          'Test accuracy in per cent, mean over targets; mean and standard'
          ' deviation over seeds.'
      ),
      columns=['coefficients', *_KINDS],
      rows=rows,
  )


def _names(names) -> study_results.Table:
  return study_results.Table(
      caption='The sources of the map: a task and the part of its classes.',
      columns=['source', 'task and part'],
      rows=[[str(index + 1), name] for index, name in enumerate(names)],
  )
