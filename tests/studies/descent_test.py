"""The end of descent, and the sentence in its place where it diverges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.studies import descent


def parabola(params):
  return jnp.sum(params**2) / 2, params


def saturated(params):
  # Bounded slope: nothing overflows, the loss just grows.
  return jnp.sum(jnp.abs(params)), jnp.sign(params)


@pytest.fixture(name='start')
def _start():
  return jnp.array([1.0, -2.0])


def test_descent_ends_where_its_last_step_leads(start):
  found = descent.end(
      start, parabola, learning_rate=0.5, num_epochs=3, what='it'
  )
  np.testing.assert_allclose(found, start / 8)


@pytest.mark.parametrize(
    ('fn', 'rate', 'said'),
    [
        (
            parabola,
            1e30,
            'task 3: the length of the parameters .*inf.* epoch 1',
        ),
        (saturated, 1e10, r'task 3: .* grew from 3 to .* in epoch 2'),
        (lambda x: (jnp.nan, x), 0.1, 'task 3: the loss became nan in epoch 1'),
    ],
)
def test_divergence_is_said_with_what_was_trained_and_the_epoch(
    start, fn, rate, said
):
  with pytest.raises(FloatingPointError, match=said):
    descent.end(
        start, jax.jit(fn), learning_rate=rate, num_epochs=2, what='task 3'
    )
