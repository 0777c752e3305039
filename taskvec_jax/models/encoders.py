"""Encoders as pure functions of their parameters.

Outside the modules a set of parameters is the plain nested dict of arrays that
task vectors are subtracted from and added to, without Flax's outer
`{'params': ...}`: f(params, x) of the theory is `encode(module, params, x)`.

Images may come as uint8, as a run keeps them, and are then normalised here:

  x -> (x / 255 - pixel_mean) / pixel_std

with the numbers of the module, one or one a channel: they belong to a model as
its parameters do.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

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
  if inputs.dtype == jnp.uint8:
    inputs = normalize(module, inputs, jax.tree.leaves(params)[0].dtype)
  features: Any = module.apply({'params': params}, inputs)
  return features


def normalize(module: Any, images: Array, dtype: Any) -> Array:
  """Returns the floats that `module` sees of uint8 `images [N, H, W, C]`.

  They are float32 numbers in every dtype: a float64 run sees the same images.
  """
  mean = jnp.asarray(module.pixel_mean, jnp.float32)
  std = jnp.asarray(module.pixel_std, jnp.float32)
  return ((images.astype(jnp.float32) / 255 - mean) / std).astype(dtype)
