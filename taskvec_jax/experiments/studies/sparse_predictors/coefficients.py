"""Sparse coefficients of task vectors: do they find a target's sources?"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments.studies.sparse_predictors import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.sparse_predictors import sources
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts

_KINDS = ('one source', 'two sources')
_METHODS = ('base', 'mean', 'ridge', 'lasso', 'known')
_FOUND = 0.9  # of the targets: the largest coefficients are the sources'
_BAR = 1e-5  # of the derivative in the penalty

Target = sources.Target


def section(
    config: config_lib.Coefficients, seeds: Sequence[int]
) -> study_results.Section:
  """Returns the section on task vectors."""
  main = sources.main_config(config)
  tasks = setting_lib.load_tasks(main)
  found, errors, names = {}, [], []
  for seed in seeds:
    setting = setting_lib.build(main, tasks, seed=seed)
    one = sources.targets(config, setting, seed=seed)
    found[seed], names = one.targets, one.names
    errors.append(one.derivative_error)
  return study_results.Section(
      title='The bridge: which task vectors does a target need?',
      claim='Sparse coefficients over a basis of task vectors name the sources'
      ' of a target from a few images, and merge as well as dense ones.',
      source='This project’s, neither paper’s: the l1 inner problem and its'
      ' derivative from arXiv:2211.14666, coefficients over task vectors from'
      ' aTLAS, the linearised model from arXiv:2305.12827.',
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
  largest = np.argsort(_shares(target, method))[::-1][: len(target.sources)]
  return {names[index] for index in largest} == set(target.sources)


def _shares(target: Target, method: str) -> np.ndarray:
  """Returns |a| / |a|_1, `[B]`; zeros have shares of 0."""
  sizes = np.abs(target.coefficients[method])
  return sizes / (sizes.sum() or 1.0)


def _by_seed(
    found: Mapping[int, list[Target]],
    kind: str,
    method: str,
    value_fn: Callable[[Target, str], float],
) -> dict[int, float]:
  """Returns seed -> the mean of `value_fn(target, method)`, of one kind."""
  return {
      seed: float(
          np.mean([value_fn(x, method) for x in targets if _kind(x) == kind])
      )
      for seed, targets in found.items()
  }


def _over_seeds(*what) -> accuracy.Spread:
  return accuracy.spread(list(_by_seed(*what).values()))


def _accuracy(target: Target, method: str) -> float:
  return target.accuracies[method]


def _findings(found, errors, names) -> list[verdicts.Finding]:
  def hit(target, method):
    return _hit(target, method, names)

  def mass(target, method):
    return _shares(target, method)[np.isin(names, target.sources)].sum()

  findings = []
  for kind in _KINDS:
    lasso, ridge = (
        _over_seeds(found, kind, method, hit) for method in ('lasso', 'ridge')
    )
    findings.append(
        verdicts.Finding(
            where=f'{kind}: found by the lasso',
            predicted=f'{100 * _FOUND:.0f} % or more',
            measured=f'{100 * lasso.mean:.0f} %',
            verdict=verdicts.of(lasso.mean >= _FOUND),
            note='Targets whose largest coefficients are those of their'
            ' sources, mean over seeds. By ridge:'
            f' {spreads.points(ridge, digits=0)} %.',
        )
    )
    for what, value_fn, note in (
        ('weight on the sources', mass, 'Share of |a|₁ on the sources'),
        ('test accuracy', _accuracy, 'Accuracy of the merged model, in points'),
    ):
      lead = spreads.paired(
          _by_seed(found, kind, 'lasso', value_fn),
          _by_seed(found, kind, 'ridge', value_fn),
      )
      assert lead is not None  # the seeds are the same
      findings.append(
          verdicts.Finding(
              where=f'{kind}: {what}',
              predicted='lasso above ridge',
              measured=spreads.difference(lead),
              verdict=spreads.above(lead),
              note=f'{note}, lasso minus ridge, 95% interval over seeds.',
          )
      )
  worst = max(errors)
  findings.append(
      verdicts.Finding(
          where='derivative in the penalty',
          predicted=f'below {_BAR:g}',
          measured=f'{worst:.0e}',
          verdict=verdicts.of(worst <= _BAR),
          note='Relative error of dV/dlog λ against central differences in'
          ' float64, one target a seed.',
      )
  )
  return findings


def _map(found, names) -> study_results.Map:
  """Returns coefficients of one-source targets, as shares, mean over seeds."""
  numbers = range(1, len(names) + 1)

  def panel(method):
    values = np.zeros((len(names), len(names)))
    for targets in found.values():
      for one in targets:
        if _kind(one) == _KINDS[0]:
          row = names.index(one.sources[0])
          values[row] += _shares(one, method) / len(found)
    return study_panels.cells(method, numbers, numbers, values)

  return study_results.Map(
      name='coefficients',
      title='Where the weight goes',
      alt='Share of the weight on each source, for every target.',
      reading='Share of |a|₁ of each source, mean over seeds. Right is the'
      ' diagonal. The numbers of the sources are in the table below.',
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
    cells = [_over_seeds(found, kind, method, _accuracy) for kind in _KINDS]
    rows.append([labels[method], *map(spreads.points, cells)])

  def used(target, method):
    return np.count_nonzero(target.coefficients[method])

  for method in ('ridge', 'lasso'):
    cells = [_over_seeds(found, kind, method, used) for kind in _KINDS]
    rows.append(
        [
            f'sources used by {method}, a ≠ 0 (a number)',
            *(spreads.plain(cell, digits=1) for cell in cells),
        ]
    )
  return study_results.Table(
      caption='Test accuracy in per cent, mean over targets; mean and standard'
      ' deviation over seeds.',
      columns=['coefficients', *_KINDS],
      rows=rows,
  )


def _names(names) -> study_results.Table:
  return study_results.Table(
      caption='The sources of the map: a task and the part of its classes.',
      columns=['source', 'task and part'],
      rows=[[str(index + 1), name] for index, name in enumerate(names)],
  )
