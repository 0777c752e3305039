"""Section of the study of forgetting on gradient descent in float64.

The closed forms are NumPy's; beside them the project's own full-batch gradient
descent runs in float64, and its own arithmetic merges the task vectors.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.experiments.studies.forgetting import regression
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.finetuning import multitask
from taskvec_jax.gradients import full_batch
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts
from taskvec_jax.studies import forgetting
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import ValueAndGradFn

# Fixed before anything was measured.
CLOSED_FORM_BAR = 1e-9  # relative, of every step of descent
FIRST_STEP_BAR = 1e-12  # relative, of merging against joint training

# Name of a merge -> coefficients of the task vectors of A and of B, each
# trained from zero, and AB, that of the sequence.
_MERGES = {
    'sum τ(A) + τ(B)': {'A': 1.0, 'B': 1.0},
    'average (τ(A) + τ(B))/2': {'A': 0.5, 'B': 0.5},
    'negation −τ(A)': {'A': -1.0},
    'negation, sequence − τ(A)': {'AB': 1.0, 'A': -1.0},
}


class Problem(NamedTuple):
  """Two tasks and the step of gradient descent on them."""

  task: forgetting.Regression  # A
  other: forgetting.Regression  # B
  learning_rate: float  # 1 / the largest eigenvalue of the Hessian
  num_epochs: int  # after which the slowest direction is below the tolerance


class Descent(NamedTuple):
  """What one seed's gradient descent came to, relative distances."""

  to_min_norm: dict[str, float]  # part -> at the end
  to_closed_form: float  # the largest of all steps that were compared
  first_step: float  # merged against joint, after one epoch
  epochs: list[int]
  path: list[float]  # of A, distance to the solution of least norm
  expected: list[float]  # the same in closed form


def problem(sizes: config_lib.Sizes, *, seed: int, tolerance: float) -> Problem:
  """Returns tasks A and B of one seed, B turned by one random rotation."""
  rng = np.random.default_rng([seed, sizes.num_features, 3])
  task = forgetting.draw(rng, **dataclasses.asdict(sizes))
  basis = forgetting.task_basis(task, forgetting.trained(task).basis)
  other = forgetting.turned(
      task, basis, forgetting.haar_frame(rng, *basis.shape)
  )
  eigenvalues = (
      np.linalg.svd(task.inputs, compute_uv=False) ** 2 / sizes.num_examples
  )
  slowest = 1 - eigenvalues.min() / eigenvalues.max()
  # A tenth of it: the end of a sequence has two such distances.
  num_epochs = math.ceil(math.log(tolerance / 10) / math.log(slowest))
  return Problem(task, other, float(1 / eigenvalues.max()), num_epochs)


def value_and_grad_fn(task: forgetting.Regression) -> ValueAndGradFn:
  """Returns the project's exact gradient of `|X v - y|^2 / (2 n)`."""
  batch = {
      'inputs': task.inputs[None, None],
      'targets': task.targets[None, None],
  }
  return full_batch.exact_value_and_grad(_loss_sum, batch, len(task.targets))


def descend(one: Problem, epochs: list[int]) -> Descent:
  """Returns how far the project's gradient descent is from the closed forms.

  Args:
    one: the two tasks.
    epochs: numbers of steps to compare at, rising; the last is the end.
  """
  with jax.enable_x64(True):
    fns = {'A': value_and_grad_fn(one.task), 'B': value_and_grad_fn(one.other)}
    zero = {'params': np.zeros(one.task.inputs.shape[1])}
    alone = {
        name: _path(zero, fn, one.learning_rate, epochs)
        for name, fn in fns.items()
    }
    sequences = {
        k: _path(alone['A'][k], fns['B'], one.learning_rate, [k])[k]
        for k in epochs
    }
    vectors = {
        name: arithmetic.task_vector(path[1], zero)
        for name, path in alone.items()
    }
    merged = arithmetic.merge(zero, vectors, dict.fromkeys(vectors, 1.0))
    last = epochs[-1]
    converged = {
        'A': alone['A'][last],
        'B': alone['B'][last],
        'AB': sequences[last],
    }
    merges = _merged(zero, converged)
    joint_fn = multitask.multitask_value_and_grad(
        fns, dict.fromkeys(vectors, 1.0)
    )
    joint = _path(zero, joint_fn, one.learning_rate, [1])[1]
  first = forgetting.trained(one.task).params
  min_norm = {
      'A': first,
      'B': forgetting.trained(one.other).params,
      'AB': forgetting.trained_from(first, one.other),
  }
  names = {'A': 'A from zero', 'B': 'B from zero', 'AB': 'B after A'}
  ends = {
      **{names[key]: (converged[key], min_norm[key]) for key in names},
      **{
          name: (merges[name], sum(a * min_norm[k] for k, a in scaling.items()))
          for name, scaling in _MERGES.items()
      },
  }
  return Descent(
      to_min_norm={
          part: _distance(params['params'], exact)
          for part, (params, exact) in ends.items()
      },
      to_closed_form=max(
          max(_closed_form_distances(one, alone, sequences, k)) for k in epochs
      ),
      first_step=_distance(merged['params'], joint['params']),
      epochs=epochs,
      path=[_distance(alone['A'][k]['params'], min_norm['A']) for k in epochs],
      expected=[
          _distance(
              forgetting.trained(
                  one.task, learning_rate=one.learning_rate, num_epochs=k
              ).params,
              min_norm['A'],
          )
          for k in epochs
      ],
  )


