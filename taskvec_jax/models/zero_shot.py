"""A head without training: CLIP's text embeddings of a task's classes.

  w_c = mean_p [ f(prompt_p(class c)) / |f(...)| ]
  kernel[:, c] = exp(logit_scale) w_c / |w_c|,     bias = 0

with f the text tower and prompt_p a template, 'a photo of a {}.', filled with
the class's name. Image features of length 1 (`vit.ViT(normalize=True)`) times
this kernel are CLIP's logits. The head stays frozen while the vision tower is
finetuned.

Prompts go through the tower in batches of one shape, the last one filled up,
and no longer than their longest, rounded up to a multiple of 16: the tower is
causal, so what stands after the end token changes nothing.

Shapes: C classes, P templates, D features.

Cost: C P passes of the text tower; SUN397, of 794 prompts, took 26 s with
ViT-B/32's tower on 2 cores that others used too, and compiling 6 s.

Source: Radford et al., arXiv:2103.00020; that the head is frozen, Ilharco et
al., "Patching open-vocabulary models by interpolating weights",
arXiv:2208.05592.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.models import tokenizer as tokenizer_lib
from taskvec_jax.typing import Params

_LENGTHS = 16  # tokens; texts are cut to a multiple

_encode = jax.jit(encoders.encode, static_argnums=0)


def zero_shot_head(
    module: clip_text.TextTransformer,
    params: Params,
    tokenizer: tokenizer_lib.Tokenizer,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    logit_scale: float,
    batch_size: int = 64,
) -> heads.Head:
  """Returns the head `[D, C]` of a task's class names.

  Args:
    module: the text tower.
    params: its parameters.
    tokenizer: of the same checkpoint.
    class_names: C of them, in the order of the labels.
    templates: P of them; each '{}' is replaced by a class name.
    logit_scale: the logarithm of what logits are multiplied by, as stored in
      checkpoints.
    batch_size: prompts at once.

  Raises:
    ValueError: if tokenizer and tower do not fit, a name or template is
      missing or empty, or a number makes no sense.
    FloatingPointError: if a class gets no finite embedding.
  """
  tokenizer_lib.check_fits(
      tokenizer, vocab_size=module.vocab_size, end_token=module.end_token
  )
  texts = prompts(class_names, templates)
  if not math.isfinite(logit_scale):
    raise ValueError(f'logit_scale is {logit_scale}, but must be finite.')
  features = text_features(
      module,
      params,
      tokenizer_lib.tokenize(tokenizer, texts, length=module.max_length),
      batch_size=batch_size,
  )
  embeddings = features.reshape((len(class_names), len(templates), -1))
  # In float64 on the host, where it costs nothing.
  means = _unit(embeddings.astype(np.float64)).mean(1)
  kernel = math.exp(logit_scale) * _unit(means).T
  for name, column in zip(class_names, kernel.T, strict=True):
    if not np.isfinite(column).all():
      raise FloatingPointError(
          f'The zero-shot embedding of the class {name!r} is not finite; check'
          " the text tower's parameters."
      )
  return heads.Head(
      jnp.asarray(kernel, features.dtype),
      jnp.zeros(len(class_names), features.dtype),
  )


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """Returns the C P prompts, all templates of a class side by side.

  Raises:
    ValueError: if there is no name or template, a name is empty, or a template
      has no place for it.
  """
  if not class_names or not templates:
    raise ValueError(
        f'Zero-shot prompts need class names and templates, but there are'
        f' {len(class_names)} and {len(templates)}.'
    )
  for label, name in enumerate(class_names):
    if not name.strip():
      raise ValueError(
          f'The name of class {label} of {len(class_names)} is {name!r}, but'
          ' a prompt needs a word.'
      )
  for template in templates:
    if '{}' not in template:
      raise ValueError(
          f'The template {template!r} has no place for a class name, which is'
          " written '{}'."
      )
  return [
      template.replace('{}', name)
      for name in class_names
      for template in templates
  ]


def text_features(
    module: clip_text.TextTransformer,
    params: Params,
    tokens: np.ndarray,
    *,
    batch_size: int = 64,
) -> np.ndarray:
  """Returns the tower's features `[n, D]` of `tokens`, int32 `[n, L]`.

  Raises:
    ValueError: if `batch_size` is below 1.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}, but must be at least 1.')
  ends = np.asarray(clip_text.end_positions(tokens, module.end_token))
  longest = int(ends.max()) + 1
  tokens = tokens[:, : -(-longest // _LENGTHS) * _LENGTHS]
  missing = -len(tokens) % batch_size
  # Filled up with the last text again, so that every batch has one shape.
  padded = np.concatenate([tokens, np.repeat(tokens[-1:], missing, axis=0)])
  features = [
      np.asarray(_encode(module, params, batch))
      for batch in np.split(padded, len(padded) // batch_size)
  ]
  return np.concatenate(features)[: len(tokens)]


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors of length 1, along the last axis."""
  # A vector of zeros becomes NaN, which the caller names.
  with np.errstate(invalid='ignore'):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
