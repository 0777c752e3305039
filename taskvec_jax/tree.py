"""Optax's tree arithmetic, each operation one compiled program a tree.

Called one by one, the operations of `optax.tree` dispatch, and compile, every
leaf's arithmetic by itself; the loops of this package call them once a task and
epoch. Arguments and results are Optax's.
"""

import jax
from optax import tree

add = jax.jit(tree.add)
add_scale = jax.jit(tree.add_scale)
norm = jax.jit(tree.norm)
scale = jax.jit(tree.scale)
sub = jax.jit(tree.sub)
vdot = jax.jit(tree.vdot)
zeros_like = jax.jit(tree.zeros_like)
