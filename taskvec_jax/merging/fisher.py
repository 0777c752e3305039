"""Fisher merging: each parameter by how much each task's model is sure of it.

  tau = sum_t c_t F_t tau_t / sum_t c_t F_t     (entry by entry),
  F_t = mean_x sum_y p(y | x) ( d log p(y | x) / d theta )^2   at theta_t,

the exact diagonal of the Fisher matrix: the expectation over labels is taken
under the model, class by class, and every example and class is squared by
itself. One example costs a forward pass and C backward passes; memory is the
parameters times `chunk_size`, the examples that go side by side.

MergeLM and FusionBench do something else under this name: they back-propagate
sum_y sqrt(p) log p summed over a BATCH and square the result, so products of
different examples and of different classes stay in. What comes out depends on
the batch size: on a small float64 network 0.42, 0.62 and 1.81 times as large as
the exact one, at a cosine of 0.92, 0.80 and 0.57 with it, for batches of 1, 8
and 64. It is not offered here.

Every F_t is raised to a floor of 1e-6, so that where no model is sure the
result is the average, and may be divided by its Euclidean norm over all
parameters, so that a task with large gradients does not decide alone. The
reference code raises only the target model's when it favours one (`favored`).

Source: Matena and Raffel, "Merging models with Fisher-weighted averaging",
arXiv:2111.09832; floor, normalisation and favoured model from their code.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.merging import pointwise
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def fisher(
    task_vectors: Mapping[str, Params],
    fishers: Mapping[str, Params],
    *,
    weights: Mapping[str, float] | None = None,
    floor: float = 1e-6,
    favored: str | None = None,
    normalize: bool = False,
) -> Params:
  """Returns `sum_t c_t F_t tau_t / sum_t c_t F_t`.

  Args:
    task_vectors: task name -> `tau_t`.
    fishers: task name -> `F_t`, of `diagonal_fisher` at `theta_t`.
    weights: task name -> `c_t`, not negative; None for all equal. The paper
      searches them on validation data: 50 points for two models.
    floor: the least an entry of F_t counts, before the normalisation.
    favored: the one task whose F_t has the floor; None for all of them.
    normalize: whether each F_t is divided by its norm.

  Returns:
    A tree like one task vector. Where all `c_t F_t` are zero, as they can be
    with a floor of 0, the average weighted by `c_t`.

  Raises:
    ValueError: the tasks or the trees differ, or the numbers make no sense.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_tasks('fishers', fishers, task_vectors)
  for task, vector in task_vectors.items():
    arithmetic.check_same_tree(fishers[task], vector, 'its Fisher', task)
  weights = dict.fromkeys(task_vectors, 1.0) if weights is None else weights
  checks.check_tasks('weights', weights, task_vectors)
  if min(weights.values()) < 0 or not sum(weights.values()) > 0:
    raise ValueError(
        f'weights must not be negative, nor all zero, but are {dict(weights)}.'
    )
  if not floor >= 0:
    raise ValueError(f'floor must not be negative but is {floor}.')
  if favored is not None and favored not in task_vectors:
    raise ValueError(
        f'favored is {favored!r}, but the tasks are {sorted(task_vectors)}.'
    )
  tasks = tuple(task_vectors)
  return _merge(
      tuple(task_vectors[task] for task in tasks),
      tuple(fishers[task] for task in tasks),
      tuple(weights[task] for task in tasks),
      tuple(floor if favored in (None, task) else 0.0 for task in tasks),
      normalize=normalize,
  )


