"""Features trained through sparse and through dense predictors."""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments.studies.sparse_predictors import (
    config as config_lib,
)
from taskvec_jax.models import ffn
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import disentangled_features
from taskvec_jax.studies import sparse_regression

_MEASURES = ('MCC', 'affine R²')
_DISENTANGLED = 0.95  # MCC of the lasso where the factors are independent
_INFORMATIVE = 0.95  # affine R^2, of every training
_NUM_ROTATIONS = 200  # that chance is a mean over

# (sparse, share of the penalty)
Inner = tuple[bool, float]
# (inner problem, rho, measure) -> one number a seed
Measured = Mapping[tuple[Inner, float, str], dict[int, float]]


def section(
    config: config_lib.Features, seeds: Sequence[int]
) -> study_results.Section:
  """Returns the section on disentanglement."""
  measured: dict[tuple[Inner, float, str], dict[int, float]] = {}
  for inner in _inner_problems(config):
    for rho in config.correlations:
      found = _train(config, seeds, inner, rho)
      for index, measure in enumerate(_MEASURES):
        measured[inner, rho, measure] = {
            seed: pair[index] for seed, pair in found.items()
        }
  chance = [_chance(config, rho) for rho in config.correlations]
  return study_results.Section(
      title='Sparse predictors disentangle the features',
      claim='Features that are trained through sparse predictors are the'
      ' factors of the data, each for itself; through dense ones they are only'
      ' some mixture of all.',
      source='The claim, the bilevel problem and the measure are the paper’s;'
      ' the synthetic world, its sizes and the scaling of the features are'
      ' ours. The paper learns from pictures of 3D shapes.',
      text=[
          f'{config.num_factors} factors z with correlation ρ^|i−j| are seen'
          ' through an invertible map that is not linear. Every step of'
          f' training draws {config.num_tasks} new tasks with'
          f' {config.num_examples} examples each; a factor matters to a task'
          f' with probability {config.density:g}.',
          'MCC is the mean |correlation| of the best matching of factors and'
          ' features. The affine R² of the factors given the features says'
          ' whether they are in there at all.',
      ],
      formulas=[
          'min over θ of Σₜ |yₜ − F_θ(Xₜ) ŵₜ|² / 2n,  ŵₜ = argmin over w of'
          ' |yₜ − F_θ(Xₜ) w|² / 2n + λ|w|₁,  λ = l1 · max|Fᵀy| / n'
      ],
      findings=_findings(config, measured),
      curves=[_figure(config, measured, chance)],
  )


def _inner_problems(config) -> list[Inner]:
  return [(True, share) for share in config.l1_shares] + [
      (False, share) for share in config.l2_shares
  ]


def _train(
    config, seeds, inner: Inner, rho: float
) -> dict[int, tuple[float, float]]:
  """Returns seed -> (MCC, affine R^2) of what training found."""
  worlds = [
      disentangled_features.world(
          seed, num_factors=config.num_factors, correlation=rho
      )
      for seed in seeds
  ]
  # Flax makes its modules hashable where pyright does not see it.
  module: Any = ffn.FFN(widths=config.widths)
  sparse, share = inner
  train = functools.partial(
      _trainings(
          module,
          sparse,
          config.num_factors,
          config.num_tasks,
          config.num_examples,
          config.num_steps,
      ),
      share=share,
      density=config.density,
      noise=config.noise,
      learning_rate=config.learning_rate,
  )
  stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *worlds)
  params, losses = train(stacked, jnp.asarray(seeds))
  if not np.isfinite(np.asarray(losses)).all():
    raise FloatingPointError(
        f'the loss of the features became NaN or infinite at rho = {rho:g},'
        f' share {share:g}; use a smaller learning_rate'
    )
  found = {}
  for index, seed in enumerate(seeds):
    key = jax.random.fold_in(jax.random.key(seed), 2)
    z = disentangled_features.factors(worlds[index], key, (config.num_test,))
    features = disentangled_features.features(
        module,
        jax.tree.map(lambda leaf, at=index: leaf[at], params),
        disentangled_features.observe(worlds[index], z),
    )
    z, features = np.asarray(z), np.asarray(features)
    found[seed] = (
        disentangled_features.mean_correlation(z, features),
        disentangled_features.affine_r2(z, features),
    )
  return found


