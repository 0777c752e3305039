"""Exactness of the full-batch gradient, on one to four devices."""

import math

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.models import vit
from taskvec_jax.tasks import batching

NUM_EXAMPLES = 500
SHARDS = [n for n in (1, 2, 4) if n <= full_batch.num_devices()]


def problem(module):
  """Returns a module, a head and 500 examples, in float64 NumPy."""
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(NUM_EXAMPLES, 14, 14, 1))
  labels = rng.integers(0, 5, NUM_EXAMPLES).astype(np.int32)
  params = encoders.init(module, jax.random.key(0), jnp.asarray(inputs[:1]))
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  head = heads.Head(rng.normal(size=(16, 5)), rng.normal(size=5))
  return module, params, head, inputs, labels


@pytest.fixture(scope='module')
def tiny():
  """The problem of a tiny ViT."""
  module = vit.ViT(
      patch_size=7,
      width=16,
      depth=1,
      num_heads=2,
      mlp_width=32,
      projection=None,
  )
  return problem(module)


@pytest.fixture(scope='module')
def network():
  """The problem of a network that compiles in a fifth of the time."""
  return problem(ffn.FFN(widths=(16,)))


def functions(problem, dtype, *, batch_size, num_shards):
  """Returns (params, value_and_grad_fn, grad_and_hvp_fn) of a problem."""
  module, params, head, inputs, labels = problem
  params, head = jax.tree.map(lambda x: x.astype(dtype), (params, head))
  batches = batching.make_batches(
      inputs.astype(dtype),
      labels,
      batch_size=batch_size,
      num_shards=num_shards,
  )
  loss_sum = jax.tree_util.Partial(losses.loss_sum_fn(module), head)
  return (
      params,
      full_batch.exact_value_and_grad(loss_sum, batches, NUM_EXAMPLES),
      full_batch.exact_gradient_and_hvp(loss_sum, batches, NUM_EXAMPLES),
  )


def flat(tree):
  return np.concatenate(
      [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  )


@pytest.fixture(scope='module')
def reference(tiny):
  """The float64 gradient by plain `jax.grad` of the mean over all examples."""
  module, params, head, inputs, labels = tiny
  with jax.enable_x64(True):

    def mean_loss(p):
      features = encoders.encode(module, p, jnp.asarray(inputs))
      log_p = jax.nn.log_softmax(features @ head.kernel + head.bias)
      return -jnp.mean(log_p[jnp.arange(NUM_EXAMPLES), labels])

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(params)
    return float(loss), flat(gradient)


def test_float32_gradients_do_not_depend_on_how_the_sum_was_cut(
    tiny, reference
):
  loss, expected = reference
  module, params, head, inputs, labels = tiny
  params, head = jax.tree.map(lambda x: x.astype(np.float32), (params, head))
  # Twelve programs: one leaf compiles in two thirds of the time of 21.
  vector, unravel = flatten_util.ravel_pytree(params)

  def loss_sum(head, vector, batch):
    return losses.loss_sum_fn(module)(head, unravel(vector), batch)

  found = []
  for num_shards in SHARDS:
    for batch_size in (1, 7, 64, NUM_EXAMPLES):
      batches = batching.make_batches(
          inputs.astype(np.float32),
          labels,
          batch_size=batch_size,
          num_shards=num_shards,
      )
      value, gradient = full_batch.exact_value_and_grad(
          jax.tree_util.Partial(loss_sum, head), batches, NUM_EXAMPLES
      )(vector)
      assert float(value) == pytest.approx(loss, rel=2e-7)
      found.append(flat(gradient))
  size = np.linalg.norm(expected)
  for gradient in found:
    assert np.linalg.norm(gradient - expected) < 2e-7 * size
  for i, a in enumerate(found):
    for b in found[:i]:
      assert np.linalg.norm(a - b) < 2e-7 * size


def test_a_streamed_pass_gives_the_bits_of_a_resident_one(network):
  num_shards = min(2, SHARDS[-1])
  params, value_and_grad_fn, grad_and_hvp_fn = functions(
      network, np.float32, batch_size=7, num_shards=num_shards
  )
  module, _, head, inputs, labels = network
  head = jax.tree.map(lambda x: x.astype(np.float32), head)
  pieces = batching.stream(
      inputs.astype(np.float32),
      labels,
      batch_size=7,
      num_shards=num_shards,
      max_bytes=7 * num_shards * inputs[0].size * 4 * 11,  # 11 batches
  )
  assert len(list(pieces())) > 1
  loss_sum = jax.tree_util.Partial(losses.loss_sum_fn(module), head)
  streamed = full_batch.exact_value_and_grad(loss_sum, pieces, NUM_EXAMPLES)
  curved = full_batch.exact_gradient_and_hvp(loss_sum, pieces, NUM_EXAMPLES)
  for resident, found in (
      (value_and_grad_fn(params), streamed(params)),
      (grad_and_hvp_fn(params, params), curved(params, params)),
  ):
    for a, b in zip(
        jax.tree.leaves(resident), jax.tree.leaves(found), strict=True
    ):
      np.testing.assert_array_equal(a, b)


def test_a_stream_without_batches_is_refused():
  with pytest.raises(ValueError, match='yielded none'):
    full_batch.exact_mean(lambda p, b: p, 1.0, lambda: iter(()), 3)


def test_float64_gradients_are_the_mean_over_all_examples(tiny, reference):
  with jax.enable_x64(True):
    params, value_and_grad_fn, _ = functions(
        tiny, np.float64, batch_size=64, num_shards=SHARDS[-1]
    )
    _, gradient = value_and_grad_fn(params)
  error = np.linalg.norm(flat(gradient) - reference[1])
  assert error < 1e-14 * np.linalg.norm(reference[1])


def test_repeated_gradients_are_bitwise_equal(tiny):
  params, value_and_grad_fn, _ = functions(
      tiny, np.float32, batch_size=64, num_shards=min(2, SHARDS[-1])
  )
  first, second = value_and_grad_fn(params), value_and_grad_fn(params)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)


