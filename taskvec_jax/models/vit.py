"""Vision transformer of CLIP's shape, from tiny to ViT-L/14 by numbers alone.

  h = LN_pre([class token; patches W] + positions)
  h = h + attention(LN(h)),   h = h + MLP(LN(h))            `depth` times
  features = LN_post(h at the class token) P                P only if asked for
  features = features / |features|                          only if asked for

Patches have no bias, layers do; the activation is quick-GELU, x sigmoid(1.702
x), as in CLIP's published weights, or GELU. Parameters carry plain names, one
kernel `[n_in, n_out]` a linear map, so that weights published elsewhere can be
mapped onto them:

  {'patch_embedding': {'kernel' [p, p, C, d]}, 'class_token' [d],
   'position_embedding' [1 + patches, d], 'ln_pre', 'block_0': {'ln_1',
   'attention': {'query', 'key', 'value', 'out'}, 'ln_2', 'mlp': {'in', 'out'}},
   ..., 'ln_post', 'projection': {'kernel' [d, D]}}

The patch convolution is a product of flattened patches with the kernel, and
attention is plain products and a softmax, so derivatives of every order and
mode exist and run as matrix products.

Shapes: N images of H x W x C, L = 1 + H W / p^2 tokens, width d. A pass costs
about N L depth (8 d^2 + 4 d mlp_width + 4 L d) floating-point operations.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929;
Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", arXiv:2103.00020.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from taskvec_jax.models import ffn
from taskvec_jax.typing import Array

EPSILON = 1e-5  # of every layer norm
ACTIVATIONS = ('quick_gelu', 'gelu')


class ViT(nn.Module):
  """A vision transformer, `[N, H, W, C] -> [N, projection or width]`.

  The side of the images is fixed by the first call, `encoders.init`.

  Attributes:
    patch_size: p, side of a patch in pixels.
    width: d, size of a token.
    depth: number of blocks.
    num_heads: heads of the attention, a divisor of `width`.
    mlp_width: hidden units of a block's MLP, often 4 d.
    projection: D, size of the features after a last product; None for no such
      product and features of size d.
    activation: 'quick_gelu' or 'gelu'.
    normalize: whether features have length 1, as a zero-shot head reads them.
    pixel_mean: of images in 0 .. 1, one number or one a channel.
    pixel_std: what they are divided by then.
  """

  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_width: int
  projection: int | None = None
  activation: str = 'quick_gelu'
  normalize: bool = False
  pixel_mean: tuple[float, ...] = (0.5,)
  pixel_std: tuple[float, ...] = (0.5,)

  def __post_init__(self):
    """Refuses sizes that do not fit together."""
    sizes = (self.patch_size, self.width, self.num_heads, self.mlp_width)
    if min(sizes) < 1 or self.depth < 0 or self.projection == 0:
      raise ValueError(
          'A ViT needs positive sizes, but patch_size, width, num_heads,'
          f' mlp_width are {sizes}, depth is {self.depth} and projection is'
          f' {self.projection}.'
      )
    if self.width % self.num_heads:
      raise ValueError(
          f'A width of {self.width} cannot be divided among'
          f' {self.num_heads} heads; make it a multiple.'
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
          f"A ViT's activation is one of {', '.join(ACTIVATIONS)}, not"
          f" '{self.activation}'."
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Returns features `[N, projection or width]` of `inputs [N, H, W, C]`.

    Raises:
      ValueError: if the images are not whole patches, or not as many as the
        parameters have positions for.
    """
    patches = _patches(inputs, self.patch_size)
    num_tokens = 1 + patches.shape[1]
    if not self.is_initializing():
      positions = self.get_variable('params', 'position_embedding')
      if positions is not None and len(positions) != num_tokens:
        raise ValueError(
            f'The parameters have positions for {len(positions) - 1} patches'
            f' but images of {inputs.shape[1]} x {inputs.shape[2]} have'
            f' {num_tokens - 1}; resize the images.'
        )
    hidden = PatchEmbedding(
        self.patch_size, self.width, name='patch_embedding'
    )(patches)
    # Deviations as in CLIP: tokens start at the size of the patches.
    init = nn.initializers.normal(self.width**-0.5)
    class_token = self.param('class_token', init, (self.width,))
    class_token = jnp.broadcast_to(class_token, (len(inputs), 1, self.width))
    positions = self.param('position_embedding', init, (num_tokens, self.width))
    hidden = jnp.concatenate([class_token, hidden], axis=1) + positions[None]
    hidden = _layer_norm('ln_pre')(hidden)
    for index in range(self.depth):
      hidden = Block(
          self.num_heads,
          self.mlp_width,
          self.activation,
          # Nothing reads the other tokens that the last block would make.
          first_only=index == self.depth - 1,
          name=f'block_{index}',
      )(hidden)
    features = _layer_norm('ln_post')(hidden[:, 0])
    if self.projection is not None:
      features = nn.Dense(self.projection, use_bias=False, name='projection')(
          features
      )
    if self.normalize:
      length = jnp.linalg.norm(features, axis=-1, keepdims=True)
      features = features / length
    return features


