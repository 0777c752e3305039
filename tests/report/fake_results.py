"""Results with the shape and the size of a real run, made from formulas."""

import math

import numpy as np

from taskvec_jax.report import results as results_lib

# name: training, validation and test images, classes, head examples, curvature
TASKS = {
    'digits': (250, 144, 360, 10, 50, 12.4),
    'mnist5k': (250, 400, 1000, 10, 50, 9.8),
    'textures': (250, 60, 240, 3, 15, 74.0),
    'faces': (126, 14, 60, 2, 10, 6.1),
    'letters': (250, 208, 520, 26, 130, 5.2),
    'animals': (250, 777, 1943, 10, 50, 8.8),
}
BASE = (0.62, 0.58, 0.61, 0.72, 0.55, 0.41)
GAIN = (0.29, 0.27, 0.24, 0.17, 0.30, 0.26)
LAMBDA_MAX = 74.0


def make_results(num_seeds: int) -> results_lib.Results:
  rng = np.random.default_rng(7)
  return results_lib.Results(
      setting=_setting(num_seeds),
      equality=[
          results_lib.Equality(
              seed=seed,
              dtype=dtype,
              num_examples=250,
              largest_ulps=float(rng.uniform(0.9, 1.8)),
              largest_leaf='layer_1/kernel',
              step_norm=0.031,
              gap_norm=0.031 * (4e-8 if dtype == 'float32' else 7e-17),
          )
          for seed in range(num_seeds)
          for dtype in ('float32', 'float64')
      ],
      rates=[
          _rates(rng, batches, epochs)
          for batches in ('full batch', 'mini-batches')
          for epochs in (2, 3, 5)
      ],
      response_map=_response_map(),
      ladders=[_ladder(2), _ladder(3)],
      finetuning=[
          _finetuning(rng, seed, regime, task)
          for seed in range(num_seeds)
          for regime in ('exact', 'empirical')
          for task in [*TASKS, 'multitask']
      ],
      accuracies=[
          entry for seed in range(num_seeds) for entry in _accuracies(rng, seed)
      ],
      similarities=[
          _similarity(rng, seed, regime, epochs)
          for seed in range(num_seeds)
          for regime in ('exact', 'empirical')
          for epochs in (1, 2, 3, 5, None)
      ],
      seconds={
          'pretraining': 9.1,
          'rates': 14.2,
          'response map': 31.0,
          'ladder': 12.7,
          'finetuning': 38.4,
          'accuracy': 4.4,
          'page': 5.0,
      },
  )


def make_bare_results() -> results_lib.Results:
  full = make_results(1)
  return results_lib.Results(
      setting=full.setting,
      equality=[],
      rates=[],
      response_map=results_lib.ResponseMap(
          dtype='float64',
          num_examples=0,
          lambda_max=1.0,
          learning_rates=[],
          epochs=[],
          gap_share=[],
          correction_share=[],
          response_share=[],
          left_by_correction=[],
          left_by_response=[],
          indicator=[],
      ),
      ladders=[],
      finetuning=[],
      accuracies=[one for one in full.accuracies if one.model == 'base'],
      similarities=[],
      seconds={},
  )


def _setting(num_seeds: int) -> results_lib.Setting:
  return results_lib.Setting(
      config='ffn',
      command='python -m taskvec_jax.main --config=configs/ffn.py',
      seeds=list(range(num_seeds)),
      tasks=[
          results_lib.TaskSummary(name, *numbers, -1.8)
          for name, numbers in TASKS.items()
      ],
      model='FFN 1024-256-128, tanh, biases',
      num_parameters=295296,
      regimes={
          'exact': (
              'full-batch gradient descent, step 0.02, at most 300 epochs,'
              ' patience 10'
          ),
          'empirical': (
              'Adam, step 0.001, batches of 32, at most 100 epochs, patience 10'
          ),
      },
      learning_rate=0.02,
      num_epochs=5,
      scaling=1 / len(TASKS),
      eta_lambda_max=0.02 * LAMBDA_MAX,
      left_out=[
          'At most 250 training images a task are used, of up to 7,000.',
          'Slopes, response map and ladder use the first seed only.',
      ],
  )