def diagonal_fisher(
    logits_fn: Callable[[Params, Array], Array],
    params: Params,
    inputs: Array,
    *,
    chunk_size: int = 16,
) -> Params:
  """Returns `F`, the mean over `inputs` of the exact diagonal Fisher.

  Args:
    logits_fn: `(params, inputs [n, ...]) -> logits [n, C]`, traceable; a
      `jax.tree_util.Partial` passes its arrays as data.
    params: `theta_t`, where F is taken.
    inputs: `[N, ...]`; labels are not read.
    chunk_size: examples whose gradients are in memory at once; the result does
      not depend on it beyond rounding.

  Returns:
    A tree like `params`: float leaves not narrower than float32, zeros where a
    leaf is an integer.

  Raises:
    ValueError: there is no example, or chunk_size is below 1.
  """
  num_examples = len(inputs)
  if num_examples < 1 or chunk_size < 1:
    raise ValueError(
        'A Fisher matrix needs at least one example and a chunk_size of at'
        f' least 1, but they are {num_examples} and {chunk_size}.'
    )
  chunk_size = min(chunk_size, num_examples)
  num_chunks = -(-num_examples // chunk_size)
  padding = num_chunks * chunk_size - num_examples
  inputs = jnp.asarray(inputs)
  widths = [(0, padding)] + [(0, 0)] * (inputs.ndim - 1)
  inputs = jnp.pad(inputs, widths)
  mask = jnp.arange(len(inputs)) < num_examples
  cut = (num_chunks, chunk_size)
  # A Partial around a Partial would hide the inner one's arrays from jit.
  if not isinstance(logits_fn, jax.tree_util.Partial):
    logits_fn = jax.tree_util.Partial(logits_fn)
  total = _over_chunks(
      logits_fn,
      params,
      inputs.reshape(cut + inputs.shape[1:]),
      mask.reshape(cut),
  )
  return jax.tree.map(lambda leaf: leaf / num_examples, total)


def diagonal_fisher_sum(
    logits_fn: Callable[[Params, Array], Array],
    params: Params,
    inputs: Array,
    mask: Array,
) -> Params:
  """Returns the SUM over one batch's unmasked examples; traceable.

  What `full_batch.exact_mean` adds up over batches and devices. Arguments are
  those of `diagonal_fisher`; `mask` is bool `[n]`, False where the example is
  padding. All n examples go side by side.
  """

  def one(example, keep):
    def log_probabilities(params):
      return jax.nn.log_softmax(logits_fn(params, example[None])[0])

    log_p, pullback = jax.vjp(log_probabilities, params)

    def add(total, label):
      one_hot, probability = label
      (score,) = pullback(one_hot)
      weight = jnp.where(keep, probability, 0)
      return _add_squares(total, weight, score), None

    labels = jnp.eye(len(log_p), dtype=log_p.dtype)
    zeros = _zeros(params)
    total, _ = jax.lax.scan(add, zeros, (labels, jnp.exp(log_p)))
    return total

  squares = jax.vmap(one)(inputs, mask)
  return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), squares)


def _add_squares(total, weight, score):
  def one(total, score):
    if score.dtype == jax.dtypes.float0:  # of an integer leaf
      return total
    return total + weight.astype(total.dtype) * score.astype(total.dtype) ** 2

  return jax.tree.map(one, total, score)


@jax.jit
def _over_chunks(logits_fn, params, inputs, mask):
  def step(total, chunk):
    summand = diagonal_fisher_sum(logits_fn, params, *chunk)
    return jax.tree.map(jnp.add, total, summand), None

  total, _ = jax.lax.scan(step, _zeros(params), (inputs, mask))
  return total


@functools.partial(jax.jit, static_argnames='normalize')
def _merge(task_vectors, fishers, weights, floors, *, normalize):
  num_tasks = len(task_vectors)
  scales = list(weights)
  if normalize:
    norms = [_norm(tree) for tree in fishers]
    # A Fisher of zeros has no direction; it stays zero.
    scales = [
        weight / jnp.where(norm > 0, norm, 1)
        for weight, norm in zip(weights, norms, strict=True)
    ]

  def one(*operands):
    vectors, fishers = operands[:num_tasks], operands[num_tasks:]
    above = below = plain = jnp.zeros_like(vectors[0])
    for vector, diagonal, weight, scale, floor in zip(
        vectors, fishers, weights, scales, floors, strict=True
    ):
      importance = jnp.asarray(scale, vector.dtype) * jnp.maximum(
          diagonal, jnp.asarray(floor, vector.dtype)
      )
      above += importance * vector
      below += importance
      plain += jnp.asarray(weight / sum(weights), vector.dtype) * vector
    is_zero = below == 0
    return jnp.where(is_zero, plain, above / jnp.where(is_zero, 1, below))

  return pointwise.combine(one, *task_vectors, *fishers)


def _norm(tree):
  squares = [
      jnp.sum(leaves.widened(leaf) ** 2) for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares))


def _zeros(params: Params) -> Params:
  """Returns zeros to add up in; float32 where a leaf is an integer."""

  def one(leaf):
    dtype = jnp.result_type(leaf)
    if not leaves.is_floating(dtype):
      return jnp.zeros(jnp.shape(leaf), jnp.float32)
    return jnp.zeros_like(leaves.widened(leaf))

  return jax.tree.map(one, params)