class PatchEmbedding(nn.Module):
  """A convolution without bias, `[N, L - 1, p p C] -> [N, L - 1, d]`."""

  patch_size: int
  width: int

  @nn.compact
  def __call__(self, patches: Array) -> Array:
    """Returns tokens `[N, L - 1, d]`; the kernel is a convolution's."""
    num_channels = patches.shape[-1] // self.patch_size**2
    kernel = self.param(
        'kernel',
        nn.initializers.lecun_normal(),
        (self.patch_size, self.patch_size, num_channels, self.width),
    )
    return patches @ kernel.reshape((-1, self.width))


class Block(nn.Module):
  """A pre-norm transformer block, `[N, L, d] -> [N, L, d]`.

  Attributes:
    num_heads: heads of the attention.
    mlp_width: hidden units of the MLP.
    activation: of the MLP.
    causal: whether a token sees only itself and those before.
    first_only: whether only the first token is returned, `[N, 1, d]`; it still
      sees all of them.
  """

  num_heads: int
  mlp_width: int
  activation: str
  causal: bool = False
  first_only: bool = False

  @nn.compact
  def __call__(self, hidden: Array) -> Array:
    """Returns the tokens after attention and MLP, each with its residual."""
    num, length, width = hidden.shape
    num_queries = 1 if self.first_only else length
    residual = hidden[:, :num_queries].reshape((-1, width))
    # Tokens are rows of one matrix from here on. Of `[N, L, d]` XLA makes the
    # same products, but its fusions on a CPU then compute the gradient of the
    # residual stream anew from the last block on, for every product.
    normed = _layer_norm('ln_1')(hidden.reshape((-1, width)))
    attention = Attention(self.num_heads, self.causal, name='attention')
    mixed = attention(normed.reshape((num, length, width)), num_queries)
    residual = residual + mixed
    mlp = MLP(self.mlp_width, self.activation, name='mlp')
    residual = residual + mlp(_layer_norm('ln_2')(residual))
    return residual.reshape((num, num_queries, width))


class Attention(nn.Module):
  """Multi-head self-attention, masked only if causal, `[N, L, d]` to rows."""

  num_heads: int
  causal: bool = False

  @nn.compact
  def __call__(self, hidden: Array, num_queries: int) -> Array:
    """Returns softmax(q k' / sqrt(d / heads)) v, heads side by side, mixed.

    Args:
      hidden: `[N, L, d]`.
      num_queries: how many tokens ask, the first ones of each example.

    Returns:
      `[N num_queries, d]`, the tokens of the first example first.
    """
    num, length, width = hidden.shape
    rows = hidden.reshape((-1, width))
    asking = hidden[:, :num_queries].reshape((-1, width))
    per_head = (num, -1, self.num_heads, width // self.num_heads)
    query = nn.Dense(width, name='query')(asking).reshape(per_head)
    key = Keys(width, name='key')(rows).reshape(per_head)
    value = nn.Dense(width, name='value')(rows).reshape(per_head)
    query = query * (width // self.num_heads) ** -0.5
    logits = jnp.einsum('nqhd,nkhd->nhqk', query, key)
    if self.causal:
      seen = jnp.tri(num_queries, length, dtype=bool)[None, None]
      logits = jnp.where(seen, logits, -jnp.inf)
    weights = jax.nn.softmax(logits)
    mixed = jnp.einsum('nhqk,nkhd->nqhd', weights, value)
    return nn.Dense(width, name='out')(mixed.reshape((-1, width)))


class Keys(nn.Module):
  """The keys' product, `[M, d] -> [M, d]`, which keeps its bias out.

  A bias of the keys adds the same number, q b, to a whole row of attention's
  logits, and softmax does not see it. Published weights have one, so it is a
  parameter; added, it would only bring rounding noise, in place of its exact
  gradient, zero.
  """

  width: int

  @nn.compact
  def __call__(self, hidden: Array) -> Array:
    """Returns hidden W; the bias `[d]` is there and has no effect."""
    kernel = self.param(
        'kernel',
        nn.initializers.lecun_normal(),
        (hidden.shape[-1], self.width),
    )
    self.param('bias', nn.initializers.zeros, (self.width,))
    return hidden @ kernel


class MLP(nn.Module):
  """Two layers with an activation between them, `[M, d] -> [M, d]`."""

  mlp_width: int
  activation: str

  @nn.compact
  def __call__(self, hidden: Array) -> Array:
    """Returns out(phi(in(hidden)))."""
    width = hidden.shape[-1]
    hidden = nn.Dense(self.mlp_width, name='in')(hidden)
    hidden = ffn.ACTIVATIONS[self.activation](hidden)
    return nn.Dense(width, name='out')(hidden)


def _layer_norm(name: str) -> nn.LayerNorm:
  # The fast variance, E[x^2] - E[x]^2, loses digits that gradients need.
  return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


def _patches(inputs: Array, patch_size: int) -> Array:
  """Returns patches `[N, H W / p^2, p p C]`, row by row."""
  num, height, width, channels = inputs.shape
  if height % patch_size or width % patch_size:
    raise ValueError(
        f'Images of {height} x {width} pixels cannot be cut into patches of'
        f' {patch_size} x {patch_size}; choose an image size that is a'
        ' multiple.'
    )
  rows, columns = height // patch_size, width // patch_size
  grid = inputs.reshape((num, rows, patch_size, columns, patch_size, channels))
  return grid.transpose((0, 1, 3, 2, 4, 5)).reshape((num, rows * columns, -1))
