"""The base model theta_0 of the packaged setting: pretrained on glyphs.

An encoder and a throw-away linear head learn to name rendered glyphs
(tasks/glyphs.py) by AdamW with a warm-up and a cosine; the head is dropped.
One epoch is one compiled `scan` over a seeded permutation.

The result is kept (experiments/cache.py) under a name made of all that it
depends on: the module, the numbers, the seed, the versions of JAX, Flax and
Optax, the kind of device, and the text of the files that draw, model and train.
A second run starts at once; a change of any of them trains anew.

Cost: a pass over `num_images` an epoch, and the images in memory as float32.
"""

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib
from typing import Any

import flax
from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from taskvec_jax.experiments import cache
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.models import vit
from taskvec_jax.tasks import glyphs
from taskvec_jax.tasks import preprocessing
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params

_WEIGHT_DECAY = 1e-4
_WARMUP = 0.1  # share of the steps


def pretrain(
    module: nn.Module,
    *,
    seed: int,
    num_images: int,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    image_size: int = 28,
    num_channels: int = 1,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Params:
  """Returns base parameters, from the cache if they were made before.

  Args:
    module: the encoder.
    seed: of the initial parameters, the glyphs and their order.
    num_images: glyphs drawn once, seen every epoch.
    num_epochs: passes over them; 0 gives the initial parameters.
    batch_size: images a step; what is left over at an epoch's end is dropped.
    learning_rate: AdamW's at its peak.
    image_size: side of the encoder's input in pixels.
    num_channels: 1 for grey, 3 for colour.
    cache_dir: the cache folder; None for the default.

  Raises:
    ValueError: if a number makes no sense.
    FloatingPointError: if the loss became NaN or infinite.
  """
  if not 1 <= batch_size <= num_images:
    raise ValueError(
        f'Pretraining needs batches of 1 to num_images = {num_images} images,'
        f' but batch_size is {batch_size}.'
    )
  if num_epochs < 0 or not learning_rate > 0:
    raise ValueError(
        'Pretraining needs a number of epochs and a positive learning rate,'
        f' but has {num_epochs} and {learning_rate}.'
    )
  numbers: dict[str, Any] = dict(
      seed=seed,
      num_images=num_images,
      num_epochs=num_epochs,
      batch_size=batch_size,
      learning_rate=learning_rate,
      image_size=image_size,
      num_channels=num_channels,
  )
  path = _cache_path(module, numbers, cache_dir)
  params = _load(path)
  if params is None:
    params = _train(module, **numbers)
    _save(path, params)
  return params


def _train(
    module: nn.Module,
    *,
    seed: int,
    num_images: int,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    image_size: int,
    num_channels: int,
) -> Params:
  """Trains the encoder and a throw-away head; returns the encoder's part."""
  if not num_epochs:  # kept all the same: drawing a ViT-B/32 takes 2 s
    inputs = jnp.zeros((1, image_size, image_size, num_channels))
    return _initial_encoder(module, jax.random.key(seed), inputs)
  examples = glyphs.glyphs(seed, num_images=num_images, image_size=image_size)
  labels = jnp.asarray(examples.labels)
  inputs = jnp.asarray(
      preprocessing.preprocess(
          examples.images, image_size=image_size, num_channels=num_channels
      )
  )
  num_batches = num_images // batch_size
  num_steps = num_epochs * num_batches
  schedule = optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, max(1, int(_WARMUP * num_steps)), max(2, num_steps)
  )
  optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
  epoch_fn = _epoch_fn(module, optimizer)

  params = _initial(module, jax.random.key(seed), inputs[:1])
  opt_state = optimizer.init(params)
  rng = np.random.default_rng(seed)
  progress = tqdm.tqdm(
      range(num_epochs), desc=f'pretraining, seed {seed}', disable=None
  )
  for epoch_index in progress:
    order = rng.permutation(num_images)[: num_batches * batch_size]
    order = order.reshape(num_batches, batch_size)
    params, opt_state, loss, accuracy = epoch_fn(
        params, opt_state, inputs, labels, order
    )
    if not np.isfinite(loss):
      raise FloatingPointError(
          f'The pretraining loss became {loss} in epoch {epoch_index + 1};'
          f' lower the learning rate of {learning_rate}.'
      )
    progress.set_postfix(loss=f'{loss:.2f}', accuracy=f'{accuracy:.3f}')
  return params['encoder']


def _initial(module: nn.Module, key: Array, inputs: Array) -> Params:
  """Returns fresh parameters `{'encoder', 'head'}`."""
  encoder = _initial_encoder(module, key, inputs)
  features = jax.eval_shape(
      functools.partial(encoders.encode, module), encoder, inputs
  )
  num_features, num_classes = features.shape[-1], glyphs.num_classes()
  kernel = jax.random.normal(
      jax.random.split(key)[1], (num_features, num_classes)
  )
  head = heads.Head(kernel / num_features**0.5, jnp.zeros(num_classes))
  return {'encoder': encoder, 'head': head}


def _initial_encoder(module: nn.Module, key: Array, inputs: Array) -> Params:
  return encoders.init(module, jax.random.split(key)[0], inputs)


def _epoch_fn(
    module: nn.Module, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, optax.OptState, Array, Array]]:
  """Returns one epoch, `(params, state, inputs, labels, order [J, B]) -> ...`.

  What it returns are the parameters and the optimizer's state after the epoch,
  and the mean loss and accuracy of the batches before their steps. The images
  are an argument: as constants they would be compiled in.
  """

  def loss(params, inputs, labels):
    features = encoders.encode(module, params['encoder'], inputs)
    logits = heads.logits(params['head'], features)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, labels
    )
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=1) == labels)

  @jax.jit
  def epoch(params, opt_state, inputs, labels, order):
    def step(carry, indices):
      params, opt_state = carry
      measured, grad = jax.value_and_grad(loss, has_aux=True)(
          params, inputs[indices], labels[indices]
      )
      updates, opt_state = optimizer.update(grad, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), measured

    carry, measured = jax.lax.scan(step, (params, opt_state), order)
    return (*carry, *jax.tree.map(jnp.mean, measured))

  return epoch


def _cache_path(
    module: nn.Module,
    numbers: dict[str, Any],
    cache_dir: str | os.PathLike[str] | None,
) -> pathlib.Path:
  """Returns the file whose name says all that the parameters depend on."""
  sources = [
      pathlib.Path(file).read_text(encoding='utf-8')
      for file in (
          ffn.__file__,
          glyphs.__file__,
          preprocessing.__file__,
          vit.__file__,
          __file__,
      )
  ]
  versions = [jax.__version__, flax.__version__, optax.__version__]
  text = repr((module, numbers, versions, jax.default_backend(), sources))
  digest = hashlib.sha256(text.encode()).hexdigest()[:24]
  return cache.cache_folder(cache_dir) / f'pretrained_{digest}.npz'


def _load(path: pathlib.Path) -> Params | None:
  """Returns the parameters in `path`; None if there are none to be read."""
  flat = cache.load(path)
  if flat is None:
    return None
  flat = {name: jnp.asarray(array) for name, array in flat.items()}
  return traverse_util.unflatten_dict(flat, sep='/')


def _save(path: pathlib.Path, params: Params) -> None:
  """Keeps the parameters."""
  flat = traverse_util.flatten_dict(params, sep='/')
  cache.save(path, {name: np.asarray(leaf) for name, leaf in flat.items()})
