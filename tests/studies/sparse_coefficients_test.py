"""Sparse coefficients of task vectors: optimality, derivative, recovery."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.studies import sparse_coefficients
from taskvec_jax.task_vectors import arithmetic

_NUM_SOURCES = 5


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _logits(params, inputs):
  return jnp.tanh(inputs @ params['w']) @ params['v']


@functools.cache
def _target(num_examples=40):
  """Returns a base, task vectors and examples labelled by the second one."""
  rng = np.random.default_rng(0)
  base = {'w': rng.normal(size=(4, 6)) / 2, 'v': rng.normal(size=(6, 3))}
  vectors = [
      {'w': rng.normal(size=(4, 6)), 'v': rng.normal(size=(6, 3))}
      for _ in range(_NUM_SOURCES)
  ]
  inputs = rng.normal(size=(num_examples, 4))
  exact = jax.jit(sparse_coefficients.problem, static_argnums=0)(
      _logits, base, vectors, inputs, np.zeros(num_examples, int)
  )
  truth = 2 * (np.arange(_NUM_SOURCES) == 1)
  labels = np.argmax(exact.offsets + exact.columns @ truth, axis=1)
  return base, vectors, inputs, exact._replace(labels=labels)


def test_the_problem_is_the_linearised_model():
  base, vectors, inputs, problem = _target()
  a = np.array([0.3, -0.2, 0.5, 0.0, 1.0])
  eps = 1e-6
  total = sparse_coefficients.combined(vectors, a)
  sides = [
      _logits(arithmetic.edit(base, total, by), inputs) for by in (eps, -eps)
  ]
  np.testing.assert_allclose(
      problem.columns @ a, (sides[0] - sides[1]) / (2 * eps), atol=1e-7
  )
  np.testing.assert_allclose(problem.offsets, _logits(base, inputs))


def test_the_solution_is_optimal_and_zero_at_the_largest_penalty():
  *_, problem = _target()
  top = sparse_coefficients.largest_penalty(problem)
  slope = jax.jit(jax.grad(sparse_coefficients.loss, argnums=1))
  for share in (0.3, 0.03):
    a = sparse_coefficients.solve(
        problem, share * top, sparse=True, num_steps=3000
    )
    gradient, on = slope(problem, a), np.asarray(a) != 0
    assert 0 < on.sum() < _NUM_SOURCES or share < 0.1
    np.testing.assert_allclose(
        gradient[on], -share * top * np.sign(a[on]), atol=1e-9
    )
    assert np.all(np.abs(gradient[~on]) <= share * top)
    a = sparse_coefficients.solve(
        problem, share * top, sparse=False, num_steps=3000
    )
    np.testing.assert_allclose(
        slope(problem, a), -share * top * np.asarray(a), atol=1e-9
    )
  nothing = sparse_coefficients.solve(
      problem, 1.001 * top, sparse=True, num_steps=3000
  )
  assert not np.any(nothing)


@pytest.mark.parametrize('sparse', [True, False])
def test_the_derivative_in_the_penalty_is_that_of_finite_differences(sparse):
  *_, problem = _target()
  fitted = jax.tree.map(lambda leaf: leaf[:20], problem)
  held_out = jax.tree.map(lambda leaf: leaf[20:], problem)
  top = sparse_coefficients.largest_penalty(fitted)

  @jax.jit
  @jax.value_and_grad
  def value(log_share):
    a = sparse_coefficients.solve(
        fitted, top * jnp.exp(log_share), sparse=sparse, num_steps=3000
    )
    return sparse_coefficients.loss(held_out, a)

  at, eps = np.log(0.1), 1e-5
  (ahead, _), (behind, _), (_, found) = map(value, (at + eps, at - eps, at))
  expected = float(ahead - behind) / (2 * eps)
  assert abs(expected) > 1e-3
  assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_descent_lowers_the_held_out_loss_and_finds_the_source():
  *_, problem = _target(num_examples=60)
  fitted = jax.tree.map(lambda leaf: leaf[:30], problem)
  held_out = jax.tree.map(lambda leaf: leaf[30:], problem)
  chosen = jax.jit(
      lambda: sparse_coefficients.choose(
          fitted, held_out, sparse=True, share=0.5, num_steps=15
      )
  )()
  assert chosen.losses.min() < 0.8 * chosen.losses[0]
  assert chosen.share == chosen.shares[np.argmin(chosen.losses)]
  assert np.argmax(np.abs(chosen.coefficients)) == 1
  logits = held_out.offsets + held_out.columns @ chosen.coefficients
  assert np.mean(np.argmax(logits, axis=1) == held_out.labels) > 0.8
  assert chosen.shares.max() <= 1


def test_a_mixture_has_the_examples_of_both():
  *_, problem = _target()
  both = sparse_coefficients.joined(problem, problem)
  a = np.ones(_NUM_SOURCES)
  assert len(both.labels) == 2 * len(problem.labels)
  assert sparse_coefficients.loss(both, a) == pytest.approx(
      float(sparse_coefficients.loss(problem, a))
  )
