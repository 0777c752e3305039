"""The trainings of an ATM run, each from a bench to its curve by round.

A bench is one seed. What a curve says of its cost is counted here: the images
that were read, and the copies of the parameters that would be sent if every
task had a machine of its own, T to it and T back for every merge and for every
step of multitask training.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import functools
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import atm_rounds
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import atm
from taskvec_jax.merging import averaging
from taskvec_jax.merging import ties
from taskvec_jax.report import atm_results
from taskvec_jax.typing import Params

Training = Callable[['Bench'], atm_results.Curve]


class Bench(NamedTuple):
  """What the trainings of one seed need."""

  config: atm_config.ATMConfig
  seed: int
  setting_fn: Callable[[int], setting_lib.Setting]
  finetuned_fn: Callable[[], dict[str, Params]]  # spent the budget apart


def bench(
    config: atm_config.ATMConfig,
    seed: int,
    setting_fn: Callable[[int], setting_lib.Setting],
) -> Bench:
  """Returns the bench of a seed; what it needs is made when it is asked for."""

  @functools.cache
  def finetuned():
    setting = setting_fn(seed)
    finetune_fns = atm_rounds.local_finetuning(
        setting,
        config.empirical,
        num_epochs=atm_config.budget(config),
        seed=seed,
    )
    return {
        task: fn(setting.base_params, 1) for task, fn in finetune_fns.items()
    }

  return Bench(config, seed, setting_fn, finetuned)


def reference(bench: Bench) -> atm_results.Reference:
  """Returns the accuracies of the base and of the tasks' own models."""
  setting = bench.setting_fn(bench.seed)
  test = evaluation.place(setting, 'test')
  base = dict.fromkeys(setting.data, setting.base_params)
  return atm_results.Reference(
      seed=bench.seed,
      base=evaluation.accuracies(test, base),
      finetuned=evaluation.accuracies(test, bench.finetuned_fn()),
  )


def trainings(config: atm_config.ATMConfig) -> dict[str, Training]:
  """Returns 'method split' -> bench -> Curve, in the order of the tables."""
  splits = dict(zip(config.splits, atm_config.splits(config), strict=True))
  first, (num_rounds, num_epochs) = next(iter(splits.items()))
  numbers = {'num_rounds': num_rounds, 'num_epochs': num_epochs}
  found: dict[str, Training] = {
      f'pa {name}': functools.partial(
          _merged, method='pa', num_rounds=rounds, num_epochs=epochs
      )
      for name, (rounds, epochs) in splits.items()
  }
  if config.ties_density:
    found[f'ties {first}'] = functools.partial(
        _merged, method='ties', **numbers
    )
  found[f'fedavg {first}'] = functools.partial(
      _merged, method='fedavg', **numbers
  )
  found[f'joint {first}'] = functools.partial(_joint, method='joint', **numbers)
  if config.descent_rates:
    found[f'descent {first}'] = functools.partial(_descent, **numbers)
  if config.posthoc_rounds:
    after = {'num_rounds': config.posthoc_rounds, 'num_epochs': 1}
    name = f'{config.posthoc_rounds}x1'
    found[f'ph {name}'] = functools.partial(_merged, method='ph', **after)
    found[f'ph-joint {name}'] = functools.partial(
        _joint, method='ph-joint', **after
    )
  return found


def _merged(
    bench: Bench, *, method: str, num_rounds: int, num_epochs: int
) -> atm_results.Curve:
  """Returns the curve of a training that alternates with a merge."""
  config, setting = bench.config, bench.setting_fn(bench.seed)
  trained = setting if method != 'ph' else atm_rounds.on_validation(setting)
  finetune_fns = atm_rounds.local_finetuning(
      trained, config.empirical, num_epochs=num_epochs, seed=bench.seed
  )
  numbers = {'scaling': config.scaling, 'num_rounds': num_rounds}
  if method == 'ph':
    rounds = atm.post_hoc_rounds(
        setting.base_params,
        _mean_task_vector(bench),
        finetune_fns,
        initial_scaling=config.scaling,
        **numbers,
    )
  else:
    merge_fn = {
        'pa': averaging.average,
        'ties': functools.partial(ties.ties, density=config.ties_density),
        'fedavg': atm_rounds.weighted_mean(atm_rounds.example_weights(setting)),
    }[method]
    rounds = atm.rounds(setting.base_params, finetune_fns, merge_fn, **numbers)
  models = list(rounds)
  return _curve(
      bench,
      method,
      (params for params, _ in models),
      num_epochs=num_epochs,
      images=num_epochs * atm_rounds.images_a_pass(trained),
      num_sent=1,
      merged_lengths=[info.merged_length for _, info in models],
  )


