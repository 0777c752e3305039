import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
from optax import tree
import pytest

from taskvec_jax.second_order import lanczos


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def network():
  """Returns (loss, params) of a 4-5-3 tanh network on eight examples."""
  rng = np.random.default_rng(0)
  params = {
      'layer_0': {
          'kernel': rng.normal(size=(4, 5)),
          'bias': rng.normal(size=5),
      },
      'layer_1': {'kernel': rng.normal(size=(5, 3))},
  }
  params = jax.tree.map(jnp.asarray, params)
  inputs, labels = rng.normal(size=(8, 4)), rng.integers(0, 3, size=8)

  def loss(params):
    hidden = jnp.tanh(
        inputs @ params['layer_0']['kernel'] + params['layer_0']['bias']
    )
    logits = jax.nn.log_softmax(hidden @ params['layer_1']['kernel'])
    return -jnp.mean(logits[np.arange(8), labels])

  return loss, params


def dense_hessian(loss, params):
  flat, unravel = flatten_util.ravel_pytree(params)
  return np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat))


def hvp_of(loss, params):
  return jax.jit(lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1])


def matrix_hvp(matrix):
  return lambda v: {'x': jnp.asarray(matrix) @ v['x']}


def test_extreme_eigenvalues_are_those_of_a_dense_hessian_to_1e_6():
  loss, params = network()
  exact = np.linalg.eigvalsh(dense_hessian(loss, params))
  lowest, highest = lanczos.extreme_eigenvalues(
      jax.random.key(0), hvp_of(loss, params), params, num_iterations=30
  )
  assert exact[0] < 0  # the lowest is not the trivial one
  assert lowest == pytest.approx(exact[0], rel=1e-6)
  assert highest == pytest.approx(exact[-1], rel=1e-6)


def test_more_iterations_than_parameters_give_the_whole_spectrum():
  matrix = np.diag([3.0, -1.0, 2.0, 0.5])
  alphas, betas = lanczos.tridiagonal(
      jax.random.key(1),
      matrix_hvp(matrix),
      {'x': jnp.zeros(4)},
      num_iterations=50,
  )
  dense = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
  np.testing.assert_allclose(
      np.linalg.eigvalsh(dense), [-1.0, 0.5, 2.0, 3.0], rtol=1e-12
  )
  assert betas[-1] == 0  # nothing is left to couple to


def test_full_reorthogonalisation_keeps_one_copy_of_an_outlier_in_float32():
  # Without it, an eigenvalue far out returns as a ghost, and the count is off.
  eigenvalues = np.concatenate([np.linspace(-1, 1, 59), [1e4]])
  rng = np.random.default_rng(2)
  basis, _ = np.linalg.qr(rng.normal(size=(60, 60)))
  matrix = (basis * eigenvalues) @ basis.T
  with jax.enable_x64(False):
    alphas, betas = lanczos.tridiagonal(
        jax.random.key(2),
        matrix_hvp(matrix.astype(np.float32)),
        {'x': jnp.zeros(60, jnp.float32)},
        num_iterations=40,
    )
  dense = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
  found = np.linalg.eigvalsh(dense)
  assert found[-1] == pytest.approx(1e4, rel=1e-6)
  assert found[-2] < 1.01


def test_an_invariant_start_does_not_hide_the_rest_of_the_spectrum():
  matrix = np.diag([1.0, 1.0, 5.0, -7.0])
  start = {'x': jnp.array([0.0, 2.0, 0.0, 0.0])}  # an eigenvector
  lowest, highest = lanczos.extreme_eigenvalues(
      jax.random.key(3),
      matrix_hvp(matrix),
      start,
      num_iterations=4,
      start=start,
  )
  assert (lowest, highest) == (pytest.approx(-7.0), pytest.approx(5.0))


def test_a_hessian_of_zeros_has_eigenvalues_of_zero():
  assert lanczos.extreme_eigenvalues(
      jax.random.key(4),
      lambda v: tree.zeros_like(v),
      {'x': jnp.zeros(5)},
      num_iterations=3,
  ) == (0.0, 0.0)


