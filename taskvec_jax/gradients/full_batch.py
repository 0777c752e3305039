"""Exact sums over a whole task: losses, gradients, Hessian-vector products.

One primitive carries the file. For a function `f(operands, batch)` that sums
something over the examples of one batch,

  mean = ( sum over devices, sum over batches, f(operands, batch) ) / N,

with ONE division by the true number of examples `N` (padding is masked by
`f`). Batches are added by TwoSum, which keeps the rounding error of every
addition in a second accumulator; devices are added by splitting each summand
on a power-of-two grid common to all of them, so that the `psum` of the leading
parts is exact whatever its order. The result is therefore the sum of the
batches' own float values to about eps^2: it does not depend on how the
examples were cut, beyond the rounding inside one batch. Only `H v`, which
enters predictions alone, is added up plainly: what that adds to its error,
about sqrt(batches) eps, is not worth a copy of the parameters.

Examples that do not fit on the devices come as a function that yields them in
pieces, anew for every pass; the two accumulators go from piece to piece, so the
sum is the same.

Cost of a gradient: one forward and backward pass over the data, three copies
of the parameters at most (two accumulators and one batch's gradient) and the
activations of one batch. Nothing stores a gradient an example. This is the
only file that knows of devices; `psum` comes after `grad`, never inside it. Of
`shard_map`, from which today's JAX builds `pmap`, no more is needed than `pmap`
gives: one leading axis of devices, and replicated results.

Source: TwoSum is Knuth, TAOCP 2, 4.2.2; the common grid is the extraction of
Rump, Ogita and Oishi, "Accurate floating-point summation", SISC 2008.
"""

from collections.abc import Callable
import functools
import json
import math
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
from jax import sharding
import jax.numpy as jnp
import numpy as np

from taskvec_jax.typing import Array
from taskvec_jax.typing import GradAndHvpFn
from taskvec_jax.typing import Params
from taskvec_jax.typing import ValueAndGradFn

_AXIS = 'devices'
# What one process may raise for all.
_ERRORS = {
    kind.__name__: kind
    for kind in (ValueError, ArithmeticError, FloatingPointError, OSError)
}

# A tree with leaves [num_devices, num_batches, ...], or a function that yields
# such trees one after the other.
Batches = Any


class _Plain(NamedTuple):
  """What of a batch's summand is added up without a second accumulator."""

  tree: Any


def num_devices() -> int:
  """Returns how many devices this process drives."""
  return jax.local_device_count()


def process() -> tuple[int, int]:
  """Returns `(index, count)` of this process among those of the run."""
  return jax.process_index(), jax.process_count()


