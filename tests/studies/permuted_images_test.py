"""Permuted images: what permuting keeps, and what sequences share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import ffn
from taskvec_jax.studies import permuted_images
from taskvec_jax.tasks import batching


def quadratic(target):
  def value_and_grad(params):
    return (
        ((params['x'] - target) ** 2).sum() / 2,
        {'x': params['x'] - target},
    )

  return value_and_grad


def test_pixels_are_reordered_alike_in_all_images_and_channels():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 3, 4, 2), dtype=np.uint8)
  orders = permuted_images.pixel_orders(rng, num_tasks=3, num_pixels=12)
  np.testing.assert_array_equal(
      permuted_images.permute(images, orders[0]), images
  )
  for order in orders[1:]:
    permuted = permuted_images.permute(images, order)
    assert permuted.shape == images.shape
    for row in range(3):
      for column in range(4):
        source = divmod(order[4 * row + column], 4)
        np.testing.assert_array_equal(
            permuted[:, row, column], images[:, source[0], source[1]]
        )


def test_a_first_layer_permuted_with_the_images_sees_no_difference():
  rng = np.random.default_rng(1)
  module = ffn.FFN(widths=(6, 5))
  params = permuted_images.init(rng, (12, 6, 5), num_classes=4)
  images = rng.integers(0, 256, (7, 3, 4, 1), dtype=np.uint8)
  labels = rng.integers(0, 4, 7).astype(np.int32)
  order = permuted_images.pixel_orders(rng, num_tasks=2, num_pixels=12)[1]

  def sums(params, images):
    batch = batching.make_batches(images, labels, batch_size=8)
    batch = jax.tree.map(lambda leaf: leaf[0, 0], batch)
    return (
        permuted_images.loss_sum_fn(module)(params, batch),
        permuted_images.correct_sum_fn(module)(params, batch),
    )

  kernel = params['encoder']['layer_0']['kernel']
  turned = {**params['encoder']}
  turned['layer_0'] = {**turned['layer_0'], 'kernel': kernel[order]}
  natural = sums(params, images)
  permuted = sums(
      {**params, 'encoder': turned}, permuted_images.permute(images, order)
  )
  np.testing.assert_allclose(permuted, natural, rtol=1e-5)
  assert (
      abs(sums(params, permuted_images.permute(images, order))[0] - natural[0])
      > 1e-3
  )


def test_weights_start_uniform_up_to_one_over_the_root_of_their_inputs():
  params = permuted_images.init(
      np.random.default_rng(2), (100, 50, 25), num_classes=400
  )
  sizes = {'layer_0': 100, 'layer_1': 50}
  for layer, num_inputs in [
      *((params['encoder'][name], size) for name, size in sizes.items()),
      (params['head'], 25),
  ]:
    limit = 1 / np.sqrt(num_inputs)
    for leaf in jax.tree.leaves(layer):
      assert leaf.dtype == jnp.float32
      assert 0.8 * limit < np.abs(leaf).max() <= limit * (1 + 1e-6)
    assert layer['kernel'].std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_a_sequence_starts_every_task_where_the_last_one_ended():
  targets = [np.array([1.0]), np.array([-3.0])]
  first, second = permuted_images.sequence(
      {'x': np.zeros(1)},
      [quadratic(target) for target in targets],
      learning_rate=0.5,
      num_epochs=2,
  )
  # Two steps of 1/2 leave a quarter of the way.
  np.testing.assert_allclose(first['x'], 0.75)
  np.testing.assert_allclose(second['x'], -3 + 3.75 / 4)


def test_forgetting_is_the_mean_fall_and_leaves_the_last_task_out():
  found = permuted_images.forgetting([0.9, 0.8, 0.7], [0.4, 0.7, 0.7])
  assert found == pytest.approx((0.5 + 0.1) / 2)
  with pytest.raises(ValueError, match='two tasks or more, but own has 1'):
    permuted_images.forgetting([0.9], [0.4])
  with pytest.raises(ValueError, match='own has 2 accuracies and final 3'):
    permuted_images.forgetting([0.9, 0.8], [0.4, 0.5, 0.6])
