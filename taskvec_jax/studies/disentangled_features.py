"""Learning features from many sparse tasks, and how disentangled they are.

The world: z `[m]`, Gaussian with covariance rho^|i-j|, is not seen; seen is

  x = B (u + tanh(2 u) / 2),   u = A z,

with A and B random rotations, so that z is an invertible function of x and no
linear one. A task has a support, each entry of z in it with probability p and
one at least, coefficients w* ~ N(0, 1) on it, and n examples

  y = w*'z + s |w*'z| noise,   with |.| the root mean square of the signal.

The features F(x) `[m]` are learned from tasks alone, by the outer problem of
`sparse_predictors`: a network with a linear last layer, each feature brought to
mean 0 and variance 1 over all examples of a step. That scaling is ours.

Both predictors can learn z up to an invertible matrix, for every such matrix
gives a dense predictor the same loss; for rho = 0 the world itself has no axes.
Only a sparse predictor pays for a matrix that is no permutation with signs.

What is measured: MCC, the mean |correlation| of matched pairs (z_i, F_j), the
matching being the best one (`mean_correlation`), 1 for a permutation; and the
R^2 of z as an AFFINE function of the features (`affine_r2`), 1 for any
invertible matrix. Disentangled is where both are high.

The paper learns from pictures of 3D shapes; this world is ours, and so are its
sizes. A training step costs one pass over its examples, and each task's m x m
problem.

Source: Lachapelle et al., arXiv:2211.14666.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize

from taskvec_jax.models import encoders
from taskvec_jax.studies import sparse_predictors
from taskvec_jax.studies import sparse_regression
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class World(NamedTuple):
  """How z is drawn and seen."""

  first: Array  # A, [m, m], a rotation
  second: Array  # B, [m, m], a rotation
  factor: Array  # [m, m], its product with its transpose is z's covariance


class Trained(NamedTuple):
  """What training gave."""

  params: Params
  losses: Array  # [num_steps], mean over the tasks of a step


def world(seed: int, *, num_factors: int, correlation: float) -> World:
  """Returns a world of m = `num_factors` with rho = `correlation`."""
  rng = np.random.default_rng(seed)
  index = np.arange(num_factors)
  covariance = correlation ** np.abs(index[:, None] - index)
  return World(
      *(
          np.asarray(matrix, np.float32)
          for matrix in (
              sparse_regression.rotation(rng, num_factors),
              sparse_regression.rotation(rng, num_factors),
              np.linalg.cholesky(covariance),
          )
      )
  )


def factors(world: World, key: Array, shape: tuple[int, ...]) -> Array:
  """Returns z of that shape, `[*shape, m]`."""
  normal = jax.random.normal(key, (*shape, world.factor.shape[0]))
  return normal @ world.factor.T


def observe(world: World, z: Array) -> Array:
  """Returns x `[..., m]` of z `[..., m]`."""
  u = z @ world.first.T
  return (u + jnp.tanh(2 * u) / 2) @ world.second.T


def draw_tasks(
    world: World,
    key: Array,
    *,
    num_tasks: int,
    num_examples: int,
    density: float,
    noise: float,
) -> tuple[Array, Array]:
  """Returns x `[T, n, m]` and y `[T, n]` of new tasks.

  Args:
    world: of all of them.
    key: of `jax.random`.
    num_tasks: T.
    num_examples: n of each.
    density: p, of an entry of z to be in a task's support.
    noise: s, a share of the signal.
  """
  uniform_key, normal_key = jax.random.split(key)
  num_factors = world.factor.shape[0]
  # Two draws for all that is random: each is a long program to compile.
  uniform = jax.random.uniform(uniform_key, (num_tasks, num_factors + 1))
  normal = jax.random.normal(
      normal_key, (num_tasks, num_examples + 1, num_factors + 1)
  )
  sure = jnp.floor(uniform[:, -1:] * num_factors)
  support = (uniform[:, :-1] < density) | (jnp.arange(num_factors) == sure)
  w = normal[:, -1, :-1] * support
  z = normal[:, :-1, :-1] @ world.factor.T
  signal = jnp.einsum('tnm,tm->tn', z, w)
  size = jnp.sqrt(jnp.mean(jnp.square(signal), axis=1, keepdims=True))
  return observe(world, z), signal + noise * size * normal[:, :-1, -1]


def init(module: Any, key: Array, *, num_factors: int) -> Params:
  """Returns parameters of the features: an encoder and a linear layer."""
  encoder_key, last_key = jax.random.split(key)
  inputs = jnp.zeros((1, num_factors))
  encoder = encoders.init(module, encoder_key, inputs)
  width = encoders.encode(module, encoder, inputs).shape[1]
  kernel = jax.random.normal(last_key, (width, num_factors)) / np.sqrt(width)
  return {'encoder': encoder, 'last': kernel}


def features(module: Any, params: Params, inputs: Array) -> Array:
  """Returns F `[N, m]` of x `[N, m]`, mean 0 and variance 1 over the N."""
  hidden = encoders.encode(module, params['encoder'], inputs) @ params['last']
  hidden = hidden - jnp.mean(hidden, axis=0)
  return hidden / jnp.sqrt(jnp.mean(jnp.square(hidden), axis=0) + 1e-12)


def mean_outer_loss(
    module: Any,
    params: Params,
    inputs: Array,
    targets: Array,
    *,
    share: float,
    sparse: bool,
) -> Array:
  """Returns the outer loss, mean over tasks of x `[T, n, m]`, y `[T, n]`."""
  num_tasks, num_examples, _ = inputs.shape
  found = features(module, params, inputs.reshape(-1, inputs.shape[-1]))
  found = found.reshape(num_tasks, num_examples, -1)
  task_loss = functools.partial(
      sparse_predictors.outer_loss, share=share, sparse=sparse
  )
  # Tasks in units of their own size, or the loudest would decide.
  targets = targets / jnp.sqrt(
      jnp.mean(jnp.square(targets), axis=1, keepdims=True)
  )
  return jnp.mean(jax.vmap(task_loss)(found, targets))


def train(
    module: Any,
    params: Params,
    draw_fn: Callable[[Array], tuple[Array, Array]],
    key: Array,
    *,
    share: float,
    sparse: bool,
    learning_rate: float,
    num_steps: int,
) -> Trained:
  """Returns the features after Adam on new tasks each step; traceable.

  Args:
    module: the encoder.
    params: of `init`.
    draw_fn: key -> (x, y), the tasks of a step.
    key: of `jax.random`.
    share: of the penalty, see `sparse_predictors.outer_loss`.
    sparse: lasso, else ridge.
    learning_rate: Adam's at the start; it falls to 0 as a cosine.
    num_steps: of Adam.
  """
  rule = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

  def step(carry, key):
    params, state = carry
    inputs, targets = draw_fn(key)
    loss, gradient = jax.value_and_grad(
        lambda p: mean_outer_loss(
            module, p, inputs, targets, share=share, sparse=sparse
        )
    )(params)
    updates, state = rule.update(gradient, state)
    return (optax.apply_updates(params, updates), state), loss

  (params, _), losses = lax.scan(
      step, (params, rule.init(params)), jax.random.split(key, num_steps)
  )
  return Trained(params, losses)


def mean_correlation(truth: np.ndarray, found: np.ndarray) -> float:
  """Returns MCC: mean |correlation| of the best one-to-one matching, 0 to 1.

  Args:
    truth: z, `[N, m]`.
    found: features, `[N, k]`; the mean is over min(m, k) pairs.

  Raises:
    ValueError: the numbers of examples differ.
  """
  truth, found = np.asarray(truth, float), np.asarray(found, float)
  if len(truth) != len(found) or len(truth) < 2:
    raise ValueError(
        f'truth has {len(truth)} examples and found {len(found)}; correlations'
        ' need the same two or more.'
    )
  matrix = np.abs(_standard(truth).T @ _standard(found)) / len(truth)
  rows, columns = optimize.linear_sum_assignment(matrix, maximize=True)
  return float(matrix[rows, columns].mean())


def affine_r2(truth: np.ndarray, found: np.ndarray) -> float:
  """Returns the mean R^2 of the columns of z as affine in the features.

  Least squares on the same examples: give it many more than features.
  """
  truth, found = np.asarray(truth, float), np.asarray(found, float)
  design = np.column_stack([found, np.ones(len(found))])
  rest = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
  return float(np.mean(1 - rest.var(axis=0) / truth.var(axis=0)))


def _standard(values: np.ndarray) -> np.ndarray:
  """Returns columns of mean 0 and variance 1; a constant one becomes 0."""
  values = values - values.mean(axis=0)
  size = values.std(axis=0)
  return values / np.where(size > 0, size, 1)
