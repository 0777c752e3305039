"""Claim 1: where losses are quadratics, the coefficient is the minimiser.

Ridge regression on shuffled digits in float64, the project's Hessian-vector
products against Brent's method on measured losses.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments.studies.continual_merging import (
    config as config_lib,
)
from taskvec_jax.experiments.studies.continual_merging import words
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.report import accuracy
from taskvec_jax.report import spreads
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import continual_merging
from taskvec_jax.studies import quadratic_tasks
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import batching
from taskvec_jax.tasks import load
from taskvec_jax.tasks import task as task_lib

_BAR = 1e-6  # of a coefficient, and of a merged model over its distance
_STATIONARY = 1e-10  # of a gradient, over that at theta^_{t-1}
_CLASSES = 10
_IMAGES = 500  # a task

SEQUENTIAL = 'sequential (α = 1)'
MEAN = 'average (α = 1/t)'
HESSIAN = 'closed form, Hessian'
DIAGONAL = 'closed form, diagonal of the Hessian'
PERTURBED = 'perturbed, closed form, Hessian'
REFITTED = 'perturbed, line search'
SEARCHED = 'line search'
_ORDER = (SEQUENTIAL, MEAN, DIAGONAL, HESSIAN, SEARCHED, PERTURBED, REFITTED)


class Measured(NamedTuple):
  """Of one seed."""

  differences: list[float]  # |alpha_t - measured minimiser|, t = 2..T
  stationarity: float  # largest |grad E| at the predicted end, over the start's
  refitted: float  # largest distance of merged models, over |Delta|
  excess: dict[str, float]  # method -> mean loss above each task's own minimum
  joint: float  # the same of the minimum of the sum


def section(
    config: config_lib.ContinualMergingStudyConfig,
) -> study_results.Section:
  """Returns the section of all seeds."""
  found = [
      measure(
          seed,
          num_tasks=config.num_permutations,
          epsilon=config.epsilon,
          probability=config.probability,
          ridge=config.ridge,
      )
      for seed in config.seeds
  ]
  factor = continual_merging.shortening(
      epsilon=config.epsilon, probability=config.probability
  )
  return study_results.Section(
      title='the coefficient is the minimiser',
      claim='Along the step from the kept model to the new one, the closed-form'
      ' coefficient minimises the loss of all tasks so far.',
      source='The coefficient: the paper. What perturbed training does to a'
      ' quadratic: derived for this project.',
      text=[
          'The paper expands each task’s loss to second order around its own'
          ' optimum. In ridge regression that expansion is exact, so the'
          ' coefficient has to agree with a line search that sees losses alone.'
          ' Perturbed training of a quadratic ends on the line it would have'
          ' ended on anyway, a fixed share short; a coefficient that is fitted'
          ' again undoes it. Whatever the perturbation achieves must therefore'
          ' come from where the loss is no quadratic. The closed form itself'
          ' takes the perturbed end for the optimum, and so steps shorter than'
          ' the minimiser.'
      ],
      formulas=[
          'α = −Σᵢ (θ̂ − θᵢ*)ᵀ Hᵢ Δ / Σᵢ Δᵀ Hᵢ Δ',
          'perturbed: Δ = Δ₀ / (1 + 2 p ε²)',
      ],
      findings=_findings(found, factor),
      tables=[_table(found)],
  )


def measure(
    seed: int,
    *,
    num_tasks: int,
    epsilon: float,
    probability: float,
    ridge: float,
) -> Measured:
  """Returns what is found on `num_tasks` shuffled tasks."""
  numbers = dict(epsilon=epsilon, probability=probability)
  rng = np.random.default_rng(seed)
  examples = load.load_task('digits').train
  images, labels = task_lib.subsample(examples, _IMAGES, seed=seed)[:2]
  size = images[0].size
  tasks = {
      f'task {number}': quadratic_tasks.regression(
          images, labels, rng.permutation(size)
      )
      for number in range(1, num_tasks + 1)
  }
  with jax.enable_x64():
    return _measure(tasks, ridge, numbers)


def _measure(tasks, ridge: float, numbers) -> Measured:
  minima = {}
  loss_sum = jax.tree_util.Partial(quadratic_tasks.loss_sum, ridge)
  losses, hvp_fns = {}, {}
  for name, task in tasks.items():
    minima[name] = {
        'kernel': quadratic_tasks.minimum(
            task, num_classes=_CLASSES, ridge=ridge
        )
    }
    batches = batching.make_batches(
        task.inputs, task.labels, batch_size=_IMAGES
    )
    num = len(task.labels)
    losses[name] = _loss_fn(loss_sum, full_batch.place(batches), num)
    hvp_fns[name] = full_batch.exact_gradient_and_hvp(loss_sum, batches, num)
  base = jax.tree.map(np.zeros_like, next(iter(minima.values())))

  def train(name, previous, seen):
    del previous, seen
    return minima[name]

  def train_perturbed(name, previous, seen):
    del seen
    direction = tree.sub(minima[name], previous)
    return arithmetic.edit(
        previous, direction, continual_merging.shortening(**numbers)
    )

  def train_perturbed_later(name, previous, seen):
    # Earlier optima do not enter a line search: with the first task's the true
    # one, every later merge has to be that of plain training.
    return (train_perturbed if seen else train)(name, previous, seen)

  def searched(previous, direction, seen):
    return quadratic_tasks.measured_minimiser(
        lambda alpha: sum(
            losses[name](arithmetic.edit(previous, direction, alpha))
            for name in seen
        )
    )

  differences = []
  diagonals = {
      name: _diagonal(quadratic_tasks.curvature(task, ridge=ridge))
      for name, task in tasks.items()
  }
  diagonal_fns = perturb_and_merge.fisher_product_fns(diagonals)
  unbounded = functools.partial(perturb_and_merge.coefficient, bounded=False)

  def by_diagonal(previous, direction, seen):
    return unbounded(previous, direction, seen, diagonal_fns)

  def by_hessian(previous, direction, seen):
    fns = {n: lambda v, n=n: hvp_fns[n](seen[n], v)[1] for n in seen}
    return unbounded(previous, direction, seen, fns)

  def compared(previous, direction, seen):
    alpha = by_hessian(previous, direction, seen)
    differences.append(abs(alpha - searched(previous, direction, seen)))
    return alpha

  methods = {
      SEQUENTIAL: (train, continual_merging.last_model),
      MEAN: (train, continual_merging.running_mean),
      DIAGONAL: (train, by_diagonal),
      HESSIAN: (train, compared),
      SEARCHED: (train, searched),
      PERTURBED: (train_perturbed, by_hessian),
      REFITTED: (train_perturbed_later, searched),
  }
  lowest = {name: losses[name](minima[name]) for name in tasks}

  def excess(params):
    return float(np.mean([losses[n](params) - lowest[n] for n in tasks]))

  walks = {
      method: list(continual_merging.sequence(base, list(tasks), *fns))
      for method, fns in methods.items()
  }
  joint = quadratic_tasks.joint_minimum(
      list(tasks.values()), num_classes=_CLASSES, ridge=ridge
  )
  return Measured(
      differences=differences,
      stationarity=_stationarity(
          loss_sum, base, tasks, train_perturbed, numbers
      ),
      refitted=max(
          _apart(plain, perturbed)
          for plain, perturbed in zip(
              walks[SEARCHED], walks[REFITTED], strict=True
          )
      ),
      excess={
          method: excess(steps[-1].merged_params)
          for method, steps in walks.items()
      },
      joint=excess({'kernel': joint}),
  )


def _diagonal(block: np.ndarray):
  return {'kernel': np.repeat(np.diag(block)[:, None], _CLASSES, axis=1)}


def _loss_fn(loss_sum, batches, num_examples):
  def loss(params):
    return float(full_batch.exact_mean(loss_sum, params, batches, num_examples))

  return loss


def _apart(plain, perturbed) -> float:
  """Returns how far two merged models are apart, over the plain step."""
  distance = tree.norm(tree.sub(plain.merged_params, perturbed.merged_params))
  step = tree.sub(plain.finetuned_params, plain.previous_params)
  return float(distance) / float(tree.norm(step))


def _stationarity(loss_sum, base, tasks, train_perturbed, numbers) -> float:
  """Returns the largest gradient of E at its predicted minimum, relative."""

  @jax.jit
  def gradient(params, previous, batch):
    def loss_fn(params):
      return loss_sum(params, batch) / len(batch.labels)

    return jax.grad(
        perturb_and_merge.perturbed_loss(loss_fn, previous, **numbers)
    )(params)

  largest, previous = 0.0, base
  for name, task in tasks.items():
    batch = batching.Batch(
        task.inputs, task.labels, np.ones(len(task.labels), bool)
    )
    end = train_perturbed(name, previous, {})
    size = float(tree.norm(gradient(previous, previous, batch)))
    off = float(tree.norm(gradient(end, previous, batch)))
    largest, previous = max(largest, off / size), end
  return largest


def _findings(found: list[Measured], factor: float):
  largest = max(max(one.differences) for one in found)
  number = sum(len(one.differences) for one in found)
  stationary = max(one.stationarity for one in found)
  refitted = max(one.refitted for one in found)
  below = [
      min(one.excess[SEQUENTIAL], one.excess[MEAN]) - one.excess[HESSIAN]
      for one in found
  ]
  mean = {
      name: float(np.mean([one.excess[name] for one in found]))
      for name in (HESSIAN, SEQUENTIAL, MEAN)
  }
  return [
      verdicts.Finding(
          'closed form, line search',
          f'at most {_BAR:.0e} apart',
          f'{largest:.1e}',
          verdicts.of(largest <= _BAR),
          f'The largest of {number} coefficients over all seeds, not held to'
          ' [0, 1].',
      ),
      verdicts.Finding(
          'perturbed minimum',
          f'{factor:.3f} of the step',
          f'gradient {stationary:.1e}',
          verdicts.of(stationary <= _STATIONARY),
          'The gradient of the expected loss at the predicted end, over that'
          f' at the start, at most {_STATIONARY:.0e}; the loss is convex.',
      ),
      verdicts.Finding(
          'refitted coefficient',
          f'same model to {_BAR:.0e}',
          f'{refitted:.1e}',
          verdicts.of(refitted <= _BAR),
          'Distance of the merges with and without perturbation, each by line'
          ' search, over the length of the step.',
      ),
      verdicts.Finding(
          'loss of all tasks',
          'below both',
          f'{mean[HESSIAN]:.4f}; sequential {mean[SEQUENTIAL]:.4f}, average'
          f' {mean[MEAN]:.4f}',
          words.compared(below),
          'Mean loss after the last task above each task’s own minimum: below'
          f' on {sum(x >= 0 for x in below)} of {len(below)} seeds, in part if'
          ' on average. Each coefficient is best for its own step alone; that'
          ' the last model is best is promised nowhere.',
      ),
  ]


def _table(found: list[Measured]) -> study_results.Table:
  def cell(values):
    return spreads.plain(accuracy.spread(values), digits=4)

  rows = [[name, cell([one.excess[name] for one in found])] for name in _ORDER]
  rows.append(['minimum of the sum of losses', cell([x.joint for x in found])])
  return study_results.Table(
      caption='Mean loss of all tasks after the last one, above each task’s own'
      ' minimum (mean ± standard deviation over seeds).',
      columns=['method', 'loss'],
      rows=rows,
  )
