"""Feed-forward encoders: the networks that theory.md can bound in closed form.

  z_l = W_l h_{l-1} + b_l,   h_l = phi(z_l),   h_0 = the flattened image,

with the activation after EVERY layer, the last one included: the encoder ends
in features h_L, and a frozen linear head (models/heads.py) turns them into
logits. In theory.md's section 4 the head is the last layer, with no activation
behind it and not trained.

`ACTIVATIONS` holds only functions with a bounded second derivative: the
Hessian of the loss, and with it the second-order term, has to exist. ReLU has
no second derivative at 0, so it is refused.

Shapes: N examples, n_l units in layer l. Kernels are `[n_{l-1}, n_l]`, so that
`W_l` of the text is `kernel.T`. One pass costs 2 N sum_l n_{l-1} n_l
floating-point operations.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082, whose
theory is for these networks.
"""

from collections.abc import Callable
import re
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from taskvec_jax.models import heads
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

# Every name has a row in theory.md's table of |phi'|, |phi''| and sup |phi|.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'identity': lambda z: z,
    'tanh': jnp.tanh,
    'sigmoid': jax.nn.sigmoid,
    'softplus': jax.nn.softplus,
    'gelu': lambda z: jax.nn.gelu(z, approximate=False),
    'silu': jax.nn.silu,
    'quick_gelu': lambda z: z * jax.nn.sigmoid(1.702 * z),
    'gelu_tanh': lambda z: jax.nn.gelu(z, approximate=True),
}


class Layer(NamedTuple):
  """One linear map of a network, as theory.md's bounds (4.3) read it."""

  kernel: Array  # [n_in, n_out]
  bias: Array | None  # [n_out]
  trained: bool  # False for a frozen head: it has no direction of its own


class FFN(nn.Module):
  """A feed-forward encoder, `[N, ...] -> [N, widths[-1]]`.

  Its parameters are `{'layer_0': {'kernel', 'bias'}, 'layer_1': ...}`.

  Attributes:
    widths: units of each layer, the first hidden layer first; the last is the
      dimension of the features.
    activation: a name in `ACTIVATIONS`, applied after every layer.
    use_bias: whether layers have biases.
    pixel_mean: of images in 0 .. 1, one number or one a channel.
    pixel_std: what they are divided by then.
  """

  widths: tuple[int, ...]
  activation: str = 'tanh'
  use_bias: bool = True
  pixel_mean: tuple[float, ...] = (0.5,)
  pixel_std: tuple[float, ...] = (0.5,)

  def __post_init__(self):
    """Refuses a network whose second derivatives do not exist."""
    check_activation(self.activation)
    if not self.widths or min(self.widths) < 1:
      raise ValueError(
          f'An FFN needs at least one layer of at least one unit, but widths is'
          f' {self.widths}.'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Returns features `[N, widths[-1]]` of `inputs [N, ...]`, flattened."""
    hidden = inputs.reshape((inputs.shape[0], -1))
    for index, width in enumerate(self.widths):
      dense = nn.Dense(width, use_bias=self.use_bias, name=f'layer_{index}')
      hidden = ACTIVATIONS[self.activation](dense(hidden))
    return hidden


def check_activation(activation: str) -> None:
  """Raises a ValueError unless `activation` is a name in `ACTIVATIONS`."""
  if activation in ACTIVATIONS:
    return
  known = ', '.join(ACTIVATIONS)
  if 'relu' in activation.lower():
    raise ValueError(
        f"Activation '{activation}' has no second derivative at 0, so the"
        ' second-order term and its bounds do not exist; choose one of'
        f' {known}.'
    )
  raise ValueError(f"Unknown activation '{activation}'; choose one of {known}.")


def layers(params: Params, head: heads.Head) -> tuple[Layer, ...]:
  """Returns the network as linear maps, first layer first, the head last.

  Args:
    params: parameters of an `FFN`, `{'layer_0': {'kernel', ...}, ...}`.
    head: the frozen head, `[n_L, C]`.

  Raises:
    ValueError: if `params` are not those of an `FFN`, or the head does not fit.
  """
  misplaced = [k for k in params if not re.fullmatch(r'layer_\d+', k)]
  if misplaced or not params:
    raise ValueError(
        'Parameters of an FFN are named layer_0, layer_1, ..., but these have'
        f' {sorted(params)}.'
    )
  # By number, not by name: as text, layer_10 comes before layer_2.
  names = sorted(params, key=lambda name: int(name.removeprefix('layer_')))
  encoder = tuple(
      Layer(params[name]['kernel'], params[name].get('bias'), trained=True)
      for name in names
  )
  heads.check_fits(head, num_features=encoder[-1].kernel.shape[-1])
  return (*encoder, Layer(head.kernel, head.bias, trained=False))
