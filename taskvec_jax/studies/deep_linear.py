"""Networks of L linear layers, many at once, from balanced starts.

A network is the project's own `ffn.FFN` with the identity as activation, widths
`(h, ..., h, 1)` and no biases: `f(x) = x W_1 W_2 ... W_L = x . beta`. It is
balanced if `W_j' W_j = W_{j+1} W_{j+1}'`. With one output that forces rank one:

  W_1 = s b u_1',   W_j = s u_{j-1} u_j',   W_L = s u_{L-1},   beta = s^L b,

with `b [d]` and all `u_j [h]` of length 1 and `s = |beta|^{1/L}`.

P independent problems are trained as one: parameters, inputs and targets carry
a leading axis P, the loss is a sum over problems, so each one's gradient is its
own. Problem p's loss has a weight of its own,

  L = sum_p weight_p |X_p beta_p - y_p|^2 / (2 n),

which is to the flow a unit of time and to descent a step size: problems of
different scales then take about as many steps. Limits do not depend on it,
except for descent's step-size error, in which `eta weight_p` is the step size.

Cost of a pass: about 6 P n d h floating-point operations.

Source: balanced networks, Arora, Cohen and Hazan, "On the Optimization of Deep
Networks", arXiv:1802.06509.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.gradients import full_batch
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.studies import linear_teachers
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn


class Problems(NamedTuple):
  """P regressions without noise, each from its source to its target teacher."""

  source: np.ndarray  # theta_S [P, d]
  target: np.ndarray  # theta_T [P, d]
  inputs: np.ndarray  # X [P, n, d]


class _Batch(NamedTuple):
  inputs: Array  # [n, P, d]
  labels: Array  # X theta_T, [n, P]


def draw_problems(
    rng: np.random.Generator,
    *,
    sizes: Sequence[float],
    cosines: Sequence[float],
    dimension: int,
    num_examples: int,
    num_draws: int,
) -> Problems:
  """Returns `num_draws` problems of each kind, `P = num_draws * len(sizes)`.

  A source is a unit vector; kind k's target has length `sizes[k]` and cosine
  `cosines[k]` with it. All kinds of one draw share source, plane and inputs,
  which are isotropic and Gaussian. Problem `draw * len(sizes) + k` is kind k.
  """
  sources, targets, inputs = [], [], []
  for _ in range(num_draws):
    plane = np.linalg.qr(rng.normal(size=(dimension, 2)))[0].T
    rows = rng.normal(size=(num_examples, dimension))
    for size, cosine in zip(sizes, cosines, strict=True):
      sine = np.sqrt(max(1 - cosine**2, 0.0))
      sources.append(plane[0])
      targets.append(size * (cosine * plane[0] + sine * plane[1]))
      inputs.append(rows)
  return Problems(np.stack(sources), np.stack(targets), np.stack(inputs))


def network(*, num_layers: int, width: int) -> ffn.FFN:
  """Returns L linear layers with one output and `width` hidden units."""
  return ffn.FFN(
      widths=(width,) * (num_layers - 1) + (1,),
      activation='identity',
      use_bias=False,
  )


def balanced_params(
    end_to_end: np.ndarray, *, num_layers: int, width: int, seed: int
) -> Params:
  """Returns balanced parameters of `beta`, in random hidden directions.

  Args:
    end_to_end: `beta`, `[P, d]`, none of them zero if L > 1.
    num_layers: L, at least 1.
    width: h, of the hidden layers.
    seed: of the directions `u_j`, which no end-to-end quantity depends on.

  Returns:
    NumPy kernels `{'layer_0': {'kernel': [P, d, h]}, ...}`.

  Raises:
    ValueError: L is below 1, or a vector is zero and has no balanced network
      that moves.
  """
  if num_layers < 1:
    raise ValueError(f'num_layers must be at least 1 but is {num_layers}.')
  norms = np.linalg.norm(end_to_end, axis=-1)
  if num_layers > 1 and not norms.all():
    raise ValueError(
        f'Problem {int(np.argmin(norms))} starts at zero, where a balanced'
        ' network does not move; give a small vector.'
    )
  rng = np.random.default_rng(seed)
  left = end_to_end
  params = {}
  if num_layers > 1:
    scale = norms[:, None] ** (1 / num_layers)
    left = end_to_end / norms[:, None] * scale
  for index in range(num_layers - 1):
    right = rng.normal(size=(len(end_to_end), width))
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    params[f'layer_{index}'] = {'kernel': left[:, :, None] * right[:, None, :]}
    left = scale * right
  params[f'layer_{num_layers - 1}'] = {'kernel': left[:, :, None]}
  return params


def end_to_end(params: Params) -> np.ndarray:
  """Returns `beta = W_1 ... W_L`, `[P, d]`."""
  product = None
  for index in range(len(params)):
    kernel = np.asarray(params[f'layer_{index}']['kernel'])
    product = kernel if product is None else product @ kernel
  assert product is not None
  return product[..., 0]


def imbalance(params: Params) -> float:
  """Returns the largest entry of `W_j' W_j - W_{j+1} W_{j+1}'` over all j."""
  kernels = [
      np.asarray(params[f'layer_{index}']['kernel'])
      for index in range(len(params))
  ]
  return max(
      float(np.abs(a.swapaxes(1, 2) @ a - b @ b.swapaxes(1, 2)).max())
      for a, b in zip(kernels[:-1], kernels[1:], strict=True)
  )


def limits(problems: Problems, *, num_layers: float) -> np.ndarray:
  """Returns where every problem's flow ends, `[P, d]`, by (S2.4)."""
  return np.stack(
      [
          linear_teachers.finetuned(*problem, num_layers=num_layers)
          for problem in zip(*problems, strict=True)
      ]
  )


