"""Finetuning runs to convergence, measured epoch by epoch. Theory section 5.

A run is one seed, one regime and one task, or all tasks together
('multitask'). The exact regime is full-batch descent, one step an epoch; the
empirical regime is mini-batches with an Optax rule. It ends when the
validation loss has not been better for `patience` epochs, or at a cap; its
converged model is the one with the lowest validation loss. Without patience (0)
its length is a stated one, and its converged model the last. Parameters are
kept after the epochs that are merged later.

A run that was killed goes on from its last checkpoint and ends with the same
numbers: all that later epochs need is in the checkpoint.
"""

from collections.abc import Callable
import functools
import json
import math
import pathlib
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from taskvec_jax import checkpoints
from taskvec_jax import tree
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.gradients import full_batch
from taskvec_jax.report import results as results_lib
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class Run(NamedTuple):
  """A finished run."""

  finetuning: results_lib.Finetuning
  snapshots: dict[int, Params]  # after the epochs that are merged, on the host
  converged: Params  # on the host, too


class Plan(NamedTuple):
  """The numbers of a run."""

  seed: int
  regime: str
  task: str
  max_epochs: int
  patience: int  # 0: a run of max_epochs, whose last model counts
  merge_epochs: tuple[int, ...]
  checkpoint_seconds: float


def run_to_convergence(
    base_params: Params,
    steps_fn: regimes.StepsFn,
    validation_loss: Callable[[Params], float],
    base_gradient_fn: Callable[[], Params],
    plan: Plan,
    workdir: pathlib.Path,
    metrics: workdir_lib.Metrics,
) -> Run:
  """Returns the run of `plan`, going on from its last checkpoint if there is.

  Args:
    base_params: `theta_0`.
    steps_fn: gives the epochs after a state.
    validation_loss: of parameters.
    base_gradient_fn: gives the objective's gradient at `theta_0`, at the end.
    plan: the numbers.
    workdir: the work folder.
    metrics: gets one line an epoch.

  Raises:
    FloatingPointError: the loss became NaN or infinite; names the task.
  """
  which = {'seed': plan.seed, 'regime': plan.regime, 'task': plan.task}
  folder = (
      workdir / 'checkpoints' / f'seed{plan.seed}' / plan.regime / plan.task
  )
  stored = full_batch.from_first(functools.partial(_restored, folder))
  if stored:
    saved = stored['tree']
    record = json.loads(stored['record'].tobytes())
  else:
    saved = {'snapshots': {}, 'best': base_params}
    record = _new_record()
  if not record['done']:
    metrics.rewind(which, record['epoch'])
    _run_epochs(
        saved,
        record,
        base_params,
        steps_fn,
        validation_loss,
        plan,
        folder,
        metrics,
    )
  return _finish(saved, record, base_params, base_gradient_fn(), plan)


def _restored(folder: pathlib.Path) -> dict[str, Any]:
  """Returns tree and record (as bytes) of the last checkpoint, {} if none."""
  stored = checkpoints.restore_latest(folder)
  if stored is None:
    return {}
  text = json.dumps(stored.record).encode()
  return {'tree': stored.tree, 'record': np.frombuffer(text, np.uint8)}


def _new_record() -> dict[str, Any]:
  return {
      'epoch': 0,
      'done': False,
      'best_epoch': 0,
      'best_loss': None,
      'hit_cap': False,
      'losses': [],
      'validation_losses': [],
      'update_norms': [],
      'cos_update_first': [],
  }