def test_two_steps_from_a_drift_never_fall_below_what_the_drift_feels():
  # This is what keeps R3 above R3t.
  rng = np.random.default_rng(5)
  eigenvalues = np.concatenate([[50.0], rng.uniform(-1, 1, size=29)])
  basis, _ = np.linalg.qr(rng.normal(size=(30, 30)))
  matrix = (basis * eigenvalues) @ basis.T
  for _ in range(20):
    drift = rng.normal(size=30) + 3 * basis[:, 0]
    lowest, highest = lanczos.extreme_eigenvalues(
        jax.random.key(5),
        matrix_hvp(matrix),
        {'x': jnp.zeros(30)},
        num_iterations=2,
        start={'x': jnp.asarray(drift)},
    )
    felt = np.linalg.norm(matrix @ drift) / np.linalg.norm(drift)
    assert felt <= max(-lowest, highest) * (1 + 1e-12) <= 50.0 * (1 + 1e-10)


def test_a_start_of_zeros_is_as_good_as_none_and_the_length_does_not_matter():
  matrix = np.diag([2.0, -3.0, 1.0])
  zeros = {'x': jnp.zeros(3)}

  def run(start):
    return lanczos.extreme_eigenvalues(
        jax.random.key(6),
        matrix_hvp(matrix),
        zeros,
        num_iterations=2,
        start=start,
    )

  assert run(zeros) == run(None)
  tiny = {'x': jnp.array([1e-200, 2e-200, 3e-200])}
  assert run(tiny) == pytest.approx(run(tree.scale(1e200, tiny)), rel=1e-12)


def test_a_certificate_from_the_frobenius_norm_is_never_below_lambda_max():
  loss, params = network()
  hessian = dense_hessian(loss, params)
  exact = np.linalg.eigvalsh(hessian)
  frobenius_norm = float(np.linalg.norm(hessian))
  previous = frobenius_norm
  for num_iterations in (1, 2, 5, 10, 20, len(hessian)):
    alphas, betas = lanczos.tridiagonal(
        jax.random.key(7),
        hvp_of(loss, params),
        params,
        num_iterations=num_iterations,
    )
    upper = lanczos.certified_largest(alphas, betas, frobenius_norm)
    below = -lanczos.certified_largest(-alphas, betas, frobenius_norm)
    assert exact[-1] <= upper * (1 + 1e-12)
    assert exact[0] >= below * (1 + 1e-12)
    # The same start: every further step knows more.
    assert upper <= previous * (1 + 1e-12)
    previous = upper
  assert previous == pytest.approx(exact[-1], rel=1e-6)


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'num_iterations': 0}, 'at least 1, but is 0'),
        ({'start': {'y': np.zeros(3)}}, 'tree like the parameters'),
        ({'start': {'x': np.zeros(4)}}, 'shapes of the parameters'),
    ],
)
def test_a_wrong_call_gets_one_sentence(change, sentence):
  arguments = {'num_iterations': 2, 'start': None} | change
  with pytest.raises(ValueError, match=sentence):
    lanczos.extreme_eigenvalues(
        jax.random.key(0),
        matrix_hvp(np.eye(3)),
        {'x': jnp.zeros(3)},
        **arguments,
    )


def test_a_product_that_is_not_finite_is_an_error_that_names_the_step():
  with pytest.raises(FloatingPointError, match='Lanczos step 1'):
    lanczos.extreme_eigenvalues(
        jax.random.key(0),
        lambda v: tree.scale(np.nan, v),
        {'x': jnp.zeros(3)},
        num_iterations=2,
    )


@pytest.mark.parametrize(
    'alphas, betas, norm, sentence',
    [
        ([1.0, 2.0], [1.0], 9.0, 'one length'),
        ([3.0, 4.0], [0.0, 0.0], 4.9, 'Frobenius norm 4.9 is below 5'),
    ],
)
def test_a_certificate_refuses_what_cannot_be(alphas, betas, norm, sentence):
  with pytest.raises(ValueError, match=sentence):
    lanczos.certified_largest(alphas, betas, norm)
