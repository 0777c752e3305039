"""How disentanglement is measured, and the loss that brings it about."""

import itertools

import jax
import numpy as np
import pytest

from taskvec_jax.models import ffn
from taskvec_jax.studies import disentangled_features
from taskvec_jax.studies import sparse_predictors
from taskvec_jax.studies import sparse_regression


def test_mcc_is_the_best_of_all_matchings():
  rng = np.random.default_rng(0)
  truth, found = rng.normal(size=(2, 50, 4))
  found += truth @ rng.normal(size=(4, 4))
  matrix = np.abs(np.corrcoef(truth.T, found.T)[:4, 4:])
  best = max(
      matrix[np.arange(4), order].mean()
      for order in map(list, itertools.permutations(range(4)))
  )
  measured = disentangled_features.mean_correlation(truth, found)
  assert measured == pytest.approx(best, abs=1e-12)


def test_mcc_is_one_for_permutations_and_affine_r2_for_all_matrices():
  rng = np.random.default_rng(0)
  truth = rng.normal(size=(300, 4))
  moved = -3 * truth[:, [2, 0, 3, 1]] + 1
  mixed = truth @ rng.normal(size=(4, 4))
  measures = (
      disentangled_features.mean_correlation,
      disentangled_features.affine_r2,
  )
  for found, expected in ((moved, (True, True)), (mixed, (False, True))):
    values = tuple(measure(truth, found) > 1 - 1e-9 for measure in measures)
    assert values == expected
  # A feature that never changes has no correlation, and no warning.
  moved[:, 0] = 2.0
  assert disentangled_features.mean_correlation(truth, moved) < 0.85
  assert disentangled_features.affine_r2(truth, moved) < 0.9


def test_mcc_needs_the_same_examples():
  with pytest.raises(ValueError, match='3 examples and found 4'):
    disentangled_features.mean_correlation(np.ones((3, 2)), np.ones((4, 2)))


def test_the_world_is_as_its_docstring_says():
  world = disentangled_features.world(0, num_factors=4, correlation=0.6)
  z = disentangled_features.factors(world, jax.random.key(0), (40_000,))
  index = np.arange(4)
  np.testing.assert_allclose(
      np.cov(np.asarray(z).T), 0.6 ** np.abs(index[:, None] - index), atol=0.03
  )
  for rotation in world[:2]:
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-6)
  x = np.asarray(disentangled_features.observe(world, z))
  # Both rotations undone, what is left is one increasing function a coordinate.
  u, v = np.asarray(z) @ world.first.T, x @ world.second
  np.testing.assert_allclose(v, u + np.tanh(2 * u) / 2, atol=1e-4)


def test_tasks_are_sparse_and_their_noise_is_a_share_of_the_signal():
  world = disentangled_features.world(0, num_factors=4, correlation=0.0)
  draws = [
      disentangled_features.draw_tasks(
          world,
          jax.random.key(1),
          num_tasks=3,
          num_examples=4000,
          density=0.01,
          noise=noise,
      )[1]
      for noise in (0.0, 0.5)
  ]
  signal, noise = draws[0], draws[1] - draws[0]
  share = np.std(noise, axis=1) / np.std(signal, axis=1)
  np.testing.assert_allclose(share, 0.5, atol=0.03)


def test_the_outer_loss_is_least_for_the_factors_themselves_if_sparse():
  """Of all rotations of z the sparse outer loss prefers none at all."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(200, 25, 4))
  w = rng.normal(size=(200, 4)) * (rng.random((200, 4)) < 0.3)
  w[:, 0] = np.where(w.any(axis=1), w[:, 0], 1.0)
  y = np.einsum('tnm,tm->tn', z, w)
  y /= np.sqrt(np.square(y).mean(axis=1, keepdims=True))

  @jax.jit
  def losses(features):
    return [
        jax.vmap(
            lambda f, t, sparse=sparse: sparse_predictors.outer_loss(
                f, t, share=0.2, sparse=sparse
            )
        )(features, y).mean()
        for sparse in (True, False)
    ]

  plain, plain_dense = losses(z.astype(np.float32))
  for _ in range(5):
    q = sparse_regression.rotation(rng, 4).astype(np.float32)
    turned, turned_dense = losses(z.astype(np.float32) @ q)
    assert turned > 1.2 * plain
    assert turned_dense == pytest.approx(float(plain_dense), rel=1e-4)


def test_features_are_standard_and_training_lowers_the_loss():
  module = ffn.FFN(widths=(8,))
  world = disentangled_features.world(0, num_factors=3, correlation=0.0)
  init = jax.jit(
      disentangled_features.init,
      static_argnums=0,
      static_argnames='num_factors',
  )
  params = init(module, jax.random.key(0), num_factors=3)
  x = disentangled_features.observe(
      world, disentangled_features.factors(world, jax.random.key(1), (100,))
  )
  features = np.asarray(disentangled_features.features(module, params, x))
  np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(features.std(0), 1, atol=1e-3)

  def draw(key):
    return disentangled_features.draw_tasks(
        world, key, num_tasks=8, num_examples=12, density=0.3, noise=0.1
    )

  trained = disentangled_features.train(
      module,
      params,
      draw,
      jax.random.key(2),
      share=0.2,
      sparse=True,
      learning_rate=1e-2,
      num_steps=60,
  )
  losses = np.asarray(trained.losses)
  assert losses[-10:].mean() < 0.8 * losses[:10].mean()