def _rates(
    rng: np.random.Generator, batches: str, epochs: int
) -> results_lib.Rates:
  learning_rates = [1e-3 * 2.0**-power for power in range(6)]
  eta = np.array(learning_rates)
  gap = 40 * epochs * (epochs - 1) * eta**2 * (1 + 2 * eta)
  left = 900 * epochs**3 * eta**3 * np.exp(rng.normal(0, 0.01, eta.size))
  less = 90 * epochs**2 * eta**3 * np.exp(rng.normal(0, 0.01, eta.size))
  slopes = [
      float(np.polyfit(np.log(eta), np.log(values), 1)[0])
      for values in (gap, left, less)
  ]
  return results_lib.Rates(
      batches=batches,
      num_epochs=epochs,
      num_examples=250,
      learning_rates=learning_rates,
      gap=gap.tolist(),
      left_by_correction=left.tolist(),
      left_by_response=less.tolist(),
      gap_slope=slopes[0],
      correction_slope=slopes[1],
      response_slope=slopes[2],
  )


def _response_map() -> results_lib.ResponseMap:
  steps = [0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 1.9, 2.1]  # eta lambda_max
  epochs = [1, 2, 3, 5, 10, 20, 40, 60]
  tables = {
      name: [[0.0] * len(epochs) for _ in steps]
      for name in ('gap', 'correction', 'response', 'left', 'less', 'indicator')
  }
  for row, step in enumerate(steps):
    for column, k in enumerate(epochs):
      # One epoch: no gap; nothing can be left of it.
      gap = 0.5 * (1 - math.exp(-0.15 * step * (k - 1)))
      left = 0.06 * step * k if k > 1 else None
      less = 0.004 * step * k**1.1 if k > 1 else None
      if k == 2:
        less = left
      diverged = (step > 2 and k > 10) or (step > 1.8 and k > 40)
      cells = {
          'gap': gap,
          'correction': gap * (1 + (left or 0)),
          'response': gap * (1 + 0.6 * (less or 0)),
          'left': left,
          'less': less,
          'indicator': less and 0.5 * less**0.9 * (1 + 0.2 * math.sin(7 * k)),
      }
      for name, value in cells.items():
        tables[name][row][column] = None if diverged else value
  return results_lib.ResponseMap(
      dtype='float64',
      num_examples=250,
      lambda_max=LAMBDA_MAX,
      learning_rates=[step / LAMBDA_MAX for step in steps],
      epochs=epochs,
      gap_share=tables['gap'],
      correction_share=tables['correction'],
      response_share=tables['response'],
      left_by_correction=tables['left'],
      left_by_response=tables['less'],
      indicator=tables['indicator'],
  )


def _ladder(epochs: int) -> results_lib.Ladder:
  correction = 3.1 * epochs * (epochs - 1)
  rungs = (
      ('R0', 'closed product over norm balls (4.5)', 3.1e6, 'certified'),
      ('R1', 'norms along the path (4.1), (4.4)', 4.2e4, 'certified'),
      ('R2', 'per-example bounds, averaged', 212.0, 'certified'),
      ('R3', 'spectral norms by Lanczos', 7.4, 'estimate'),
      ('R4', 'the second-order term itself, |C|', 1.0, 'measured'),
  )
  gap = 0.02**2 * correction * 0.9
  return results_lib.Ladder(
      num_epochs=epochs,
      learning_rate=0.02,
      num_examples=200,
      rungs=[
          results_lib.Rung(name, meaning, correction * ratio, ratio, kind)
          for name, meaning, ratio, kind in rungs
      ],
      certificates=[
          results_lib.Certificate('(4.2)', None, gap, None)
          if epochs == 3
          else results_lib.Certificate('(4.2)', 8e7 * gap, gap, 8e7),
          results_lib.Certificate('(4.6)', 3e5 * gap, gap, 3e5),
      ],
  )


