"""Trees entry by entry: what the methods with coefficients do with leaves.

As everywhere here, leaves below float32 are computed in float32 and given back
in their own dtype; a leaf of integers or booleans has a task vector of zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def combine(fn: Callable[..., Array], first: Params, *others: Params) -> Params:
  """Returns the tree of `fn(leaf, ...)`, in the dtypes of `first`.

  Args:
    fn: takes a leaf of each tree, all in the dtype that the first one's is
      computed in, and returns one of the first one's shape.
    first: the tree whose dtypes and shapes the result has.
    *others: trees of the same structure.
  """

  def one(leaf, *rest):
    leaf = jnp.asarray(leaf)
    if not leaves.is_floating(leaf.dtype):
      return jnp.zeros_like(leaf)
    exact = leaves.widened(leaf)
    rest = (jnp.asarray(part).astype(exact.dtype) for part in rest)
    return fn(exact, *rest).astype(leaf.dtype)

  return jax.tree.map(one, first, *others)