def joined(array: np.ndarray) -> np.ndarray:
  """Returns an array put together from what each process has of it.

  Every process of the run must call it, with the same shape and dtype.

  Args:
    array: of any dtype; zeros wherever another process has the element. At most
      one process may have it.
  """
  if jax.process_count() == 1 or not array.size:
    return array
  num_words = -(-array.nbytes // 4)
  if num_words < 2**16:  # few lengths, since each compiles a program
    num_words = 1 << (num_words - 1).bit_length()
  words = np.zeros((1, num_words), np.int32)
  words.view(np.uint8)[0, : array.nbytes] = (
      np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  )
  # Nothing carries: of two summands of a byte one is zero.
  total = np.asarray(_sum_of_processes()(words))
  flat = total.view(np.uint8)[: array.nbytes].view(array.dtype)
  return flat.reshape(array.shape)


def agreed(tree: Any) -> Any:
  """Returns the first process's leaves; the shapes are the same on all.

  For what every process computes alike, but might round differently.
  """
  if jax.process_count() == 1:
    return tree
  is_first = jax.process_index() == 0
  return jax.tree.map(
      lambda x: joined(np.asarray(x) if is_first else np.zeros_like(x)), tree
  )


def from_first(make: Callable[[], Any]) -> Any:
  """Returns what `make` returns on the first process, which alone calls it.

  Args:
    make: without arguments; returns arrays in dictionaries with string keys.
      The sentence of an error that it raises is raised on all processes.
  """
  if jax.process_count() == 1:
    return make()
  if jax.process_index() == 0:
    try:
      tree = jax.tree.map(np.asarray, make())
    except tuple(_ERRORS.values()) as error:
      _text_of_first(json.dumps({'error': [type(error).__name__, str(error)]}))
      raise
    shapes = jax.tree.map(lambda x: json.dumps([x.dtype.name, x.shape]), tree)
    _text_of_first(json.dumps({'shapes': shapes}))
    return agreed(tree)
  said = json.loads(_text_of_first(''))
  if 'error' in said:
    kind, sentence = said['error']
    raise _ERRORS.get(kind, ValueError)(sentence)
  return agreed(jax.tree.map(_zeros_of, said['shapes']))


def text_from_first(make: Callable[[], str]) -> str:
  """Returns the text that `make` returns on the first process, on all."""
  found = from_first(lambda: {'text': np.frombuffer(make().encode(), np.uint8)})
  return found['text'].tobytes().decode()


def _text_of_first(text: str) -> str:
  """Returns the first process's text; others give an empty one."""
  data = np.frombuffer(text.encode(), np.uint8)
  (size,) = joined(np.array([data.size]))
  padded = np.zeros(int(size), np.uint8)
  padded[: data.size] = data
  return joined(padded).tobytes().decode()


def _zeros_of(kind: str) -> np.ndarray:
  dtype, shape = json.loads(kind)
  return np.zeros(shape, jnp.dtype(dtype))


def device_names() -> list[str]:
  """Returns the kinds of the run's devices, one entry a device."""
  return [device.device_kind for device in jax.devices()]


def place(batches: Batches) -> Batches:
  """Puts `[num_devices, num_batches, ...]` leaves on the devices, once.

  A function that yields pieces is returned as it is.
  """
  if callable(batches):
    return batches
  return _program(_as_it_is, _num_shards(batches))(batches)


def exact_mean(
    sum_fn: Callable[[Any, Any], Any],
    operands: Any,
    batches: Batches,
    num_examples: float,
) -> Any:
  """Returns `sum_fn` summed over all batches of all devices, over N.

  Args:
    sum_fn: `(operands, batch) -> tree of floats`, sums over one batch. A
      `jax.tree_util.Partial` passes its arrays as data, so that equal shapes
      share one compiled program.
    operands: what `sum_fn` takes first, the same on all devices.
    batches: a tree with leaves `[num_devices, num_batches, ...]`, or a function
      that yields such trees, at least one, anew whenever it is called.
    num_examples: N, the true number of examples over all processes; 1 gives
      the sum.
  """
  if callable(batches):
    return _divide(exact_pair(sum_fn, operands, batches), num_examples)
  count = _num_shards(batches)
  operands = _on_each(operands, count)
  with _full_precision():
    mean = _program(_mean, count, (None, None, None, 0), None)
    return mean(_as_tree(sum_fn), operands, num_examples, batches)


def exact_pair(
    sum_fn: Callable[[Any, Any], Any], operands: Any, batches: Batches
) -> tuple[Any, Any]:
  """Returns the sum as an unrounded pair: `high + low`, to about eps^2."""
  with _full_precision():
    if callable(batches):
      return _streamed_pair(_as_tree(sum_fn), operands, batches())
    count = _num_shards(batches)
    pair = _program(_pair, count, (None, None, 0), None)
    return pair(_as_tree(sum_fn), _on_each(operands, count), batches)


def exact_value_and_grad(
    loss_sum: Callable[[Params, Any], Array],
    batches: Batches,
    num_examples: float,
) -> ValueAndGradFn:
  """Returns `params -> (L, grad L)`, the mean loss and its exact gradient.

  Args:
    loss_sum: `(params, batch) -> scalar`, the loss summed over one batch's
      unmasked examples; a `Partial` as in `exact_mean`.
    batches: a tree with leaves `[num_devices, num_batches, ...]`, which is put
      on the devices, or a function that yields such trees.
    num_examples: N, as in `exact_mean`.

  Raises:
    ValueError: `num_examples` is not positive, or the leading axis of
      `batches` is not the same on all leaves or more than the devices here.
  """
  _check_num_examples(num_examples)
  sum_fn = jax.tree_util.Partial(_value_and_grad, _as_tree(loss_sum))
  batches = place(batches)
  return lambda params: exact_mean(sum_fn, params, batches, num_examples)


def exact_gradient_and_hvp(
    loss_sum: Callable[[Params, Any], Array],
    batches: Batches,
    num_examples: int,
) -> GradAndHvpFn:
  """Returns `(params, v) -> (grad L, H v)` in one jvp-of-grad pass.

  The gradient is exact; `H v` is added up over the batches plainly, to about
  sqrt(batches) eps. Arguments and errors are those of `exact_value_and_grad`.
  """
  _check_num_examples(num_examples)
  sum_fn = jax.tree_util.Partial(_gradient_and_hvp, _as_tree(loss_sum))
  batches = place(batches)

  def gradient_and_hvp(params: Params, v: Params) -> tuple[Params, Params]:
    gradient, hvp = exact_mean(sum_fn, (params, v), batches, num_examples)
    return gradient, hvp.tree

  return gradient_and_hvp


def _full_precision():
  # TPUs and GPUs multiply float32 matrices in fewer bits unless they are told.
  return jax.default_matmul_precision('highest')


def _as_tree(fn: Callable) -> jax.tree_util.Partial:
  # A Partial around a Partial would hide the inner one's arrays from jit.
  is_tree = isinstance(fn, jax.tree_util.Partial)
  return fn if is_tree else jax.tree_util.Partial(fn)


def _value_and_grad(loss_sum, params, batch):
  return jax.value_and_grad(loss_sum)(params, batch)


def _gradient_and_hvp(loss_sum, operands, batch):
  params, v = operands
  gradient, hvp = jax.jvp(
      lambda p: jax.grad(loss_sum)(p, batch), (params,), (v,)
  )
  return gradient, _Plain(hvp)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
  """Returns `(s, e)` with `s = fl(a + b)` and `s + e = a + b` exactly."""
  total = a + b
  b_part = total - a
  return total, (a - (total - b_part)) + (b - b_part)


def _add(high: Any, low: Array | None, summand: Any) -> tuple[Any, Any]:
  if low is None:
    return jax.tree.map(jnp.add, high, summand), None
  high, error = _two_sum(high, summand)
  return high, low + error


def _split_sum(high: Any, low: Array | None) -> tuple[Any, Any]:
  """Sums a pair over the devices: exactly the leading part, then the rest."""
  if low is None:
    return lax.psum(high, _AXIS), None
  count = lax.psum(1, _AXIS)
  _, exponent = jnp.frexp(lax.pmax(jnp.abs(high), _AXIS))
  # Adding and taking away `grid` rounds to multiples of its last bit; it is at
  # least twice the sum, so any sum of such multiples is exact.
  bits = math.ceil(math.log2(count)) + 1
  grid = jnp.ldexp(jnp.ones_like(high), exponent + bits)
  leading = (high + grid) - grid
  rest = (high - leading) + low
  return _two_sum(lax.psum(leading, _AXIS), lax.psum(rest, _AXIS))


def _pair(sum_fn, operands, batches):
  """The body of every program here; runs on each device."""
  return _over_devices(*_first_pair(sum_fn, operands, batches))


def _first_pair(sum_fn, operands, batches):
  first = jax.tree.map(lambda x: x[0], batches)
  zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(_summand, sum_fn, operands, first),
  )
  # None stands where no second accumulator is kept.
  low = jax.tree.map(
      lambda node: None if isinstance(node, _Plain) else node,
      zeros,
      is_leaf=lambda node: isinstance(node, _Plain),
  )
  return _over_batches(sum_fn, operands, (zeros, low), batches)


