"""The frozen heads of a run without published weights: linear probes."""

from collections.abc import Mapping

from flax import linen as nn
import jax
import numpy as np

from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.typing import Params

_encode = jax.jit(encoders.encode, static_argnums=0)


def fit(
    module: nn.Module,
    base_params: Params,
    examples: Mapping[str, tuple[np.ndarray, np.ndarray]],
    num_classes: Mapping[str, int],
    *,
    regularization: float,
) -> dict[str, heads.Head]:
  """Returns one linear probe a task on the base model's features.

  Args:
    module: the encoder.
    base_params: theta_0.
    examples: task name -> inputs uint8 `[n, H, W, C]`, labels int32 `[n]`.
    num_classes: by task name.
    regularization: as `heads.linear_probe` takes it.
  """
  # One pass for all tasks: one compiled program.
  inputs = np.concatenate([inputs for inputs, _ in examples.values()])
  features = np.asarray(_encode(module, base_params, inputs))
  ends = np.cumsum([len(labels) for _, labels in examples.values()])
  parts = np.split(features, ends[:-1])
  return {
      name: heads.linear_probe(
          part,
          labels,
          num_classes=num_classes[name],
          regularization=regularization,
      )
      for (name, (_, labels)), part in zip(examples.items(), parts, strict=True)
  }
