"""Claim 4: the second-order term can be bounded, and how tightly.

All rungs of theory section 4 on one run: the multitask path of k epochs on a
stated number of examples a task. The a priori rungs and the per-example ones
need a feed-forward network; the rungs by Lanczos need nothing but
Hessian-vector products. A rung below the next stops the run.

In a run of several processes each computes the per-example rungs from all
processes' examples, which it is sent.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from taskvec_jax import tree
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.report import results as results_lib
from taskvec_jax.second_order import bounds as bounds_lib
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import ladder as ladder_lib
from taskvec_jax.second_order import lanczos
from taskvec_jax.second_order import local_bounds
from taskvec_jax.second_order import weight_norms
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

_MEANINGS = {
    'R0': ('a product over balls that hold the weights', 'certified'),
    'R1': ('norms of the layers along the path', 'certified'),
    'R2': ("each example's own Jacobians, averaged", 'certified'),
    'R2K': ('the Gauss-Newton part averaged as a matrix', 'certified'),
    'R3': ('the norm of each Hessian, by Lanczos', 'estimate'),
    'R3t': ('each Hessian times its drift', 'measured'),
    'R4': ('the second-order term itself', 'measured'),
}


class _Point(NamedTuple):
  """theta_MT^(e) and R_t^(e)."""

  params: Params
  drift: Mapping[str, Params]


class _End(NamedTuple):
  """After k epochs: theta_MT^(k) and |C_k|."""

  params: Params
  correction_norm: float


def ladders(
    setting: setting_lib.Setting,
    *,
    learning_rate: float,
    epochs: Sequence[int],
    lanczos_iterations: int,
    seed: int,
) -> list[results_lib.Ladder]:
  """Returns the rungs and certificates of every k in `epochs`, on one path.

  Raises:
    ArithmeticError: a rung lies below a later one, or a certificate below the
      measured gap; it names both numbers.
    FloatingPointError: the multitask path diverges.
  """
  curved = task_losses.grad_and_hvp_fns(setting)
  last = max(epochs)
  inner, ends = [], {}
  for state in correction.corrections(
      setting.base_params,
      [curved] * last,
      setting.scaling,
      learning_rate=learning_rate,
  ):
    if not math.isfinite(float(tree.norm(state.params))):
      raise FloatingPointError(
          f'The multitask parameters are not finite after epoch {state.step};'
          f' use a smaller learning_rate than {learning_rate:g}.'
      )
    # No more of each state than is needed: of a large model they are many.
    if state.step < last:
      inner.append(_Point(state.params, state.drift))
    if state.step in epochs:
      ends[state.step] = _End(state.params, float(tree.norm(state.correction)))
  del state
  measured = _lanczos_norms(
      inner, curved, setting.scaling, lanczos_iterations, seed
  )
  feed_forward = isinstance(setting.module, ffn.FFN)
  if feed_forward:
    whole = splits.whole_train(setting)
    plain = task_losses.value_and_grad_fns(setting)
    measured.update(_local_norms(whole, inner))
    path_norms = [
        _point_norms(setting, params)
        for params in (setting.base_params, *(s.params for s in inner))
    ]
  out = []
  for k in epochs:
    values = _rungs(measured, setting.scaling, k)
    values['R4'] = ends[k].correction_norm
    certificates = []
    if feed_forward:
      values.update(_a_priori_rungs(whole, path_norms[:k]))
      certificates = _certificates(
          whole, plain, ends[k].params, path_norms[:k], learning_rate
      )
    rungs = ladder_lib.ladder(values)
    ladder_lib.check_ladder(rungs)
    out.append(
        results_lib.Ladder(
            num_epochs=k,
            learning_rate=learning_rate,
            num_examples=setting_lib.largest_train(setting),
            rungs=[_describe(rung) for rung in rungs],
            certificates=certificates,
        )
    )
  return out


def _describe(rung: ladder_lib.Rung) -> results_lib.Rung:
  meaning, kind = _MEANINGS[rung.name]
  finite = math.isfinite(rung.value)
  return results_lib.Rung(
      name=rung.name,
      meaning=meaning,
      value=rung.value if finite else None,
      ratio=rung.ratio if math.isfinite(rung.ratio) else None,
      kind=kind,
  )


def _lanczos_norms(inner, curved, scaling, num_iterations, seed):
  """Returns |H| by Lanczos from the drift, |H R| and |R|, by task and epoch."""
  names = ('drift', 'R3', 'R3t')
  norms = {name: {task: [] for task in scaling} for name in names}
  for task in tqdm.tqdm(scaling, desc='ladder', disable=None, leave=False):
    for state in inner:

      def hvp_fn(v, fn=curved[task], params=state.params):
        return fn(params, v)[1]

      drift = state.drift[task]
      lowest, highest = lanczos.extreme_eigenvalues(
          jax.random.key(seed),
          hvp_fn,
          state.params,
          num_iterations=num_iterations,
          start=drift,
      )
      norms['drift'][task].append(float(tree.norm(drift)))
      norms['R3'][task].append(max(-lowest, highest))
      norms['R3t'][task].append(float(tree.norm(hvp_fn(drift))))
  return norms


def _local_norms(setting: setting_lib.Setting, inner):
  """Returns the bounds of |H| from what the network does at each example."""
  norms = {'R2': {}, 'R2K': {}}
  for task in setting.scaling:
    train = setting.data[task].train
    found = [
        local_bounds.local_bounds(
            ffn.layers(state.params, setting.heads[task]),
            setting.module.activation,
            _flat_inputs(setting, train),
            train.labels,
        )
        for state in inner
    ]
    norms['R2'][task] = [point.hessian_r2 for point in found]
    norms['R2K'][task] = [point.hessian_r2k for point in found]
  return norms


def _rungs(measured, scaling, num_epochs: int) -> dict[str, float]:
  """Returns the rungs that are sums over e = 1..k-1."""
  norms = {
      name: {task: values[: num_epochs - 1] for task, values in by_task.items()}
      for name, by_task in measured.items()
  }
  drift = norms.pop('drift')
  values = {'R3t': ladder_lib.hvp_rung(scaling, norms.pop('R3t'))}
  for name, hessian_norms in norms.items():
    values[name] = ladder_lib.drift_rung(scaling, hessian_norms, drift)
  return values


def _point_norms(setting: setting_lib.Setting, params):
  """Returns the norms of the encoder's layers at one point.

  The heads are frozen: any of them completes the network that is measured.
  """
  head = next(iter(setting.heads.values()))
  return weight_norms.weight_norms(ffn.layers(params, head)[:-1])


def _task_norms(setting: setting_lib.Setting, points, task: str):
  """Returns the largest norms over `points`, the task's own head at the end."""
  head = setting.heads[task]
  last = ffn.Layer(head.kernel, head.bias, trained=False)
  return (*weight_norms.largest(points), *weight_norms.weight_norms([last]))


