"""How a finetuning run ends, and what of it is kept."""

import json

import numpy as np
import pytest

from taskvec_jax.experiments import epochs
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import workdir as workdir_lib

_BASE = {'x': np.zeros(2, np.float32)}


def run(folder, places, losses, *, patience=0):
  """Runs over given parameters and validation losses, one an epoch."""

  def steps(state, num_done):
    del state
    for place in places[num_done:]:
      params = {'x': np.asarray(place, np.float32)}
      yield regimes.Step({'params': params}, params, 1.0)

  folder.mkdir(exist_ok=True)
  losses = iter(losses)
  return epochs.run_to_convergence(
      _BASE,
      steps,
      lambda params: next(losses),
      lambda: {'x': np.array([-1.0, 0.0], np.float32)},
      epochs.Plan(
          seed=0,
          regime='exact',
          task='digits',
          max_epochs=len(places),
          patience=patience,
          merge_epochs=(1,),
          checkpoint_seconds=1e6,
      ),
      folder,
      workdir_lib.Metrics(folder),
  )


def test_the_best_model_counts_and_without_patience_the_last(tmp_path):
  places, losses = [(1, 0), (2, 0), (3, 0), (4, 0)], [3.0, 1.0, 2.0, 2.5]
  patient = run(tmp_path / 'a', places, losses, patience=2)
  np.testing.assert_array_equal(patient.converged['x'], [2, 0])
  assert patient.finetuning.converged_epoch == 2
  assert not patient.finetuning.hit_cap
  capped = run(tmp_path / 'b', places[:3], losses, patience=2)
  assert capped.finetuning.converged_epoch == 2
  assert capped.finetuning.hit_cap
  stated = run(tmp_path / 'c', places, losses)
  np.testing.assert_array_equal(stated.converged['x'], [4, 0])
  assert stated.finetuning.converged_epoch == 4
  assert not stated.finetuning.hit_cap


def test_a_first_epoch_that_moves_nothing_has_cosines_of_zero(tmp_path):
  found = run(tmp_path, [(0, 0), (1, 0), (2, 1)], [1.0, 1.0, 1.0]).finetuning
  assert found.cos_update_first == [0, 0, 0]
  assert found.cos_tau_first == [0, 0]
  np.testing.assert_allclose(found.cos_tau_last, [0, 1], rtol=1e-6)
  assert found.cos_gradient == 0
  json.dumps(found.__dict__, allow_nan=False)


def test_a_validation_loss_that_is_no_number_names_task_and_epoch(tmp_path):
  with pytest.raises(
      FloatingPointError, match='Task digits.*loss became nan in epoch 2'
  ):
    run(tmp_path, [(1, 0), (2, 0), (3, 0)], [1.0, np.nan, 1.0])
