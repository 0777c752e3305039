"""Claim 4: the second-order term can be bounded, and how tightly.

All rungs of theory section 4 on one run: the multitask path of k epochs on a
stated number of examples a task. The a priori rungs and the per-example ones
need a feed-forward network; the rungs by Lanczos need nothing but
Hessian-vector products. A rung below the next stops the run.
"""

from collections.abc import Sequence
import math

import jax
import numpy as np
from optax import tree

from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.models import ffn
from taskvec_jax.report import results as results_lib
from taskvec_jax.second_order import bounds as bounds_lib
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import ladder as ladder_lib
from taskvec_jax.second_order import lanczos
from taskvec_jax.second_order import local_bounds
from taskvec_jax.second_order import weight_norms
from taskvec_jax.task_vectors import arithmetic

_MEANINGS = {
    'R0': ('a product over balls that hold the weights', 'certified'),
    'R1': ('norms of the layers along the path', 'certified'),
    'R2': ("each example's own Jacobians, averaged", 'certified'),
    'R2K': ('the Gauss-Newton part averaged as a matrix', 'certified'),
    'R3': ('the norm of each Hessian, by Lanczos', 'estimate'),
    'R3t': ('each Hessian times its drift', 'measured'),
    'R4': ('the second-order term itself', 'measured'),
}


def ladder(
    setting: setting_lib.Setting,
    *,
    learning_rate: float,
    num_epochs: int,
    lanczos_iterations: int,
    seed: int,
) -> results_lib.Ladder:
  """Returns the rungs and certificates of one k.

  Raises:
    ArithmeticError: a rung lies below a later one, or a certificate below the
      measured gap; it names both numbers.
  """
  base_params, scaling = setting.base_params, setting.scaling
  curved = setting_lib.grad_and_hvp_fns(setting)
  states = list(
      correction.corrections(
          base_params,
          [curved] * num_epochs,
          scaling,
          learning_rate=learning_rate,
      )
  )
  values = _lanczos_rungs(states, curved, scaling, lanczos_iterations, seed)
  values['R4'] = float(tree.norm(states[-1].correction))
  certificates = []
  if isinstance(setting.module, ffn.FFN):
    values.update(_local_rungs(setting, states))
    values.update(_a_priori_rungs(setting, states))
    certificates = _certificates(setting, states, learning_rate)
  rungs = ladder_lib.ladder(values)
  ladder_lib.check_ladder(rungs)
  return results_lib.Ladder(
      num_epochs=num_epochs,
      learning_rate=learning_rate,
      num_examples=max(d.train.num_examples for d in setting.data.values()),
      rungs=[
          results_lib.Rung(
              name=rung.name,
              meaning=_MEANINGS[rung.name][0],
              value=rung.value,
              ratio=rung.ratio,
              kind=_MEANINGS[rung.name][1],
          )
          for rung in rungs
      ],
      certificates=certificates,
  )


def _inner(states: Sequence[correction.CorrectionState]):
  """The states after 1..k-1 steps: theta_MT^(e) and R_t^(e) of the sum."""
  return states[:-1]


def _drift_norms(states, task: str) -> list[float]:
  return [float(tree.norm(state.drift[task])) for state in _inner(states)]


def _lanczos_rungs(states, curved, scaling, num_iterations, seed):
  """Returns R3 and R3t. Lanczos starts at the drift, so its norm bounds H R."""
  hessian_norms, hvp_norms = {}, {}
  for task in scaling:
    hessian_norms[task], hvp_norms[task] = [], []
    for state in _inner(states):

      def hvp_fn(v, fn=curved[task], params=state.params):
        return fn(params, v)[1]

      lowest, highest = lanczos.extreme_eigenvalues(
          jax.random.key(seed),
          hvp_fn,
          state.params,
          num_iterations=num_iterations,
          start=state.drift[task],
      )
      hessian_norms[task].append(max(-lowest, highest))
      hvp_norms[task].append(float(tree.norm(hvp_fn(state.drift[task]))))
  drift_norms = {task: _drift_norms(states, task) for task in scaling}
  return {
      'R3': ladder_lib.drift_rung(scaling, hessian_norms, drift_norms),
      'R3t': ladder_lib.hvp_rung(scaling, hvp_norms),
  }


