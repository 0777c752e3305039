"""Section of the study of forgetting on permuted images.

Each seed draws initial weights and pixel orders. Sequence, single tasks and
joint training see every task for the same number of steps, from the same
initial weights. The coefficient of the merge is chosen on validation images.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import NamedTuple

from flax import linen as nn
import numpy as np

from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.finetuning import multitask
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import coefficient_search
from taskvec_jax.models import ffn
from taskvec_jax.report import accuracy as accuracy_lib
from taskvec_jax.report import spreads
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import descent
from taskvec_jax.studies import permuted_images
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import load
from taskvec_jax.tasks import preprocessing
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params


class Trained(NamedTuple):
  """What one width and seed came to; accuracies in 0..1, means over tasks."""

  own: float  # in the sequence, at the end of each task's own training
  final: float  # at the end of the sequence
  forgetting: float
  single: float  # each task's own model, from the initial weights
  merged: float  # one coefficient, chosen on validation
  averaged: float  # coefficient 1/T
  joint: float  # all tasks at once
  scaling: float  # the coefficient chosen


# Width -> seed -> what came of them; widths rise.
Found = Mapping[int, Mapping[int, Trained]]


def measure(config: config_lib.Images, *, width: int, seed: int) -> Trained:
  """Returns one width's and seed's accuracies after all trainings.

  Raises:
    FloatingPointError: a training diverged; names it, and its epoch.
  """
  task = _task(config)
  # Orders do not depend on the width.
  orders = permuted_images.pixel_orders(
      np.random.default_rng([seed, 0]),
      num_tasks=config.num_tasks,
      num_pixels=config.image_size**2,
  )
  base_params = permuted_images.init(
      np.random.default_rng([seed, width]),
      (config.image_size**2, width, width),
      num_classes=task.num_classes,
  )
  module = _module(config, task, width)
  fns = {
      str(index): full_batch.exact_value_and_grad(
          permuted_images.loss_sum_fn(module),
          _batches(task.train, order),
          len(task.train.labels),
      )
      for index, order in enumerate(orders)
  }
  test = _accuracy_fn(module, task.test, orders)
  validation = _accuracy_fn(module, task.validation, orders)
  numbers = {
      'learning_rate': config.learning_rate,
      'num_epochs': config.num_epochs,
  }
  run = f'{config.task}, width {width}, seed {seed}'
  rows = [
      test(params)
      for params in permuted_images.sequence(
          base_params,
          list(fns.values()),
          what=f'{run}, in sequence',
          **numbers,
      )
  ]
  own = [row[index] for index, row in enumerate(rows)]
  models = {
      name: descent.end(
          base_params, fn, what=f'{run}, permutation {name}', **numbers
      )
      for name, fn in fns.items()
  }
  vectors = {
      name: arithmetic.task_vector(params, base_params)
      for name, params in models.items()
  }

  def merge(alpha: float) -> Params:
    return arithmetic.merge(
        base_params, vectors, arithmetic.uniform_scaling(vectors, alpha)
    )

  scores = [float(np.mean(validation(merge(a)))) for a in config.scalings]
  scaling = coefficient_search.choose(config.scalings, scores)
  # Weights 1/T, so that a step is no longer than one task's.
  joint_fn = multitask.multitask_value_and_grad(
      fns, arithmetic.uniform_scaling(fns)
  )
  joint = descent.end(
      base_params, joint_fn, what=f'{run}, all permutations jointly', **numbers
  )
  return Trained(
      own=float(np.mean(own)),
      final=float(np.mean(rows[-1])),
      forgetting=permuted_images.forgetting(own, rows[-1]),
      single=float(
          np.mean([test(p)[i] for i, p in enumerate(models.values())])
      ),
      merged=float(np.mean(test(merge(scaling)))),
      averaged=float(np.mean(test(merge(1 / len(fns))))),
      joint=float(np.mean(test(joint))),
      scaling=scaling,
  )


def images(config: config_lib.ForgettingStudyConfig) -> study_results.Section:
  """Returns the section on permuted images."""
  settings = config.images
  found = {
      width: {
          seed: measure(settings, width=width, seed=seed)
          for seed in config.seeds
      }
      for width in settings.widths
  }
  task = _task(settings)
  return study_results.Section(
      title='permuted images, networks of growing width',
      claim='Wider networks forget less when they learn permuted images in'
      ' sequence.',
      source='Figure 1 of the paper, which has wider perceptrons do better on'
      ' ten permutations of MNIST after SGD; here in small and with exact'
      ' gradients. Merging beside it is this project’s question.',
      text=[
          f'{settings.num_tasks} tasks: {len(task.train.labels):,} training and'
          f' {len(task.test.labels):,} test images of {settings.task},'
          f' {settings.image_size} × {settings.image_size} pixels, in'
          f' {settings.num_tasks} orders of their pixels. Two hidden layers of'
          f' equal width ({settings.activation}), one output layer that all'
          f' tasks share and train, {settings.num_epochs} steps of plain'
          ' full-batch gradient descent a task,'
          f' η = {settings.learning_rate:g}.',
          'Merging starts all tasks from the same initial weights; one'
          ' coefficient for all is chosen on'
          f' {len(_validation(task).labels):,} validation images. Joint'
          ' training is on the mean of the tasks’ losses for as many steps,'
          ' which is what merging with 1/T equals to first order; with steps'
          ' that short for each task it is no upper limit.',
      ],
      formulas=[
          'forgetting = mean over all tasks but the last of (accuracy after its'
          ' own training − accuracy at the end)'
      ],
      findings=_findings(found),
      curves=[_curves(found)],
      tables=[_table(found)],
  )


def _task(config: config_lib.Images) -> task_lib.Task:
  task = load.load_task(config.task, image_size=config.image_size)

  def cut(examples: task_lib.Examples, number: int) -> task_lib.Examples:
    if number:
      examples = task_lib.subsample(examples, number, seed=0)
    return examples._replace(
        images=preprocessing.to_size(
            examples.images, image_size=config.image_size, num_channels=1
        )
    )

  return task._replace(
      train=cut(task.train, config.max_train),
      validation=cut(_validation(task), config.max_test),
      test=cut(task.test, config.max_test),
  )


def _module(
    config: config_lib.Images, task: task_lib.Task, width: int
) -> nn.Module:
  pixels = task.train.images / 255
  return ffn.FFN(
      widths=(width, width),
      activation=config.activation,
      pixel_mean=(float(pixels.mean()),),
      pixel_std=(float(pixels.std()),),
  )


def _validation(task: task_lib.Task) -> task_lib.Examples:
  if task.validation is None:
    raise ValueError(f'task {task.name!r} came without validation images.')
  return task.validation


def _batches(examples: task_lib.Examples, order: np.ndarray) -> batching.Batch:
  shards = full_batch.num_devices()
  return batching.make_batches(
      permuted_images.permute(examples.images, order),
      examples.labels,
      batch_size=-(-len(examples.labels) // shards),
      num_shards=shards,
  )


def _accuracy_fn(
    module: nn.Module, examples: task_lib.Examples | None, orders: np.ndarray
) -> Callable[[Params], list[float]]:
  """Returns `params -> accuracy on each task`."""
  assert examples is not None  # _task has refused it
  placed = [full_batch.place(_batches(examples, order)) for order in orders]
  correct_sum = permuted_images.correct_sum_fn(module)
  number = len(examples.labels)
  return lambda params: [
      float(full_batch.exact_mean(correct_sum, params, batches, number))
      for batches in placed
  ]


def _by_seed(found: Found, width: int, name: str) -> dict[int, float]:
  return {seed: getattr(one, name) for seed, one in found[width].items()}


def _findings(found: Found) -> list[verdicts.Finding]:
  narrow, wide = min(found), max(found)
  compared = [  # where, predicted, (width, name) and what is taken from it
      (
          f'forgetting, width {narrow} minus {wide}',
          'above 0',
          (narrow, 'forgetting'),
          (wide, 'forgetting'),
      ),
      (
          f'accuracy after the sequence, width {wide} minus {narrow}',
          'above 0',
          (wide, 'final'),
          (narrow, 'final'),
      ),
      (
          f'accuracy right after own training, width {wide} minus {narrow}',
          'above 0: wider networks learn better',
          (wide, 'own'),
          (narrow, 'own'),
      ),
  ]
  compared += [
      (
          f'accuracy, merged minus sequence, width {width}',
          'above 0, if merging is the better way',
          (width, 'merged'),
          (width, 'final'),
      )
      for width in (narrow, wide)
  ]
  findings = []
  for where, predicted, first, second in compared:
    spread = spreads.paired(_by_seed(found, *first), _by_seed(found, *second))
    assert spread is not None  # the seeds are the same
    findings.append(
        verdicts.Finding(
            where,
            predicted,
            spreads.difference(spread),
            spreads.above(spread),
            'Points, mean over seeds with its 95 % interval of Student’s t;'
            ' holds if the whole interval is above 0.',
        )
    )
  return findings


def _curves(found: Found) -> study_results.Curves:
  def series(label, name, color, kind=study_results.MEASURED):
    values = [list(_by_seed(found, width, name).values()) for width in found]
    return study_panels.ranged(label, color, found, values, kind)

  reference = study_results.REFERENCE
  return study_results.Curves(
      name='forgetting_images',
      title='Permuted images: forgetting and accuracy over the width',
      alt='Forgetting in sequence over the width, and the mean accuracy over'
      ' all tasks of sequence, merging, joint and single training.',
      reading='Dots are means over seeds, bands run from the lowest to the'
      ' highest seed.',
      x_label='units of both hidden layers',
      y_label='share of test images',
      panels=[
          study_results.Panel(
              'forgetting', [series('forgetting in sequence', 'forgetting', 1)]
          ),
          study_results.Panel(
              'accuracy, mean over tasks',
              [
                  series('after the sequence', 'final', 6),
                  series('merged, α by validation', 'merged', 0),
                  series('merged, α = 1/T', 'averaged', 5),
                  series('joint training', 'joint', 2, reference),
                  series('each task’s own model', 'single', 3, reference),
              ],
          ),
      ],
      log_x=True,
  )


def _table(found: Found) -> study_results.Table:
  columns = {
      'Right after its own training': 'own',
      'After the sequence': 'final',
      'Forgetting': 'forgetting',
      'Merged': 'merged',
      'Merged, 1/T': 'averaged',
      'Joint': 'joint',
      'Own model': 'single',
  }
  rows = []
  for width in found:
    cells = [
        accuracy_lib.spread(list(_by_seed(found, width, name).values()))
        for name in columns.values()
    ]
    scalings = list(_by_seed(found, width, 'scaling').values())
    rows.append(
        [
            f'{width}',
            *map(spreads.points, cells),
            verdicts.between(scalings, '{:g}'),
        ]
    )
  return study_results.Table(
      caption='Per cent of test images, mean over tasks, then over seeds ± one'
      ' standard deviation.',
      columns=['Width', *columns, 'α by validation'],
      rows=rows,
  )