def test_one_pass_gives_the_gradient_and_the_hessian_times_a_vector(tiny):
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    params, value_and_grad_fn, grad_and_hvp_fn = functions(
        tiny, np.float64, batch_size=64, num_shards=SHARDS[-1]
    )
    v = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    gradient, hvp = grad_and_hvp_fn(params, v)
    step = 1e-5
    up, down = (
        value_and_grad_fn(jax.tree.map(lambda p, d, s=s: p + s * d, params, v))
        for s in (step, -step)
    )
    _, same_gradient = value_and_grad_fn(params)
  expected = (flat(up[1]) - flat(down[1])) / (2 * step)
  assert np.linalg.norm(flat(hvp) - expected) < 1e-6 * np.linalg.norm(expected)
  error = np.linalg.norm(flat(gradient) - flat(same_gradient))
  assert error < 1e-14 * np.linalg.norm(flat(gradient))


def summands():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(10_000, 3)) * 10.0 ** rng.integers(
      -4, 5, (10_000, 1)
  )
  return values.astype(np.float32), np.array([1.1, 2.3, 1e-3], np.float32)


@pytest.mark.parametrize('num_shards', SHARDS)
def test_the_unrounded_pair_is_the_exact_sum_to_eps_squared(num_shards):
  values, factor = summands()
  # A product in front of the sum: an FMA would break an unguarded TwoSum.
  high, low = full_batch.exact_pair(
      lambda scale, batch: batch * scale,
      factor,
      values.reshape(num_shards, -1, 3),
  )
  for column in range(3):
    exact = math.fsum((values[:, column] * factor[column]).astype(np.float64))
    pair = float(high[column]) + float(low[column])
    assert abs(pair - exact) < 1e-8 * abs(exact)


def test_plain_accumulation_would_not_pass_that_test():
  values, factor = summands()
  exact = math.fsum((values[:, 0] * factor[0]).astype(np.float64))
  plain = np.cumsum(values[:, 0] * factor[0], dtype=np.float32)[-1]
  assert abs(plain - exact) > 1e-8 * abs(exact)


def test_padding_never_counts():
  inputs = np.arange(5, dtype=np.float32)[:, None]
  labels = np.zeros(5, np.int32)
  batches = batching.make_batches(
      inputs, labels, batch_size=3, num_shards=SHARDS[-1]
  )
  assert batches.mask.size > 5

  def loss_sum(params, batch):
    values = params['w'] * batch.inputs[:, 0] + 1
    return jnp.sum(jnp.where(batch.mask, values, 0))

  value, gradient = full_batch.exact_value_and_grad(loss_sum, batches, 5)(
      {'w': np.float32(2)}
  )
  assert float(value) == 5.0  # mean of 2 x + 1 over 0..4
  assert float(gradient['w']) == 2.0  # mean of x


def test_tasks_of_equal_shapes_share_one_compiled_program(network, caplog):
  module, params, head, inputs, labels = network
  params, head = jax.tree.map(lambda x: x.astype(np.float32), (params, head))
  batches = batching.make_batches(
      inputs[:12].astype(np.float32), labels[:12], batch_size=3
  )

  def gradient(scale):
    other = heads.Head(scale * head.kernel, head.bias)
    loss_sum = jax.tree_util.Partial(losses.loss_sum_fn(module), other)
    fn = full_batch.exact_value_and_grad(loss_sum, batches, 12)
    return flat(fn(params)[1])

  first = gradient(1.0)
  with jax.log_compiles(), caplog.at_level('WARNING'):
    second = gradient(2.0)
  assert not [r for r in caplog.records if 'compil' in r.message.lower()]
  assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ('batches', 'num_examples', 'said'),
    [
        (np.zeros((1, 1, 2)), 0, 'positive but is 0'),
        (
            np.zeros((5, 1, 2)),
            2,
            f'cut for 5 devices but this process has {SHARDS[-1]}',
        ),
        ((np.zeros((1, 1, 2)), np.zeros((2, 1, 2))), 2, r'\[1, 2\]'),
    ],
)
def test_wrong_batches_are_refused_before_any_work(batches, num_examples, said):
  for make in (
      full_batch.exact_value_and_grad,
      full_batch.exact_gradient_and_hvp,
  ):
    with pytest.raises(ValueError, match=said):
      make(lambda params, batch: jnp.sum(batch), batches, num_examples)


def test_the_gradient_of_a_linear_model_is_its_closed_form():
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    inputs, targets = rng.normal(size=(9, 4)), rng.normal(size=9)
    weights, v = rng.normal(size=4), rng.normal(size=4)
    batches = batching.make_batches(
        np.concatenate([inputs, targets[:, None]], 1),
        np.zeros(9, np.int32),
        batch_size=2,
        num_shards=min(2, SHARDS[-1]),
    )

    def loss_sum(params, batch):
      error = batch.inputs[:, :4] @ params - batch.inputs[:, 4]
      return 0.5 * jnp.sum(jnp.where(batch.mask, error**2, 0))

    gradient, hvp = full_batch.exact_gradient_and_hvp(loss_sum, batches, 9)(
        weights, v
    )
  expected = inputs.T @ (inputs @ weights - targets) / 9
  np.testing.assert_allclose(gradient, expected, rtol=1e-13)
  np.testing.assert_allclose(hvp, inputs.T @ (inputs @ v) / 9, rtol=1e-13)