def _local_rungs(setting: setting_lib.Setting, states):
  """Returns R2 and R2K, from what the network does at each example."""
  per_rung = {'hessian_r2': {}, 'hessian_r2k': {}}
  for task in setting.scaling:
    train = setting.data[task].train
    inputs = train.inputs.reshape(len(train.inputs), -1)
    at_points = [
        local_bounds.local_bounds(
            ffn.layers(state.params, setting.heads[task]),
            setting.module.activation,
            inputs,
            train.labels,
        )
        for state in _inner(states)
    ]
    for field, by_task in per_rung.items():
      by_task[task] = [getattr(point, field) for point in at_points]
  drift_norms = {task: _drift_norms(states, task) for task in setting.scaling}
  return {
      name: ladder_lib.drift_rung(
          setting.scaling, per_rung[field], drift_norms
      )
      for name, field in (('R2', 'hessian_r2'), ('R2K', 'hessian_r2k'))
  }


def _norms(setting: setting_lib.Setting, points, task: str):
  return weight_norms.largest(
      weight_norms.weight_norms(ffn.layers(params, setting.heads[task]))
      for params in points
  )


def _input_norm(setting: setting_lib.Setting, task: str) -> float:
  inputs = setting.data[task].train.inputs
  flat = inputs.reshape(len(inputs), -1).astype(np.float64)
  return float(np.linalg.norm(flat, axis=1).max())


def _largest_bounds(setting, points_by_task, bound_fn) -> bounds_lib.Bounds:
  """Returns one G and one H that hold for every task."""
  found = [
      bound_fn(
          _norms(setting, points, task),
          setting.module.activation,
          _input_norm(setting, task),
      )
      for task, points in points_by_task.items()
  ]
  return bounds_lib.Bounds(
      max(bound.gradient for bound in found),
      max(bound.hessian for bound in found),
  )


def _a_priori_rungs(setting: setting_lib.Setting, states):
  """Returns R0 and R1, from norms of the weights along the path alone."""
  path = [setting.base_params, *(state.params for state in _inner(states))]
  points = dict.fromkeys(setting.scaling, path)
  return {
      name: bounds_lib.correction_bound(
          _largest_bounds(setting, points, bound_fn),
          setting.scaling,
          num_epochs=states[-1].step,
      )
      for name, bound_fn in (
          ('R0', bounds_lib.classical_bounds_from_norms),
          ('R1', bounds_lib.bounds_from_norms),
      )
  }


def _certificates(setting, states, learning_rate):
  """Returns (4.2) and (4.6), each checked against the measured gap."""
  base_params, scaling = setting.base_params, setting.scaling
  num_epochs = states[-1].step
  path = [base_params, *(state.params for state in _inner(states))]
  points, task_vectors = {}, {}
  for task, fn in setting_lib.value_and_grad_fns(setting).items():
    track = [
        params
        for params, _ in gradient_descent.trajectory(
            base_params,
            fn,
            learning_rate=learning_rate,
            num_epochs=num_epochs,
        )
    ]
    points[task] = [*path, *track[:-1]]
    task_vectors[task] = arithmetic.task_vector(track[-1], base_params)
  merged_params = arithmetic.merge(base_params, task_vectors, scaling)
  gap = float(tree.norm(tree.sub(merged_params, states[-1].params)))
  bounds = _largest_bounds(setting, points, bounds_lib.bounds_from_norms)
  negative_curvature = max(
      bounds_lib.negative_curvature_from_norms(
          _norms(setting, points[task], task),
          setting.module.activation,
          _input_norm(setting, task),
      )
      for task in scaling
  )
  numbers = {'learning_rate': learning_rate, 'num_epochs': num_epochs}
  values = {
      '(4.2)': bounds_lib.gap_bound(bounds, scaling, **numbers),
      '(4.6)': bounds_lib.signed_gap_bound(
          bounds, scaling, negative_curvature=negative_curvature, **numbers
      ),
  }
  certificates = []
  for name, value in values.items():
    ladder_lib.check_at_least(name, value, 'the measured gap', gap, rtol=1e-5)
    finite = math.isfinite(value)
    certificates.append(
        results_lib.Certificate(
            name=name,
            value=value if finite else None,
            gap=gap,
            ratio=value / gap if finite and gap else None,
        )
    )
  return certificates