def _finetuning(
    rng: np.random.Generator, seed: int, regime: str, task: str
) -> results_lib.Finetuning:
  exact = regime == 'exact'
  epochs = int(rng.integers(60, 160)) if exact else int(rng.integers(8, 24))
  e = np.arange(1, epochs + 1)
  decay = 0.5 if exact else 0.8
  updates = 0.3 * e**-decay * np.exp(rng.normal(0, 0.03, epochs))
  cosines = np.clip(1 - 0.12 * np.log(e) + rng.normal(0, 0.01, epochs), -1, 1)
  cosines[0] = 1.0
  snapshots = [1, 2, 3, 5, epochs]
  share = np.log(np.array(snapshots) + 1) / math.log(epochs + 1)
  turn = 0.07 if exact else 0.1
  return results_lib.Finetuning(
      seed=seed,
      regime=regime,
      task=task,
      losses=(1.5 * np.exp(-e / epochs)).tolist(),
      validation_losses=(1.6 * np.exp(-e / epochs)).tolist(),
      update_norms=updates.tolist(),
      path_shares=(updates / updates.sum()).tolist(),
      cos_update_first=cosines.tolist(),
      cos_gradient=1.0 if exact else float(rng.uniform(0.55, 0.7)),
      snapshot_epochs=snapshots,
      cos_tau_first=(1 - turn * np.log(snapshots)).tolist(),
      cos_tau_last=(1 - turn * np.log(epochs / np.array(snapshots))).tolist(),
      tau_norms=(1.4 * share).tolist(),
      converged_epoch=epochs,
      hit_cap=exact and epochs > 150,
  )


def _accuracies(
    rng: np.random.Generator, seed: int
) -> list[results_lib.Accuracy]:
  luck = rng.normal(0, 0.006)

  def entry(regime, model, epochs, reach, rule='', alpha=None):
    noise = rng.normal(0, 0.003, len(TASKS))
    return results_lib.Accuracy(
        seed=seed,
        regime=regime,
        model=model,
        epochs=epochs,
        converged=epochs is None and model != 'base',
        alpha_rule=rule,
        alpha=alpha,
        accuracy={
            task: float(min(base + reach * gain + luck + wobble, 1.0))
            for task, base, gain, wobble in zip(
                TASKS, BASE, GAIN, noise, strict=True
            )
        },
    )

  entries = [entry('', 'base', None, 0.0)]
  for regime in ('exact', 'empirical'):
    for epochs in (1, 2, 3, 5, None):
      progress = 1.0 if epochs is None else 0.45 * epochs**0.35
      if regime == 'empirical' and epochs is not None:
        progress = 0.62 * epochs**0.25
      merged = 0.42 * progress**0.6
      if regime == 'empirical':
        merged = 0.38 + 0.03 * progress
      entries += [
          entry(regime, 'finetuned', epochs, progress),
          entry(regime, 'multitask', epochs, 0.86 * progress),
          entry(regime, 'merged', epochs, merged, '1/T', 1 / 6),
          entry(
              regime,
              'merged',
              epochs,
              1.35 * merged,
              'validation',
              0.3 if regime == 'exact' else 0.4,
          ),
      ]
  return entries


def _similarity(
    rng: np.random.Generator, seed: int, regime: str, epochs: int | None
) -> results_lib.Similarity:
  vectors = rng.normal(0.3, 1.0, (len(TASKS), 9))
  norms = np.linalg.norm(vectors, axis=1)
  return results_lib.Similarity(
      seed=seed,
      regime=regime,
      epochs=epochs,
      tasks=list(TASKS),
      norms=norms.tolist(),
      cosines=(vectors @ vectors.T / np.outer(norms, norms)).tolist(),
  )