def _input_norm(setting: setting_lib.Setting, task: str) -> float:
  flat = _flat_inputs(setting, setting.data[task].train)
  return float(np.linalg.norm(flat.astype(np.float64), axis=1).max())


def _flat_inputs(setting: setting_lib.Setting, arrays) -> np.ndarray:
  """Returns the floats that the encoder sees, `[n, H W C]`."""
  dtype = jax.tree.leaves(setting.base_params)[0].dtype
  inputs = encoders.normalize(setting.module, arrays.inputs, dtype)
  return np.asarray(inputs).reshape((len(inputs), -1))


def _largest_bounds(setting, norms_by_task, bound_fn) -> bounds_lib.Bounds:
  """Returns one G and one H that hold for every task."""
  found = [
      bound_fn(norms, setting.module.activation, _input_norm(setting, task))
      for task, norms in norms_by_task.items()
  ]
  return bounds_lib.Bounds(
      max(bound.gradient for bound in found),
      max(bound.hessian for bound in found),
  )


def _a_priori_rungs(setting: setting_lib.Setting, path_norms):
  """Returns R0 and R1, from norms of the weights at theta_MT^(0..k-1) alone."""
  norms = {
      task: _task_norms(setting, path_norms, task) for task in setting.scaling
  }
  return {
      name: bounds_lib.correction_bound(
          _largest_bounds(setting, norms, bound_fn),
          setting.scaling,
          num_epochs=len(path_norms),
      )
      for name, bound_fn in (
          ('R0', bounds_lib.classical_bounds_from_norms),
          ('R1', bounds_lib.bounds_from_norms),
      )
  }


def _certificates(
    setting, value_and_grad_fns, multitask_params, path_norms, learning_rate
):
  """Returns (4.2) and (4.6) at the end of a path; both above the gap.

  There are none of a gap that is no more than rounding.
  """
  base_params, scaling = setting.base_params, setting.scaling
  numbers = {'learning_rate': learning_rate, 'num_epochs': len(path_norms)}
  norms, task_vectors = {}, {}
  for task, fn in value_and_grad_fns.items():
    track = [
        params
        for params, _ in gradient_descent.trajectory(base_params, fn, **numbers)
    ]
    # The task's own segments, from theta_MT^(e) to theta_t^(e), e < k.
    points = [_point_norms(setting, params) for params in track[:-1]]
    norms[task] = _task_norms(setting, [*path_norms, *points], task)
    task_vectors[task] = arithmetic.task_vector(track[-1], base_params)
  merged_params = arithmetic.merge(base_params, task_vectors, scaling)
  gap = float(tree.norm(tree.sub(merged_params, multitask_params)))
  if gap <= _rounding(base_params, task_vectors, scaling):
    return []  # what was measured is rounding, which no bound is of
  bounds = _largest_bounds(setting, norms, bounds_lib.bounds_from_norms)
  negative_curvature = max(
      bounds_lib.negative_curvature_from_norms(
          norms[task], setting.module.activation, _input_norm(setting, task)
      )
      for task in scaling
  )
  values = {
      '(4.2)': bounds_lib.gap_bound(bounds, scaling, **numbers),
      '(4.6)': bounds_lib.signed_gap_bound(
          bounds, scaling, negative_curvature=negative_curvature, **numbers
      ),
  }
  certificates = []
  for name, value in values.items():
    ladder_lib.check_at_least(name, value, 'the measured gap', gap)
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


def _rounding(base_params, task_vectors, scaling) -> float:
  """Returns what rounding alone may make of a gap, as a norm."""
  size = float(tree.norm(base_params)) + sum(
      abs(alpha) * float(tree.norm(task_vectors[task]))
      for task, alpha in scaling.items()
  )
  return 4 * float(jnp.finfo(jax.tree.leaves(base_params)[0].dtype).eps) * size
