"""The zero-shot heads of a run's tasks, from the cache if they were made.

A head (models/zero_shot.py) depends on the text tower and its parameters, the
tokenizer, the task's class names and templates, and logit_scale. Its file in
the cache folder (experiments/cache.py) is named by a digest of all of them, of
the text of the files that compute it, and of the versions of JAX and Flax: a
change of any makes it anew, and a run whose heads are all there does not run
the text tower.

Cost: one digest of the text tower's parameters (under 1 s for ViT-B/32's 63
million), and a pass of the tower for each prompt of a task without a head.
"""

from collections.abc import Mapping
import hashlib
import os
import pathlib

import flax
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import cache
from taskvec_jax.models import clip_text
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.models import tokenizer as tokenizer_lib
from taskvec_jax.models import vit
from taskvec_jax.models import zero_shot
from taskvec_jax.tasks import benchmarks
from taskvec_jax.typing import Params


def zero_shot_heads(
    module: clip_text.TextTransformer,
    params: Params,
    tokenizer: tokenizer_lib.Tokenizer,
    prompts: Mapping[str, benchmarks.Prompts],
    *,
    logit_scale: float,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, heads.Head]:
  """Returns the head of each task.

  Args:
    module: the text tower.
    params: its parameters.
    tokenizer: of the same checkpoint.
    prompts: task name to class names, in the order of the task's labels, and
      templates (`benchmarks.task_prompts`).
    logit_scale: the logarithm of what logits are multiplied by.
    cache_dir: the cache folder; None for the default.

  Raises:
    ValueError: if tokenizer and tower do not fit, or prompts make no sense;
      the sentence names the task.
    FloatingPointError: if a class gets no finite embedding.
  """
  tokenizer_lib.check_fits(
      tokenizer, vocab_size=module.vocab_size, end_token=module.end_token
  )
  shared = _digest_of_tower(module, params, tokenizer)
  found = {}
  for task, (class_names, templates) in prompts.items():
    text = repr((shared, class_names, templates, float(logit_scale)))
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = cache.cache_folder(cache_dir) / f'zero_shot_{task}_{digest}.npz'
    arrays = cache.load(path)
    if arrays is None or set(arrays) != set(heads.Head._fields):
      try:
        head = zero_shot.zero_shot_head(
            module,
            params,
            tokenizer,
            class_names,
            templates,
            logit_scale=logit_scale,
        )
      except ValueError as error:
        raise ValueError(f'Zero-shot head of {task!r}: {error}') from error
      arrays = {name: np.asarray(x) for name, x in head._asdict().items()}
      cache.save(path, arrays)
    found[task] = heads.Head(**{k: jnp.asarray(v) for k, v in arrays.items()})
  return found


def _digest_of_tower(
    module: clip_text.TextTransformer,
    params: Params,
    tokenizer: tokenizer_lib.Tokenizer,
) -> str:
  """Returns a digest of what the heads of all tasks depend on."""
  files = (clip_text, ffn, tokenizer_lib, vit, zero_shot)
  sources = [
      pathlib.Path(file.__file__ or '').read_text(encoding='utf-8')
      for file in files
  ]
  versions = [jax.__version__, flax.__version__, jax.default_backend()]
  text = repr((module, tokenizer.digest, versions, sources))
  digest = hashlib.blake2b(text.encode(), digest_size=24)
  for name, leaf in sorted(traverse_util.flatten_dict(params, sep='/').items()):
    array = np.ascontiguousarray(leaf)
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()