@functools.partial(jax.jit, inline=True)
def _summand(sum_fn, operands, batch):
  """Is `sum_fn`, traced once for its shapes and its program."""
  return sum_fn(operands, batch)


def _over_batches(sum_fn, operands, pair, batches):
  """Adds one device's batches to a pair, one after the other."""

  def step(pair, batch):
    # The barrier keeps a compiler from contracting the last product of the
    # summand with the addition (an FMA), which would break TwoSum.
    summand = lax.optimization_barrier(_summand(sum_fn, operands, batch))
    return _map_pair(_add, *pair, summand), None

  return lax.scan(step, pair, batches)[0]


def _over_devices(high, low):
  """Adds the devices' pairs."""
  if lax.psum(1, _AXIS) == 1:
    return high, low
  return _map_pair(_split_sum, high, low)


def _map_pair(fn, high, low, *trees):
  """Returns the pair of `fn(high, low, ...)`, leaf by leaf of `low`."""
  lows, structure = jax.tree.flatten(low, is_leaf=lambda node: node is None)
  rest = map(structure.flatten_up_to, trees)
  found = map(fn, structure.flatten_up_to(high), lows, *rest)
  return tuple(map(structure.unflatten, zip(*found, strict=True)))


def _streamed_pair(sum_fn, operands, pieces: Any):
  """Returns the pair of a sum over pieces that visit the devices in turn."""
  pair = None
  for piece in pieces:
    count = _num_shards(piece)
    operands = _on_each(operands, count)
    if pair is None:
      start = _program(_first_pair, count, (None, None, 0))
      pair = start(sum_fn, operands, piece)
    else:
      # Each device keeps its own pair until the end.
      go_on = _program(_over_batches, count, (None, None, 0, 0), donate=(2,))
      pair = go_on(sum_fn, operands, pair, piece)
    # Or all pieces would be on their way to the devices at once.
    jax.block_until_ready(pair)
  if pair is None:
    raise ValueError(
        'The function that yields batches yielded none; at least one is'
        ' needed.'
    )
  return _program(_over_devices, count, out_axes=None)(*pair)


