"""Types that every layer shares."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# On the host NumPy's, inside a compiled program JAX's.
Array = jax.Array | np.ndarray

# A pytree of arrays; Flax's linen modules make it a plain nested dict.
Params = Any

# params -> (mean loss, gradient).
ValueAndGradFn = Callable[[Params], tuple[Array, Params]]

# (params, v) -> (gradient, Hessian times v), both at params.
GradAndHvpFn = Callable[[Params, Params], tuple[Params, Params]]
