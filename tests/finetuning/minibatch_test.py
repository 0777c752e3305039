import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taskvec_jax.finetuning import minibatch
from tests import problems


@jax.jit
def batch_fn(params, indices):
  return jax.value_and_grad(
      lambda p: jnp.mean(problems.losses_of('a', p, indices))
  )(params)


def run(optimizer, *, batch_size=5, num_epochs=3, seed=0, state=None, **kwargs):
  return list(
      minibatch.epochs(
          problems.base_params(),
          batch_fn,
          optimizer,
          num_examples=problems.NUM_EXAMPLES,
          batch_size=batch_size,
          num_epochs=num_epochs,
          seed=seed,
          state=state,
          **kwargs,
      )
  )


def test_the_order_that_comes_back_is_the_order_that_was_trained_on(x64):
  done = run(optax.sgd(0.2))
  params = problems.base_params()
  for _, info in done:
    for indices in info.order:
      _, gradient = batch_fn(params, indices)
      params = jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient)
  last = done[-1][0].params
  assert problems.norm(problems.sub(last, params)) < 1e-14


def test_one_batch_of_all_examples_is_a_step_of_full_batch_descent(x64):
  (state, _), *_ = run(optax.sgd(0.1), batch_size=24, num_epochs=1)
  _, gradient = problems.value_and_grad_fns()['a'](problems.base_params())
  step = problems.sub(state.params, problems.base_params())
  expected = jax.tree.map(lambda g: -0.1 * g, gradient)
  assert problems.norm(problems.sub(step, expected)) < 1e-15


def test_an_epoch_sees_no_example_twice_and_epochs_differ():
  orders = [
      minibatch.batch_order(3, epoch, num_examples=24, batch_size=5)
      for epoch in (1, 2)
  ]
  for order in orders:
    assert order.shape == (4, 5)
    assert len(set(order.ravel().tolist())) == 20
  assert not np.array_equal(*orders)


def test_an_epoch_in_pieces_is_the_epoch_at_once():
  def pieces(order):
    yield from (order[:3], order[3:])

  whole = run(optax.adam(0.1))
  cut = run(optax.adam(0.1), batches_fn=pieces)
  np.testing.assert_array_equal(whole[-1][1].losses, cut[-1][1].losses)
  for a, b in zip(
      jax.tree.leaves(whole[-1][0]), jax.tree.leaves(cut[-1][0]), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('name', ['sgd', 'momentum', 'adam', 'adamw'])
def test_going_on_from_a_state_repeats_the_run_bit_by_bit(name):
  rule = minibatch.optimizer(
      name,
      learning_rate=0.01,
      num_steps=12,
      warmup_steps=2,
      cosine=True,
      clip_norm=1.0,
  )
  whole = run(rule)
  rest = run(rule, state=whole[0][0])
  assert len(rest) == 2
  for ours, theirs in zip(
      jax.tree.leaves(rest[-1][0]), jax.tree.leaves(whole[-1][0]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_the_seed_changes_the_order_and_nothing_else_does():
  rule = optax.sgd(0.1)  # one, since each is compiled
  first, again, other = (run(rule, seed=seed)[0][1].order for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_warm_up_starts_at_zero_and_the_cosine_ends_at_zero():
  rule = minibatch.optimizer(
      'sgd', learning_rate=1.0, num_steps=10, warmup_steps=4, cosine=True
  )
  params, steps = {'x': jnp.zeros(())}, []
  state = rule.init(params)
  for _ in range(11):
    update, state = rule.update({'x': jnp.ones(())}, state, params)
    steps.append(-float(update['x']))
  np.testing.assert_allclose(steps[:5], [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
  assert steps[10] == pytest.approx(0, abs=1e-6)


def test_clipping_bounds_the_step_and_weight_decay_shrinks():
  params = {'x': jnp.full((4,), 10.0)}
  rule = minibatch.optimizer(
      'sgd', learning_rate=1.0, num_steps=1, clip_norm=0.5
  )
  update, _ = rule.update(params, rule.init(params), params)
  assert problems.norm(update) == pytest.approx(0.5, rel=1e-6)
  decay = minibatch.optimizer(
      'adamw', learning_rate=0.1, num_steps=1, weight_decay=0.3
  )
  zero = {'x': jnp.zeros(4)}
  update, _ = decay.update(zero, decay.init(params), params)
  np.testing.assert_allclose(update['x'], -0.1 * 0.3 * 10.0, rtol=1e-6)


@pytest.mark.parametrize(
    ('call', 'said'),
    [
        (lambda: run(optax.sgd(0.1), batch_size=25), '24 examples but is 25'),
        (lambda: run(optax.sgd(0.1), num_epochs=0), 'is 0'),
        (
            lambda: minibatch.optimizer('lion', learning_rate=1, num_steps=1),
            "'lion'; known: sgd",
        ),
        (
            lambda: minibatch.optimizer(
                'sgd', learning_rate=1, num_steps=1, weight_decay=0.1
            ),
            "0.1 needs the optimizer adamw, not 'sgd'",
        ),
    ],
)
def test_wrong_numbers_get_one_sentence(call, said):
  with pytest.raises(ValueError, match=said):
    call()


@pytest.mark.parametrize('asked', [{}, {'matmul_precision': 'bfloat16'}])
def test_products_are_of_full_precision_unless_less_is_asked(asked):
  seen = set()

  def fn(params, indices):
    seen.add(jax.config.jax_default_matmul_precision)
    return batch_fn(params, indices)

  list(
      minibatch.epochs(
          problems.base_params(),
          fn,
          optax.sgd(0.1),
          num_examples=problems.NUM_EXAMPLES,
          batch_size=5,
          num_epochs=1,
          seed=0,
          **asked,
      )
  )
  assert seen == {asked.get('matmul_precision', 'highest')}


def test_a_diverging_run_names_its_epoch():
  def square(params, indices):
    del indices
    return jax.value_and_grad(lambda p: p['x'] ** 2)(params)

  # x is multiplied by -1999 a step, 1999^2 = 10^6.6 an epoch of two steps: its
  # square passes float32's 10^38.5 before the seventh step.
  done = []
  with pytest.raises(FloatingPointError, match='inf in epoch 4'):
    for _, info in minibatch.epochs(
        {'x': jnp.ones(())},
        square,
        optax.sgd(1e3),
        num_examples=4,
        batch_size=2,
        num_epochs=9,
        seed=0,
    ):
      done.append(info.epoch)
  assert done == [1, 2, 3]
