"""A small multitask problem that the tests of the theory share.

Three tasks of tanh networks with their own frozen heads, by plain JAX: no
data set, no device, no module of the package, so that what is tested is
compared with something written independently of it.
"""

import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np

SCALING = {'a': 0.5, 'b': 0.3, 'c': 0.4}
NUM_EXAMPLES = 24


def base_params(seed=0, sizes=(6, 7, 5)):
  rng = np.random.default_rng(seed)
  return {
      f'layer_{i}': {
          'kernel': jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m)),
          'bias': jnp.asarray(0.1 * rng.normal(size=n)),
      }
      for i, (m, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
  }


def examples(task, num_examples=NUM_EXAMPLES, num_features=5):
  """Returns (inputs, labels, head kernel) of task 'a', 'b' or 'c'."""
  rng = np.random.default_rng([ord(task), num_examples])
  inputs = jnp.asarray(rng.normal(size=(num_examples, 6)))
  labels = jnp.asarray(rng.integers(0, 4, num_examples), jnp.int32)
  head = jnp.asarray(1.5 * rng.normal(size=(num_features, 4)))
  return inputs, labels, head


def losses_of(task, params, indices=None):
  """Returns the loss of each example `[N]`."""
  return _losses(params, *_chosen(task, indices))


def mean_loss(task):
  return lambda params: jnp.mean(losses_of(task, params))


def _chosen(task, indices):
  inputs, labels, head = examples(task)
  if indices is not None:
    inputs, labels = inputs[indices], labels[indices]
  return inputs, labels, head


def _losses(params, inputs, labels, head):
  hidden = inputs
  for name in sorted(params):
    layer = params[name]
    hidden = jnp.tanh(hidden @ layer['kernel'] + layer['bias'])
  log_p = jax.nn.log_softmax(hidden @ head)
  return -jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]


def _mean_loss(params, *data):
  return jnp.mean(_losses(params, *data))


# The examples are arguments: tasks, and calls, share one compiled program.
_value_and_grad = jax.jit(jax.value_and_grad(_mean_loss))


@jax.jit
def _grad_and_hvp(params, v, *data):
  return jax.jvp(lambda p: jax.grad(_mean_loss)(p, *data), (params,), (v,))


@jax.jit
def _grad_and_hessian(flat, *data):
  _, unravel = flatten_util.ravel_pytree(base_params())

  def loss(flat):
    return _mean_loss(unravel(flat), *data)

  return jax.grad(loss)(flat), jax.hessian(loss)(flat)


def _fns(compiled, indices=None):
  def fn_of(task):
    data = _chosen(task, indices)
    return lambda *params: compiled(*params, *data)

  return {task: fn_of(task) for task in SCALING}


def value_and_grad_fns(indices=None):
  return _fns(_value_and_grad, indices)


def grad_and_hvp_fns(indices=None):
  return _fns(_grad_and_hvp, indices)


def grad_and_hessian_fns():
  """Returns task name -> flat parameters `[d]` -> (gradient, Hessian)."""
  return _fns(_grad_and_hessian)


def descend(params, value_and_grad_fns_by_step, learning_rate):
  """Returns the end of gradient descent, one function a step."""
  for fn in value_and_grad_fns_by_step:
    _, gradient = fn(params)
    params = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
  return params


def norm(tree):
  return float(
      np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))
  )


def sub(a, b):
  return jax.tree.map(lambda x, y: x - y, a, b)


def slopes(values):
  """Returns log2 slopes between entries at learning rates that halve."""
  return np.log2(np.asarray(values[:-1]) / np.asarray(values[1:]))
