"""Encoders as pure functions of their parameters.

Outside the modules a set of parameters is the plain nested dict of arrays that
task vectors are subtracted from and added to, without Flax's outer
`{'params': ...}`: f(params, x) of the theory is `encode(module, params, x)`.
"""

from typing import Any

from flax import linen as nn
import jax

from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def init(module: nn.Module, key: jax.Array, inputs: Array) -> Params:
  """Returns fresh parameters of `module`.

  Args:
    module: an encoder, such as `ffn.FFN` or `vit.ViT`.
    key: a key of `jax.random`.
    inputs: examples `[N, H, W, C]`; only their shape and dtype matter.
  """
  return module.init(key, inputs)['params']


def encode(module: nn.Module, params: Params, inputs: Array) -> Array:
  """Returns features `[N, D]` of `inputs [N, H, W, C]`; pure, not jitted."""
  features: Any = module.apply({'params': params}, inputs)
  return features
