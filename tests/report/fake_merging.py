"""Results of a comparison, made from formulas."""

from taskvec_jax.report import merging_results
from taskvec_jax.report import results as results_lib

TASKS = ('digits', 'faces')
# method, rule, scaling, accuracy of digits and faces, relative distance, read
_ROWS = (
    ('base', '', None, (0.40, 0.60), 1.0, {}),
    ('finetuned', '', None, (0.80, 1.00), None, {}),
    ('multitask', '', None, (0.70, 0.90), 0.0, {}),
    ('average', '', None, (0.60, 0.80), 0.3, {}),
    ('task_arithmetic', 'fixed', 0.3, (0.56, 0.80), 0.4, {}),
    ('task_arithmetic', 'validation', 0.5, (0.62, 0.82), 0.35, {}),
    ('ties', 'fixed', 1.0, (0.58, 0.70), 0.9, {}),
    ('ties', 'validation', 1.0, (0.60, 0.74), 0.8, {}),
    ('adamerging_layer', '', None, (0.64, 0.86), 0.5, {'test inputs': 2000}),
    ('regmean', '', None, (0.66, 0.84), 0.6, {'training inputs': 1200}),
    ('atm', '', None, (0.70, 0.88), 1e-6, {'training': 1200}),
    ('linear_response', '', None, (0.70, 0.86), 0.01, {'training': 1200}),
)


def make_results(num_seeds: int) -> merging_results.Results:
  return merging_results.Results(
      setting=results_lib.Setting(
          config='fake',
          command='python -m taskvec_jax.main --config=fake.py',
          seeds=list(range(num_seeds)),
          tasks=[
              results_lib.TaskSummary(task, 600, 100, 1000, 10, 30, 9.0, -0.1)
              for task in TASKS
          ],
          model='feed-forward encoder 12-8, tanh',
          num_parameters=884,
          regimes={'exact': 'full-batch descent', 'empirical': 'adam'},
          learning_rate=0.05,
          num_epochs=20,
          scaling=0.5,
          eta_lambda_max=0.45,
          left_out=['At most 1,000 test images a task are used.'],
      ),
      num_epochs={'exact': 20, 'empirical': 10},
      numbers={'ties_density': 0.2, 'atm_epochs': 1},
      trained=[
          merging_results.Trained(seed, regime, task, 20, 0.3, 1.5)
          for seed in range(num_seeds)
          for regime in ('exact', 'empirical')
          for task in (*TASKS, 'multitask')
      ],
      merges=[
          _merge(seed, regime, *row)
          for seed in range(num_seeds)
          for regime in ('exact', 'empirical')
          for row in _ROWS
          if regime == 'exact' or row[0] != 'linear_response'
      ],
      gaps=[
          merging_results.Gap(
              seed,
              0.05,
              20,
              0.28,
              0.10,
              [
                  merging_results.Prediction('base', None, None, None),
                  merging_results.Prediction('second order', 0.5, 4.8, 0.6),
                  merging_results.Prediction('linear response', 0.1, 0.4, 0.9),
              ],
          )
          for seed in range(num_seeds)
      ],
      small_steps=[
          results_lib.Rates(
              'full batch',
              k,
              600,
              [2e-4, 1e-4],
              [4e-6 * k, 1e-6 * k],
              [8e-9, 1e-9],
              [4e-9, 5e-10],
              2.0,
              3.0,
              3.0,
          )
          for k in (2, 5)
      ],
      ranks=[
          merging_results.Ranks(
              regime, 'layer_0/kernel', 8, {'digits': 3, 'faces': 2}, 5
          )
          for regime in ('exact', 'empirical')
      ],
      seconds={'finetuning': 20.0, 'merging': 60.0},
  )


def _merge(seed, regime, method, rule, scaling, accuracies, distance, read):
  """The seeds are two points apart; Adam is five points better."""
  shift = 0.02 * seed + (0.05 if regime == 'empirical' else 0.0)
  tuned = rule == 'validation'
  examples = {**read, 'validation': 200} if tuned else read
  return merging_results.Merge(
      seed=seed,
      regime=regime,
      method=method,
      rule=rule,
      scaling=scaling,
      scalings=[0.0, 0.5, 1.0] if tuned else [],
      curve=[0.6, 0.8, 0.7] if tuned else [],
      accuracy=dict(zip(TASKS, (a - shift for a in accuracies), strict=True)),
      distance=None if distance is None else 0.28 * distance,
      relative_distance=distance,
      cosine=None if distance in (None, 1.0) else 1 - distance / 2,
      coefficients={},
      examples=examples,
      seconds=0.5 + seed,
  )