def _mean(sum_fn, operands, num_examples, batches):
  return _mean_of_pair(_pair(sum_fn, operands, batches), num_examples)


def _mean_of_pair(pair, num_examples):
  def rounded(high, low):
    return (high if low is None else jax.tree.map(jnp.add, high, low)), None

  total, _ = _map_pair(rounded, *pair)
  return jax.tree.map(lambda x: x / jnp.asarray(num_examples, x.dtype), total)


_divide = jax.jit(_mean_of_pair)


def _as_it_is(batches):
  return batches


@functools.cache
def _program(fn, num_shards: int, in_axes: Any = 0, out_axes=0, donate=()):
  """Returns `fn` as a program of the first devices; None: alike on all."""
  program = jax.pmap(
      fn,
      axis_name=_AXIS,
      in_axes=in_axes,
      out_axes=out_axes,
      donate_argnums=donate,
      devices=_devices(num_shards),
  )
  options = _compiler_options()
  if not options:
    return program
  return jax.jit(program, donate_argnums=donate, compiler_options=options)


def _on_each(tree, num_shards: int):
  """Returns a tree as programs return theirs, the same on all devices.

  A program is compiled anew for arrays that lie elsewhere: the first gradient
  of a run, at parameters fresh from the host, would have one of its own.
  """
  if jax.process_count() > 1:
    return tree
  everywhere = _everywhere(num_shards)
  lies_there = [
      getattr(leaf, 'sharding', None) == everywhere
      for leaf in jax.tree.leaves(tree)
  ]
  # Looking costs a thirtieth of asking for it.
  return tree if all(lies_there) else jax.device_put(tree, everywhere)


@functools.cache
def _everywhere(num_shards: int) -> sharding.NamedSharding:
  mesh = sharding.Mesh(np.array(_devices(num_shards)), (_AXIS,))
  return sharding.NamedSharding(mesh, sharding.PartitionSpec())


@functools.cache
def _compiler_options() -> dict[str, str | bool]:
  """Returns what makes a program hold few of a batch's derivatives at once."""
  # The default order on CPUs, for concurrency, holds a copy of the parameters
  # more and is no faster. `pmap` takes no options; `jit` around it does, where
  # no other process has a part in its arrays.
  if jax.default_backend() != 'cpu' or jax.process_count() > 1:
    return {}
  options: dict[str, str | bool] = {
      'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'
  }
  try:
    jax.jit(lambda: 0.0).lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:
    return {}  # an XLA that does not know the option: only memory differs
  return options


@functools.cache
def _sum_of_processes():
  # One device of each process.
  firsts = {}
  for device in jax.devices():
    firsts.setdefault(device.process_index, device)
  return jax.pmap(
      lambda x: lax.psum(x, _AXIS),
      axis_name=_AXIS,
      out_axes=None,
      devices=list(firsts.values()),
  )


def _devices(num_shards: int):
  # All devices of a run of several processes; else the first few, so that a
  # test can compare one device with four in one process.
  return None if jax.process_count() > 1 else jax.local_devices()[:num_shards]


def _num_shards(batches: Any) -> int:
  sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batches)}
  if len(sizes) != 1:
    raise ValueError(
        'Every leaf of batches must have the same leading axis, the number of'
        f' devices, but they have {sorted(sizes)}.'
    )
  (size,) = sizes
  if size > jax.local_device_count():
    raise ValueError(
        f'batches are cut for {size} devices but this process has'
        f' {jax.local_device_count()}; cut them with'
        ' num_shards=full_batch.num_devices().'
    )
  return size


def _check_num_examples(num_examples: float) -> None:
  if num_examples <= 0:
    raise ValueError(
        f'num_examples must be positive but is {num_examples}; it is the true'
        ' number of examples that the mean is taken over.'
    )