def _joint(
    bench: Bench, *, method: str, num_rounds: int, num_epochs: int
) -> atm_results.Curve:
  """Returns the curve of multitask training that reads as many images."""
  config, setting = bench.config, bench.setting_fn(bench.seed)
  if method == 'ph-joint':
    setting = atm_rounds.on_validation(setting)._replace(
        base_params=tree.add_scale(
            setting.base_params, config.scaling, _mean_task_vector(bench)
        )
    )
  num_steps, batch_size = atm_rounds.num_joint_steps(
      setting, config.empirical.batch_size, num_epochs=num_epochs
  )
  return _curve(
      bench,
      method,
      atm_rounds.joint_rounds(
          setting,
          config.empirical,
          num_epochs=num_epochs,
          num_rounds=num_rounds,
          seed=bench.seed,
      ),
      num_epochs=num_epochs,
      images=num_steps * batch_size * len(setting.data),
      num_sent=num_steps,
  )


def _descent(
    bench: Bench, *, num_rounds: int, num_epochs: int
) -> atm_results.Curve:
  """Returns the curve of one exact joint step a round, at the best step size.

  A step size that diverges is passed over, unless all do.
  """
  setting = bench.setting_fn(bench.seed)
  validation = evaluation.place(setting, 'validation')
  found, failed = [], None
  for rate in bench.config.descent_rates:
    try:
      models = list(
          atm_rounds.descent_rounds(
              setting, learning_rate=rate, num_rounds=num_rounds
          )
      )
    except FloatingPointError as error:
      failed = error
      continue
    accuracies = evaluation.accuracies(
        validation, dict.fromkeys(setting.data, models[-1])
    )
    found.append((evaluation.mean(accuracies), rate, models))
  if not found:
    raise FloatingPointError(
        f'Multitask descent diverges at all of config.descent_rates: {failed}.'
    )
  _, rate, models = max(found, key=lambda entry: entry[0])
  return _curve(
      bench,
      'descent',
      models,
      num_epochs=num_epochs,
      images=atm_rounds.images_a_pass(setting),
      num_sent=1,
      learning_rate=rate,
  )


def _curve(
    bench: Bench,
    method: str,
    models: Iterable[Params],
    *,
    num_epochs: int,
    images: int,
    num_sent: int,
    learning_rate: float | None = None,
    merged_lengths: Sequence[float] = (),
) -> atm_results.Curve:
  """Returns the curve of the models after each round.

  Args:
    bench: of the seed.
    method: of `atm_results.METHODS`.
    models: after each round.
    num_epochs: a round and task.
    images: read a round.
    num_sent: times a round that all tasks get parameters and send theirs.
    learning_rate: where it was chosen.
    merged_lengths: of the merged task vectors.
  """
  setting = bench.setting_fn(bench.seed)
  test = evaluation.place(setting, 'test')
  found = [
      evaluation.accuracies(test, dict.fromkeys(setting.data, params))
      for params in models
  ]
  copies = 2 * len(setting.data)
  before_images, before_copies = 0, 0
  if method in ('ph', 'ph-joint'):  # what the merge that they start from cost
    before_images = atm_config.budget(bench.config) * atm_rounds.images_a_pass(
        setting
    )
    before_copies = copies
  numbers = range(1, len(found) + 1)
  return atm_results.Curve(
      seed=bench.seed,
      method=method,
      num_rounds=len(found),
      num_epochs=num_epochs,
      learning_rate=learning_rate,
      images=[before_images + number * images for number in numbers],
      copies=[before_copies + number * num_sent * copies for number in numbers],
      accuracy=found,
      merged_lengths=list(merged_lengths),
  )


def _mean_task_vector(bench: Bench) -> Params:
  """Returns the task vector that post-hoc rounds start from."""
  base_params = bench.setting_fn(bench.seed).base_params
  return averaging.average(
      {
          task: tree.sub(params, base_params)
          for task, params in bench.finetuned_fn().items()
      }
  )