def descent(config: config_lib.ForgettingStudyConfig) -> study_results.Section:
  """Returns the section on gradient descent against the closed forms."""
  found = []
  for seed in config.seeds:
    one = problem(config.descent, seed=seed, tolerance=config.tolerance)
    found.append(descend(one, marks(one.num_epochs)))
  worst = {
      part: max(one.to_min_norm[part] for one in found)
      for part in found[0].to_min_norm
  }
  closed = max(one.to_closed_form for one in found)
  first = max(one.first_step for one in found)
  steps = verdicts.between([one.epochs[-1] for one in found], '{:,}')
  return study_results.Section(
      title='gradient descent reaches the closed forms',
      claim='The project’s full-batch gradient descent from zero ends in the'
      ' solution of least norm, in sequence too, its task vectors add up and'
      ' subtract to what those solutions do, and it is at every step where the'
      ' closed form says.',
      source='That gradient descent from zero finds the solution of least norm'
      ' is a known fact, which the paper starts from; the form after k steps'
      ' follows from the eigenvectors. That one step of merging is one step of'
      ' joint training is theory (2.2).',
      text=[
          'Loss |Xv − y|²/(2n), step 1/λ with λ the largest eigenvalue of its'
          f' Hessian, {regression.describe(config.descent)}; the'
          f' number of steps, {steps}, is computed from the smallest eigenvalue'
          ' beforehand. All in float64.',
      ],
      formulas=[
          'θ after k steps on A = Q diag(s/σ) U′y,'
          ' s = 1 − (1 − ησ²/n)ᵏ, X = U diag(σ) Q′',
          'then k on B = start + b(B) − Q(B) diag(s) Q(B)′ start',
      ],
      findings=[
          verdicts.Finding(
              f'{part}: distance to the solution of least norm'
              if part not in _MERGES
              else f'{part}: distance to that of the solutions of least norm',
              f'at most {config.tolerance:.0e}',
              f'{value:.1e}',
              verdicts.of(value <= config.tolerance),
              'Relative to its length, the largest over seeds.',
          )
          for part, value in worst.items()
      ]
      + [
          verdicts.Finding(
              'every compared number of steps: distance to the closed form',
              f'at most {CLOSED_FORM_BAR:.0e}',
              f'{closed:.1e}',
              verdicts.of(closed <= CLOSED_FORM_BAR),
              'Relative to its length, the largest over seeds, of A, of B and'
              ' of B after as many steps on A.',
          ),
          verdicts.Finding(
              'one step: merged against jointly trained parameters',
              f'at most {FIRST_STEP_BAR:.0e}',
              f'{first:.1e}',
              verdicts.of(first <= FIRST_STEP_BAR),
              'Relative to its length, the largest over seeds; coefficients'
              ' are 1 on both sides.',
          ),
      ],
      curves=[_path_curves(config, found)],
  )


def marks(num_epochs: int) -> list[int]:
  """Returns powers of two up to `num_epochs`, and that."""
  powers = [2**i for i in range(num_epochs.bit_length())]
  return [k for k in powers if k < num_epochs] + [num_epochs]


def _merged(zero, converged) -> dict[str, dict]:
  """Returns `_MERGES` of what descent ended in, by the project's arithmetic."""
  vectors = {
      name: arithmetic.task_vector(params, zero)
      for name, params in converged.items()
  }
  return {
      name: arithmetic.merge(
          zero, {key: vectors[key] for key in scaling}, scaling
      )
      for name, scaling in _MERGES.items()
  }


def _path(start, fn, learning_rate, epochs) -> dict[int, dict]:
  """Returns the parameters after each number of steps in `epochs`."""
  found = {}
  for params, info in gradient_descent.trajectory(
      start, fn, learning_rate=learning_rate, num_epochs=epochs[-1]
  ):
    if info.epoch in epochs:
      found[info.epoch] = params
  return found


def _closed_form_distances(one, alone, sequences, k) -> list[float]:
  numbers = {'learning_rate': one.learning_rate, 'num_epochs': k}
  first = forgetting.trained(one.task, **numbers).params
  second = forgetting.trained(one.other, **numbers).params
  both = forgetting.trained_from(first, one.other, **numbers)
  return [
      _distance(alone['A'][k]['params'], first),
      _distance(alone['B'][k]['params'], second),
      _distance(sequences[k]['params'], both),
  ]


def _loss_sum(params, batch):
  return (
      (batch['inputs'] @ params['params'] - batch['targets']) ** 2
  ).sum() / 2


def _distance(params, exact) -> float:
  return float(
      np.linalg.norm(np.asarray(params) - np.asarray(exact))
      / np.linalg.norm(exact)
  )


def _path_curves(config, found: list[Descent]) -> study_results.Curves:
  panels = [
      study_results.Panel(
          f'seed {seed}',
          [
              study_panels.line(
                  'gradient descent',
                  study_results.MEASURED,
                  0,
                  one.epochs,
                  one.path,
              ),
              study_panels.predicted(
                  'closed form', 6, one.epochs, one.expected
              ),
          ],
      )
      for seed, one in zip(config.seeds[:3], found, strict=False)
  ]
  return study_results.Curves(
      name='forgetting_descent',
      title='Task A from zero: distance to the solution of least norm',
      alt='The distance falls; gradient descent lies on the closed form.',
      reading='Relative to its length. Both axes are logarithmic.',
      x_label='steps',
      y_label='relative distance',
      panels=panels,
      log_x=True,
      log_y=True,
  )
