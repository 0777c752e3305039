"""Tasks told by one pattern among tokens, and the transformer that learns them.

A task has a pattern mu, a unit vector. An example with label y = +-1 is P
tokens: n* times y mu, n# times -y mu (n* > n#), and the rest drawn from M
background patterns v_j, which are orthonormal and orthogonal to every mu. Two
tasks are correlated by alpha = mu_1' mu_2. The model is one layer, one head,

  f(X) = (1/P) sum_l a' relu( V sum_s x_s softmax_s( x_s' W x_l ) ),

with a fixed, half +1/sqrt(m) and half -1/sqrt(m), W = W_K' W_Q and V = W_O W_V
trained, hinge loss max(0, 1 - y f). All this is the paper's; that W and V start
at small normal numbers is too.

Equal tokens attend alike, so each kind is computed once and counted: a query
of kind l weighs count_l / P, a key of kind s adds log count_s to its score.
That is exact, and P tokens cost as much as 2 + (P - n* - n#).

Many runs (seeds, correlations) train as one: their losses are added up, and as
no two share a parameter, gradient descent on the sum is gradient descent on
each. R runs of N examples cost R N T (d m + d d + T d + T m) multiply-adds
forward, with T kinds of tokens of dimension d = 3 + M.

Source: Li, Zhang, Zhang, Wang, Liu and Chen, "When is task vector provably
effective for model editing?", arXiv:2504.10957. As known from a review.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

PATTERN_DIMENSIONS = 3  # the patterns of all tasks lie in the first three


class Sizes(NamedTuple):
  """How many tokens of which kind an example has."""

  num_label: int  # n*, of y mu
  num_confusing: int  # n#, of -y mu
  num_background: int  # of v_j
  num_patterns: int  # M, the background patterns there are


class Batch(NamedTuple):
  """Examples of one run or, with more leading axes, of many."""

  tokens: Array  # [..., N, T, d], one of each kind
  labels: Array  # [..., N], +1 or -1
  counts: Array  # [..., T], how often each kind stands in an example


def num_tokens(sizes: Sizes) -> int:
  """Returns P."""
  return sizes.num_label + sizes.num_confusing + sizes.num_background


def dimension(sizes: Sizes) -> int:
  """Returns d."""
  return PATTERN_DIMENSIONS + sizes.num_patterns


def correlated(alpha: Array) -> np.ndarray:
  """Returns patterns `[..., 3]` with `mu' (1, 0, 0) = alpha`, in the plane."""
  alpha = np.asarray(alpha)
  return np.stack(
      [alpha, np.sqrt(np.maximum(0.0, 1 - alpha**2)), 0 * alpha], axis=-1
  )


def draw(
    seed: tuple[int, ...], pattern: np.ndarray, sizes: Sizes, *, num: int
) -> Batch:
  """Returns `num` examples of a task, half of each label.

  Args:
    seed: of the background tokens; the same for all patterns given.
    pattern: mu, unit vectors `[..., 3]`; leading axes are kept.
    sizes: tokens of an example.
    num: N, even.

  Raises:
    ValueError: no more label tokens than confusing ones, or an odd `num`.
  """
  if sizes.num_label <= sizes.num_confusing:
    raise ValueError(
        f'An example must have more label tokens than confusing ones, not'
        f' {sizes.num_label} and {sizes.num_confusing}.'
    )
  if num < 2 or num % 2:
    raise ValueError(f'num must be even and at least 2 but is {num}.')
  rng = np.random.default_rng(seed)
  chosen = rng.integers(sizes.num_patterns, size=(num, sizes.num_background))
  labels = np.where(np.arange(num) % 2 == 0, 1.0, -1.0)
  kinds = 2 + sizes.num_background
  leading = pattern.shape[:-1]
  tokens = np.zeros((*leading, num, kinds, dimension(sizes)), np.float32)
  signed = labels[:, None] * pattern[..., None, :]
  tokens[..., 0, :PATTERN_DIMENSIONS] = signed
  tokens[..., 1, :PATTERN_DIMENSIONS] = -signed
  tokens[..., 2:, PATTERN_DIMENSIONS:] = np.eye(sizes.num_patterns)[chosen]
  counts = [sizes.num_label, sizes.num_confusing] + [1] * sizes.num_background
  return Batch(
      tokens,
      np.broadcast_to(labels.astype(np.float32), (*leading, num)),
      np.broadcast_to(np.array(counts, np.float32), (*leading, kinds)),
  )


def init(
    seed: tuple[int, ...], *, dim: int, width: int, scale: float
) -> Params:
  """Returns `theta_0`: W `[d, d]` and V' `[d, m]`, normal with std `scale`.

  Kernels are `[n_in, n_out]` as everywhere here: the value's columns are the
  neurons, rows of the text's V.
  """
  rng = np.random.default_rng(seed)
  shapes = {'attention': (dim, dim), 'value': (dim, width)}
  return {
      name: {'kernel': (scale * rng.normal(size=shape)).astype(np.float32)}
      for name, shape in shapes.items()
  }


def output_weights(width: int) -> np.ndarray:
  """Returns a `[m]`: the first half +1/sqrt(m), the second -1/sqrt(m)."""
  signs = np.where(np.arange(width) < width // 2, 1.0, -1.0)
  return (signs / np.sqrt(width)).astype(np.float32)


def margins(params: Params, batch: Batch) -> Array:
  """Returns `y f(X)` `[N]` of one run."""
  tokens, counts = batch.tokens, batch.counts
  queries = tokens @ params['attention']['kernel'].T  # W x_l
  scores = jnp.einsum('nld,nsd->nls', queries, tokens) + jnp.log(counts)
  values = tokens @ params['value']['kernel']  # V x_s
  mixed = jnp.einsum('nls,nsm->nlm', jax.nn.softmax(scores), values)
  neurons = output_weights(values.shape[-1]).astype(values.dtype)
  outputs = (jax.nn.relu(mixed) @ neurons) @ counts / jnp.sum(counts)
  return batch.labels * outputs


def hinge_sum(params: Params, batch: Batch) -> Array:
  """Returns the hinge loss summed over runs and examples.

  Args:
    params: a tree with leaves `[R, ...]`.
    batch: with leading axis `[R]`.
  """
  return jnp.sum(jax.nn.relu(1 - jax.vmap(margins)(params, batch)))


class Scores(NamedTuple):
  """Of one model on one task."""

  loss: Array  # mean hinge loss
  margin: Array  # mean of y f(X)
  error: Array  # share of examples with y f(X) <= 0


def scores(params: Params, batch: Batch) -> Scores:
  """Returns hinge loss, margin and error of one model on one task."""
  found = margins(params, batch)
  return Scores(
      jnp.mean(jax.nn.relu(1 - found)),
      jnp.mean(found),
      jnp.mean((found <= 0).astype(found.dtype)),
  )