def _run_epochs(
    saved,
    record,
    base_params,
    steps_fn,
    validation_loss,
    plan: Plan,
    folder,
    metrics,
):
  """Runs the epochs that are left, into `saved` and `record`."""
  num_done = record['epoch']
  state = saved.get('state')
  params = base_params if state is None else state['params']
  last_save = time.monotonic()
  bar = tqdm.tqdm(
      desc=f'seed {plan.seed} {plan.regime} {plan.task}',
      initial=num_done,
      total=plan.max_epochs,
      unit='epoch',
      disable=None,
      leave=False,
  )
  steps = steps_fn(state, num_done)
  while not record['done']:
    previous, epoch = params, record['epoch'] + 1
    try:
      state, params, loss = next(steps)
      first = params if epoch == 1 else saved['snapshots']['1']
      norm, cosine = _update(params, previous, first, base_params)
      _check_norm(float(norm), epoch)
      value = validation_loss(params)
      gradient_descent.check_finite(value, epoch)
    except FloatingPointError as error:
      raise FloatingPointError(
          f'Task {plan.task}, seed {plan.seed}, {plan.regime} regime: {error}.'
          f' What was computed before is kept in {folder.parents[3]}.'
      ) from error
    record['epoch'] = epoch
    record['losses'].append(loss)
    record['validation_losses'].append(value)
    record['update_norms'].append(float(norm))
    record['cos_update_first'].append(float(cosine))
    is_best = (
        not plan.patience
        or record['best_loss'] is None
        or value < record['best_loss']
    )
    if is_best or epoch in plan.merge_epochs:
      # Many models of many runs: a device need not hold them all.
      kept = jax.device_get(params)
      if is_best:
        record['best_loss'], record['best_epoch'] = value, epoch
        saved['best'] = kept
      if epoch in plan.merge_epochs:
        saved['snapshots'][str(epoch)] = kept
    converged = 0 < plan.patience <= epoch - record['best_epoch']
    enough = epoch >= plan.merge_epochs[-1]
    at_end = epoch >= plan.max_epochs
    record['hit_cap'] = at_end and not converged and plan.patience > 0
    record['done'] = at_end or (converged and enough)
    metrics.append(
        {
            'seed': plan.seed,
            'regime': plan.regime,
            'task': plan.task,
            'epoch': epoch,
            'loss': loss,
            'validation_loss': value,
            'update_norm': float(norm),
        }
    )
    saved['state'] = state
    if record['done']:
      del saved['state']
    due = time.monotonic() - last_save >= plan.checkpoint_seconds
    if workdir_lib.is_writer() and (record['done'] or due):
      checkpoints.save(folder, epoch, saved, record)
      last_save = time.monotonic()
    bar.update()
  bar.close()


def _finish(saved, record, base_params, base_gradient, plan: Plan) -> Run:
  """Returns the run with what only its end tells."""
  converged = record['best_epoch']
  snapshots = {int(e): params for e, params in saved['snapshots'].items()}
  path = {**snapshots, converged: saved['best']}
  epochs = [e for e in sorted(path) if e <= converged]

  def vector(epoch: int) -> Params:
    return tree.sub(path[epoch], base_params)

  first, last = vector(1), vector(converged)
  measured = []  # of one epoch's vector at a time: they are many
  for epoch in epochs:
    tau = vector(epoch)
    measured.append(
        [
            float(x)
            for x in (_cosine(tau, first), _cosine(tau, last), tree.norm(tau))
        ]
    )
  cos_tau_first, cos_tau_last, tau_norms = map(
      list, zip(*measured, strict=True)
  )
  updates = record['update_norms'][:converged]
  if not sum(updates):
    raise FloatingPointError(
        f'Task {plan.task}, seed {plan.seed}, {plan.regime} regime: no'
        f' parameter moved in {converged} epochs; use a larger learning_rate.'
    )
  return Run(
      results_lib.Finetuning(
          seed=plan.seed,
          regime=plan.regime,
          task=plan.task,
          losses=record['losses'],
          validation_losses=record['validation_losses'],
          update_norms=record['update_norms'],
          path_shares=[norm / sum(updates) for norm in updates],
          cos_update_first=record['cos_update_first'],
          cos_gradient=-float(_cosine(first, base_gradient)),
          snapshot_epochs=epochs,
          cos_tau_first=cos_tau_first,
          cos_tau_last=cos_tau_last,
          tau_norms=tau_norms,
          converged_epoch=converged,
          hit_cap=record['hit_cap'],
      ),
      snapshots,
      saved['best'],
  )


def _check_norm(norm: float, epoch: int) -> None:
  # A loss stays finite where activations saturate.
  if not math.isfinite(norm):
    raise FloatingPointError(
        f'the norm of the update became {norm} in epoch {epoch}; use a smaller'
        ' learning_rate'
    )


@jax.jit
def _update(params, previous, first, base_params):
  """Returns |delta^(e)| and cos(delta^(e), delta^(1))."""
  delta, delta_1 = tree.sub(params, previous), tree.sub(first, base_params)
  norm = tree.norm(delta)
  return norm, _cosine(delta, delta_1)


def _cosine(a: Params, b: Params) -> Array:
  """Returns cos(a, b); 0 where one is zero, as after a step of warm-up."""
  lengths = tree.norm(a) * tree.norm(b)
  return jnp.where(lengths > 0, tree.vdot(a, b) / lengths, 0.0)
