"""The derivative of a lasso: on the support, against finite differences.

Everything in float64. Features are linear, F = X Theta, and Theta is what is
differentiated for, with the penalty held, as training does.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments.studies.sparse_predictors import (
    config as config_lib,
)
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import sparse_predictors

_BAR = 1e-5  # relative, of the largest entry
_SHORTCUT = 1e-2  # what a shortcut must be wrong by, to matter
_EXACT = 1e-9  # of the implicit derivative once the support is found
_TOLERANCE = 1e-14


def section(
    config: config_lib.Gradient, seeds: Sequence[int]
) -> study_results.Section:
  """Returns the section on the derivative."""
  with jax.enable_x64(True):
    errors = [
        _errors(
            *_problem(config, np.random.default_rng([seed, index])),
            share=config.share,
            step=config.step,
        )
        for seed in seeds
        for index in range(config.num_problems)
    ]
    ways = [_unrolled(config, np.random.default_rng(seed)) for seed in seeds]
  worst = {
      name: float(max(error[name] for error in errors))
      for name in ('theta', 'lambda')
  }
  least = {
      name: float(np.median([float(error[name]) for error in errors]))
      for name in ('held', 'everywhere')
  }
  number = f'{len(errors)} problems'
  findings = [
      verdicts.Finding(
          where=what,
          predicted=f'below {_BAR:g}',
          measured=f'{worst[name]:.1e}',
          verdict=verdicts.of(worst[name] <= _BAR),
          note='The largest error of an entry, as a share of the largest entry,'
          f' over {number}; central differences with step {config.step:g},'
          ' float64.',
      )
      for name, what in (('theta', 'features'), ('lambda', 'penalty'))
  ]
  findings += [
      verdicts.Finding(
          where=what,
          predicted=f'above {_SHORTCUT:g}',
          measured=f'{least[name]:.2f}',
          verdict=verdicts.of(least[name] > _SHORTCUT),
          note=f'The median error over {number}. {why}',
      )
      for name, what, why in (
          (
              'held',
              'shortcut: w held',
              'No derivative of the inner problem at all.',
          ),
          (
              'everywhere',
              'shortcut: no support',
              'The inner problem differentiated as if it were smooth, all of G'
              ' in the place of its part on the support.',
          ),
      )
  ]
  after = max(max(way['implicit'][way['found'] :]) for way in ways)
  findings.append(
      verdicts.Finding(
          where='an unfinished solver',
          predicted=f'below {_EXACT:g}',
          measured=f'{after:.1g}',
          verdict=verdicts.of(after <= _EXACT),
          note='Largest relative error of dw/dλ from the first sweep on after'
          ' which support and signs stay those of the solution; reached after'
          f' {verdicts.between([way["found"] + 1 for way in ways], "{:g}")} of'
          f' {config.num_sweeps} sweeps.',
      )
  )
  return study_results.Section(
      title='The gradient lives on the support',
      claim='The derivative of a lasso is that of least squares on its support,'
      ' exactly, however many steps its solver took.',
      source='The formula is of the paper and of Bertrand et al.; that dw/dλ is'
      ' exact from the sweep on that finds the support is derived here: it'
      ' depends on support and signs alone.',
      text=[
          'Training features through a sparse predictor needs the derivative'
          ' of the predictor. Unrolling the solver costs memory for each sweep'
          ' and is right only in the limit; on the support there is a linear'
          ' system.'
      ],
      formulas=[
          'G_SS dw_S = dc_S − dG_SS w_S − dλ sign(w_S),  dw = 0 elsewhere,'
          '  G = FᵀF/n,  c = Fᵀy/n'
      ],
      findings=findings,
      curves=[_figure(config, seeds, ways)],
  )


def _problem(config, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
  """Returns X `[n, d]`, Theta `[d, m]` and y `[n]`."""
  inputs = rng.normal(size=(config.num_examples, config.num_inputs))
  theta = rng.normal(size=(config.num_inputs, config.num_features))
  truth = rng.normal(size=config.num_inputs)
  noise = 0.1 * rng.normal(size=config.num_examples)
  return inputs, theta, inputs @ truth + noise


@functools.partial(jax.jit, static_argnames=('share', 'step'))
def _errors(inputs, theta, targets, *, share, step):
  """Returns relative errors of the implicit gradient and of two shortcuts."""
  _, correlation = sparse_predictors.moments(inputs @ theta, targets)
  penalty = sparse_predictors.l1_penalty(correlation, share)

  def outer(theta, penalty, shortcut=''):
    features = inputs @ theta
    gram, correlation = sparse_predictors.moments(features, targets)
    w = sparse_predictors.lasso(
        gram, correlation, penalty, tolerance=_TOLERANCE, max_sweeps=20_000
    )
    if shortcut:
      w = jax.lax.stop_gradient(w)
    if shortcut == 'everywhere':
      off = gram @ w - correlation + penalty * jnp.sign(w)
      w = w - jnp.linalg.solve(jax.lax.stop_gradient(gram), off)
    return sparse_predictors.loss(features, targets, w)

  def central(fn, sides):
    return jax.lax.map(lambda by: fn(by) - fn(-by), sides) / (2 * step)

  steps = step * jnp.eye(theta.size).reshape(-1, *theta.shape)
  expected = central(lambda by: outer(theta + by, penalty), steps)
  by_penalty = central(
      lambda by: outer(theta, penalty + by), jnp.ones(1) * step
  )

  def off(found, expected):
    found = found.reshape(expected.shape)
    return jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected))

  gradient, slope = jax.grad(outer, argnums=(0, 1))(theta, penalty)
  return {
      'theta': off(gradient, expected),
      'lambda': off(slope, by_penalty),
      'held': off(jax.grad(outer)(theta, penalty, 'held'), expected),
      'everywhere': off(
          jax.grad(outer)(theta, penalty, 'everywhere'), expected
      ),
  }


def _unrolled(config, rng: np.random.Generator) -> dict:
  """Returns errors after each sweep: of w, and of dw/dlambda in two ways."""
  index = np.arange(config.unrolled_features)
  root = np.linalg.cholesky(
      config.correlation ** np.abs(index[:, None] - index)
  )
  features = rng.normal(size=(config.num_examples, len(index))) @ root.T
  truth = np.where(index % 3, 0, rng.normal(size=len(index)))
  targets = features @ truth + 0.1 * rng.normal(size=config.num_examples)
  found = _way(features, targets, config.unrolled_share, config.num_sweeps)
  w, signs = np.asarray(found['signs']), np.sign(np.asarray(found['exact']))
  other = np.flatnonzero(np.any(w != signs, axis=1))
  # The number of sweeps after which support and signs never change again.
  last = int(other[-1]) + 1 if len(other) else 0
  if last == config.num_sweeps:
    raise ArithmeticError(
        f'{config.num_sweeps} sweeps did not find the support; raise'
        ' config.gradient.num_sweeps'
    )
  return {
      'found': last,
      **{n: found[n].tolist() for n in ('w', 'unrolled', 'implicit')},
  }


@functools.partial(jax.jit, static_argnums=(2, 3))
def _way(features, targets, share, num_sweeps):
  gram, correlation = sparse_predictors.moments(features, targets)
  penalty = sparse_predictors.l1_penalty(correlation, share)
  exact = sparse_predictors.lasso(
      gram, correlation, penalty, tolerance=_TOLERANCE, max_sweeps=20_000
  )

  def slope(w):
    return sparse_predictors.support_solve(gram, w, -jnp.sign(w))

  def way(penalty):
    start = jnp.zeros_like(exact)
    return sparse_predictors.sweeps(
        gram, correlation, penalty, start, num=num_sweeps
    )

  w, unrolled = jax.jvp(way, (penalty,), (jnp.ones_like(penalty),))

  def errors(found, expected):
    size = jnp.linalg.norm(expected)
    return jnp.linalg.norm(found - expected, axis=1) / size

  return {
      'exact': exact,
      'signs': jnp.sign(w),
      'w': errors(w, exact),
      'unrolled': errors(unrolled, slope(exact)),
      'implicit': errors(jax.vmap(slope)(w), slope(exact)),
  }


def _figure(config, seeds, ways) -> study_results.Curves:
  numbers = range(1, config.num_sweeps + 1)
  names = {
      'w': ('the coefficients w', study_results.REFERENCE, 7),
      'unrolled': ('dw/dλ, unrolled', study_results.MEASURED, 1),
      'implicit': ('dw/dλ, on the support', study_results.MEASURED, 0),
  }

  def series(way, name):
    # Below rounding there is nothing to see.
    return study_panels.line(
        *names[name], numbers, np.maximum(way[name], 1e-17)
    )

  return study_results.Curves(
      name='gradient',
      title='Error after each sweep of the solver',
      alt='Errors of w and of its derivative over the sweeps.',
      reading='Relative errors in float64, one problem a seed, neighbouring'
      f' features correlated by {config.correlation:g}. Exact zeros are drawn'
      ' at 10⁻¹⁷.',
      x_label='sweeps',
      y_label='relative error',
      panels=[
          study_results.Panel(f'seed {seed}', [series(way, n) for n in names])
          for seed, way in zip(seeds, ways, strict=True)
      ],
      log_y=True,
  )