def time_units(problems: Problems, *, num_layers: int) -> np.ndarray:
  """Returns weights `[P]` with which a step size of 1 is just about stable.

  `1 / (L rho^{2 - 2/L} lambda_max(X'X / n))`, rho the longer of start and end.
  """
  sizes = np.linalg.norm(problems.inputs, 2, axis=(1, 2)) ** 2
  ends = limits(problems, num_layers=num_layers)
  rho = np.maximum(
      np.linalg.norm(problems.source, axis=-1), np.linalg.norm(ends, axis=-1)
  )
  curvature = sizes / problems.inputs.shape[1]
  return 1 / (num_layers * rho ** (2 - 2 / num_layers) * curvature)


def value_and_grad_fn(
    problems: Problems, weights: np.ndarray, *, num_layers: int, width: int
) -> ValueAndGradFn:
  """Returns the exact loss and gradient of all problems; in float64 if x64 is.

  Args:
    problems: P of them.
    weights: of their losses, `[P]`.
    num_layers: L.
    width: h.
  """
  labels = np.einsum('pnd,pd->pn', problems.inputs, problems.target)
  batch = _Batch(problems.inputs.swapaxes(0, 1), labels.T)
  loss_sum = jax.tree_util.Partial(
      _loss_sum(num_layers, width), jnp.asarray(weights)
  )
  return full_batch.exact_value_and_grad(
      loss_sum,
      jax.tree.map(lambda x: jnp.asarray(x)[None, None], batch),
      problems.inputs.shape[1],
  )


@functools.cache
def _loss_sum(num_layers: int, width: int):
  module = network(num_layers=num_layers, width=width)

  def loss_sum(weights, params, batch):
    encode = functools.partial(encoders.encode, module)
    outputs = jax.vmap(encode, in_axes=(0, 1), out_axes=1)(params, batch.inputs)
    errors = outputs[..., 0] - batch.labels
    return jnp.sum(weights * jnp.sum(errors**2, axis=0)) / 2

  return loss_sum