# One compiled program a kind of predictor, for all seeds, shares and rho.
@functools.cache
def _trainings(
    module: Any, sparse, num_factors, num_tasks, num_examples, num_steps
):
  def one(world, seed, share, density, noise, learning_rate):
    key = jax.random.key(seed)
    params = disentangled_features.init(module, key, num_factors=num_factors)

    def draw(key):
      return disentangled_features.draw_tasks(
          world,
          key,
          num_tasks=num_tasks,
          num_examples=num_examples,
          density=density,
          noise=noise,
      )

    return disentangled_features.train(
        module,
        params,
        draw,
        jax.random.fold_in(key, 1),
        share=share,
        sparse=sparse,
        learning_rate=learning_rate,
        num_steps=num_steps,
    )

  def run(worlds, seeds, *, share, density, noise, learning_rate):
    axes = (0, 0, None, None, None, None)
    return jax.vmap(one, axes)(
        worlds, seeds, share, density, noise, learning_rate
    )

  return jax.jit(run)


def _chance(config, rho: float) -> float:
  """Returns MCC of whitened factors under random rotations, in the mean."""
  rng = np.random.default_rng(0)
  world = disentangled_features.world(
      0, num_factors=config.num_factors, correlation=rho
  )
  normal = rng.normal(size=(config.num_test, config.num_factors))
  z = normal @ world.factor.T
  return float(
      np.mean(
          [
              disentangled_features.mean_correlation(
                  z,
                  normal @ sparse_regression.rotation(rng, config.num_factors),
              )
              for _ in range(_NUM_ROTATIONS)
          ]
      )
  )


def _findings(config, measured: Measured) -> list[verdicts.Finding]:
  sparse = [inner for inner in _inner_problems(config) if inner[0]]
  dense = [inner for inner in _inner_problems(config) if not inner[0]]
  findings = []
  for rho in config.correlations:
    # The worst of the sparse against the best of the dense, seed by seed.
    lowest, highest = (
        {
            seed: best(measured[inner, rho, 'MCC'][seed] for inner in inners)
            for seed in measured[inners[0], rho, 'MCC']
        }
        for best, inners in ((min, sparse), (max, dense))
    )
    lead = spreads.paired(lowest, highest)
    assert lead is not None  # the seeds are the same
    findings.append(
        verdicts.Finding(
            where=f'MCC, rho = {rho:g}',
            predicted='sparse above dense',
            measured=spreads.signed(lead, digits=2),
            verdict=spreads.above(lead),
            note='The lowest MCC of the lassos minus the highest of the ridges,'
            ' seed by seed; 95% interval over seeds.',
        )
    )
  independent = min(config.correlations)
  values = [
      value
      for inner in sparse
      for value in measured[inner, independent, 'MCC'].values()
  ]
  holds = np.mean(values) >= _DISENTANGLED
  findings.append(
      verdicts.Finding(
          where=f'the lasso at rho = {independent:g}',
          predicted=f'MCC {_DISENTANGLED:g} or more',
          measured=verdicts.between(values),
          verdict=verdicts.of(bool(holds)),
          note='The mean over penalties and seeds decides.',
      )
  )
  known = [
      value
      for (_, _, measure), by_seed in measured.items()
      if measure == _MEASURES[1]
      for value in by_seed.values()
  ]
  findings.append(
      verdicts.Finding(
          where='all features know the factors',
          predicted=f'R2 {_INFORMATIVE:g} or more',
          measured=verdicts.between(known),
          verdict=verdicts.of(min(known) >= _INFORMATIVE),
          note='Affine R² of the factors given the features, every training:'
          ' differences of MCC are then about axes, not about knowledge.',
      )
  )
  return findings


def _figure(config, measured: Measured, chance) -> study_results.Curves:
  x = list(config.correlations)
  names = {True: 'Lasso, l1 = {:g}', False: 'Ridge, l2 = {:g}'}

  def series(index, inner, measure):
    values = [list(measured[inner, rho, measure].values()) for rho in x]
    label = names[inner[0]].format(inner[1])
    return study_panels.ranged(label, index, x, values)

  panels = [
      study_results.Panel(
          measure,
          [
              series(index, inner, measure)
              for index, inner in enumerate(_inner_problems(config))
          ],
      )
      for measure in _MEASURES
  ]
  panels[0].series.append(
      study_panels.reference('a random rotation', 7, x, chance)
  )
  return study_results.Curves(
      name='features',
      title='Disentanglement by correlation of the factors',
      alt='MCC and affine R² of lassos and ridges over the correlation.',
      reading='Means and ranges over the seeds. Grey: whitened factors turned'
      f' at random, the mean of {_NUM_ROTATIONS}.',
      x_label='correlation ρ of neighbouring factors',
      y_label='MCC, and R²',
      panels=panels,
  )
