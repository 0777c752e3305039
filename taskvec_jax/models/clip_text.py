"""CLIP's text transformer: token ids in, one embedding a text out.

  h = E[tokens] + positions
  h = h + attention(LN(h)),   h = h + MLP(LN(h))            `depth` times
  features = LN_final(h at the end-of-text token) P

Attention is causal: a token sees itself and those before it. What stands after
the end-of-text token, the padding, therefore never reaches the features, and
texts may be cut to any length that holds their end-of-text token.

The end-of-text token is found in one of two ways, as in published code: with
`end_token` None, at the first of the largest ids (right where it is the last of
the vocabulary, as in CLIP's own), else at the first id equal to `end_token`.
`zero_shot` checks that the tokenizer agrees.

Blocks are those of `vit`, and so are their parameters' names:

  {'token_embedding' [V, d], 'position_embedding' [max_length, d], 'block_0',
   ..., 'ln_final', 'projection': {'kernel' [d, D]}}

Shapes: N texts of L tokens, vocabulary V, width d. A pass costs about
N L depth (8 d^2 + 4 d mlp_width + 4 L d) floating-point operations.

Source: Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", arXiv:2103.00020.
"""

from flax import linen as nn
import jax.numpy as jnp

from taskvec_jax.models import vit
from taskvec_jax.typing import Array


class TextTransformer(nn.Module):
  """A causal text transformer, int `[N, L] -> [N, projection]`.

  Attributes:
    vocab_size: V, number of token ids.
    width: d, size of a token's embedding.
    depth: number of blocks.
    num_heads: heads of the attention, a divisor of `width`.
    mlp_width: hidden units of a block's MLP, often 4 d.
    projection: D, size of the features.
    max_length: number of positions; 77 in CLIP.
    activation: 'quick_gelu' or 'gelu'.
    end_token: id at whose first place the features are read; None for the
      largest id of each text.
  """

  vocab_size: int
  width: int
  depth: int
  num_heads: int
  mlp_width: int
  projection: int
  max_length: int = 77
  activation: str = 'quick_gelu'
  end_token: int | None = None

  def __post_init__(self):
    """Refuses sizes that do not fit together."""
    sizes = (
        self.vocab_size,
        self.width,
        self.num_heads,
        self.mlp_width,
        self.projection,
        self.max_length,
    )
    if min(sizes) < 1 or self.depth < 0:
      raise ValueError(
          'A text transformer needs positive sizes, but vocab_size, width,'
          f' num_heads, mlp_width, projection, max_length are {sizes} and depth'
          f' is {self.depth}.'
      )
    if self.width % self.num_heads:
      raise ValueError(
          f'A width of {self.width} cannot be divided among'
          f' {self.num_heads} heads; make it a multiple.'
      )
    if self.activation not in vit.ACTIVATIONS:
      raise ValueError(
          "A text transformer's activation is one of"
          f" {', '.join(vit.ACTIVATIONS)}, not '{self.activation}'."
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    """Returns features `[N, projection]` of `tokens`, int `[N, L]`.

    Ids are not checked against the vocabulary: traced code cannot.

    Raises:
      ValueError: if there are more tokens than positions.
    """
    length = tokens.shape[1]
    if length > self.max_length:
      raise ValueError(
          f'Texts have {length} tokens but there are {self.max_length}'
          ' positions; cut them.'
      )
    embedding = self.param(
        'token_embedding',
        nn.initializers.normal(0.02),
        (self.vocab_size, self.width),
    )
    positions = self.param(
        'position_embedding',
        nn.initializers.normal(0.01),
        (self.max_length, self.width),
    )
    hidden = embedding[tokens] + positions[None, :length]
    for index in range(self.depth):
      hidden = vit.Block(
          self.num_heads,
          self.mlp_width,
          self.activation,
          causal=True,
          name=f'block_{index}',
      )(hidden)
    # Every token is normed on its own, so only the one that is read need be.
    last = jnp.take_along_axis(
        hidden, end_positions(tokens, self.end_token)[:, None, None], axis=1
    )[:, 0]
    # The fast variance, E[x^2] - E[x]^2, loses digits.
    last = nn.LayerNorm(
        epsilon=vit.EPSILON, use_fast_variance=False, name='ln_final'
    )(last)
    return nn.Dense(self.projection, use_bias=False, name='projection')(last)


def end_positions(tokens: Array, end_token: int | None) -> Array:
  """Returns int `[N]`, where in each of `tokens [N, L]` its features are read.

  Args:
    tokens: ids.
    end_token: the first place of this id, 0 if it is missing; None for the
      first place of the largest id.
  """
  if end_token is None:
    return jnp.argmax(tokens, axis=1)
  return jnp.argmax(tokens == end_token, axis=1)
