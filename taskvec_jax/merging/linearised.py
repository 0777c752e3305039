"""Linearised task arithmetic: a model that is linear in its parameters.

  f_lin(x; theta) = f(x; theta_0) + J(x; theta_0) (theta - theta_0),

one forward-mode pass, `jax.jvp`, about two forward passes; no Jacobian is
formed. Two uses:

* post hoc: evaluate `f_lin` at models that were finetuned as usual;
* finetuning `f_lin` itself from theta_0 with the usual loss (the paper: AdamW,
  learning rate 1e-5, weight decay 0.1). It is linear in theta, and stays
  differentiable, so every function of this package that takes a model's
  logits takes it too.

The logits of a merged linearised model are those of the base plus the sum of
what each task vector adds: tasks can disturb one another only by what theirs
add on each other's inputs. How much they do, of any model, is the weight
disentanglement error

  xi(a_1..a_T) = sum_t E_{x ~ mu_t} [ argmax f(x; theta_0 + a_t tau_t)
                                  /= argmax f(x; theta_0 + sum_s a_s tau_s) ],

a SUM over tasks, from 0 to T. The paper draws it for two tasks over a square of
coefficients and prints no code for it.

Source: Ortiz-Jimenez, Favero and Frossard, "Task arithmetic in the tangent
space: improved editing of pre-trained models", arXiv:2305.12827.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import learned_coefficients
from taskvec_jax.merging import leaves
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def linearised(
    apply_fn: Callable[..., Any], base_params: Params
) -> Callable[..., Any]:
  """Returns `f_lin`, of the same arguments as `apply_fn`; traceable.

  Args:
    apply_fn: `(params, *inputs) -> logits`, or features, or any tree;
      differentiable in the floating-point leaves of params.
    base_params: `theta_0`. Leaves of integers keep their values here, whatever
      the parameters have.

  Returns:
    `(params, *inputs) -> f_lin`. It raises a ValueError if params is a tree
    that differs from the base's.
  """

  def linear_fn(params: Params, *inputs: Any) -> Any:
    arithmetic.check_same_tree(params, base_params, 'params', 'base')
    value, change = jax.jvp(
        lambda p: apply_fn(p, *inputs),
        (base_params,),
        (jax.tree.map(_tangent, params, base_params),),
    )
    return jax.tree.map(jnp.add, value, change)

  return linear_fn


def num_disagreements(
    predict_fn: Callable[[Params], Array],
    base_params: Params,
    task_vectors: Mapping[str, Params],
    scalings: Array,
    *,
    task: str,
) -> Array:
  """Returns on how many inputs of a task alone and merged predict otherwise.

  Traceable, one program for all coefficients; what `full_batch.exact_mean` adds
  up over batches, and divides. The sum of the shares over the tasks is xi.

  Args:
    predict_fn: `params -> int [n]`, the classes predicted for this task's
      inputs; the same number for every params where an input is padding.
    base_params: `theta_0`.
    task_vectors: task name -> `tau_t`.
    scalings: float `[S, T]`, coefficients in the order of `task_vectors`.
    task: whose inputs `predict_fn` reads, t.

  Returns:
    `[S]`, in the dtype of `scalings`.

  Raises:
    ValueError: an unknown task, or scalings of another shape.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_choice('task', task, task_vectors)
  shape = np.shape(scalings)
  if len(shape) != 2 or shape[1] != len(task_vectors):
    raise ValueError(
        f'scalings must be [S, {len(task_vectors)}], a coefficient for each of'
        f' the tasks, but have shape {shape}.'
    )
  index = list(task_vectors).index(task)

  def one(row):
    alone = arithmetic.edit(base_params, task_vectors[task], row[index])
    total = learned_coefficients.weighted(
        task_vectors, dict(zip(task_vectors, row, strict=True))
    )
    merged = arithmetic.edit(base_params, total)
    return jnp.sum(predict_fn(alone) != predict_fn(merged), dtype=row.dtype)

  return lax.map(one, jnp.asarray(scalings))


def _tangent(leaf, base):
  base = jnp.asarray(base)
  if not leaves.is_floating(base.dtype):
    return np.zeros(base.shape, jax.dtypes.float0)
  return jnp.asarray(leaf, base.dtype) - base
