"""Published CLIP weights in a run: the base model, its heads, others' models.

The vision tower is theta_0; the text tower makes one frozen head a task from
class names and prompts. Models that others finetuned from the same base stand
in the place of runs of one's own, and merged models go back into the layout
that the weights came in.
"""

from collections.abc import Collection
from collections.abc import Mapping
import pathlib

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import zero_shot_heads
from taskvec_jax.models import clip_source
from taskvec_jax.models import clip_text
from taskvec_jax.models import heads as heads_lib
from taskvec_jax.models import hub
from taskvec_jax.models import pretrained
from taskvec_jax.models import tokenizer
from taskvec_jax.models import vit
from taskvec_jax.tasks import benchmarks
from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Params


def base(config: config_lib.Config) -> pretrained.Pretrained | None:
  """Returns the weights that a config names; None if it names none.

  Raises:
    ValueError: they are not there, damaged, or not of the config's model or
      images; no text tower or tokenizer is there, or it does not fit them.
  """
  published = config.published
  if not published.weights:
    return None
  path = hub.fetch(published.weights)
  weights = pretrained.read(path, module=_module(config))
  for name in ('image_size', 'num_channels'):
    found, wanted = getattr(weights.source.vision, name), getattr(config, name)
    if found != wanted:
      raise ValueError(
          f'{path} is for images with {name} {found}, but config.{name} is'
          f' {wanted}; set it to {found}, or name weights for {wanted}.'
      )
  text_source, _, _ = _text_tower(published, weights, config.model.activation)
  if published.text_weights:
    pretrained.read(text_source.path)  # a NaN is in no header
  return weights


def _module(config: config_lib.Config) -> vit.ViT:
  module = config_lib.module(config)
  assert isinstance(module, vit.ViT)  # config.check has seen to it
  return module


def check(
    config: config_lib.Config,
    weights: pretrained.Pretrained | None,
) -> None:
  """Raises a ValueError for finetuned weights that would end a run later.

  It needs no images, whose decoding takes longest, and holds one task's weights
  at a time.

  Args:
    config: checked.
    weights: the base; None: nothing is published.
  """
  if weights is None:
    return
  # What a path is called is known once it is loaded.
  if not any(':' in spec for spec in config.tasks):
    check_tasks(config, config.tasks)
  for path in _finetuned_paths(config).values():
    pretrained.read_finetuned(path, weights, module=_module(config))


def check_tasks(config: config_lib.Config, names: Collection[str]) -> None:
  """Raises a ValueError unless each task of a run has finetuned weights.

  Args:
    config: checked; if it names no finetuned weights, all is well.
    names: of the tasks.
  """
  found = config.published.finetuned
  paths = config_lib.pairs('published.finetuned', found)
  if found and set(paths) != set(names):
    raise ValueError(
        'config.published.finetuned has weights for'
        f' {", ".join(sorted(paths))}, but the tasks are'
        f' {", ".join(sorted(names))}; name one for each.'
    )


def heads(
    published: config_lib.Published,
    weights: pretrained.Pretrained,
    tasks: Mapping[str, task_lib.Task],
    *,
    activation: str,
) -> dict[str, heads_lib.Head]:
  """Returns each task's zero-shot head.

  Args:
    published: the names of the weights.
    weights: the base.
    tasks: give the class names.
    activation: of the text tower where no config beside the weights says it;
      the vision tower's.

  Raises:
    ValueError: there is no text tower or tokenizer, or they do not fit.
  """
  source, module, bpe = _text_tower(published, weights, activation)
  if published.text_weights:
    weights = pretrained.read(source.path)
  assert weights.text is not None and weights.logit_scale is not None
  return zero_shot_heads.zero_shot_heads(
      module,
      weights.text,
      bpe,
      {name: benchmarks.task_prompts(task) for name, task in tasks.items()},
      logit_scale=weights.logit_scale,
  )


def _text_tower(
    published: config_lib.Published,
    weights: pretrained.Pretrained,
    activation: str,
) -> tuple[clip_source.Source, clip_text.TextTransformer, tokenizer.Tokenizer]:
  """Returns where the text tower is, the tower, and its tokenizer."""
  path = hub.fetch(published.text_weights or published.weights)
  source = weights.source
  if published.text_weights:
    source = pretrained.open_weights(path)
  if source.text is None:
    raise ValueError(
        f'{path} holds no text tower, which zero-shot heads are made of; name a'
        ' whole CLIP as config.published.text_weights.'
    )
  if source.text.projection != weights.source.vision.projection:
    raise ValueError(
        f'The text tower of {path} gives embeddings of {source.text.projection}'
        f' numbers, but the vision tower of {weights.source.path} gives'
        f' {weights.source.vision.projection}; name two towers of one CLIP.'
    )
  module = pretrained.text_module(source, activation=activation)
  folder = path if path.is_dir() else path.parent
  bpe = tokenizer.read_tokenizer(folder)
  try:
    tokenizer.check_fits(
        bpe, vocab_size=module.vocab_size, end_token=module.end_token
    )
  except ValueError as error:
    raise ValueError(f'{folder}: {error}') from error
  return source, module, bpe


def finetuned(
    config: config_lib.Config,
    weights: pretrained.Pretrained,
    tasks: Mapping[str, task_lib.Task],
) -> dict[str, Params]:
  """Returns each task's parameters as others finetuned them.

  Raises:
    ValueError: a task has none, a name is no task's, or weights are damaged or
      of another architecture.
  """
  check_tasks(config, tasks)
  return {
      task: pretrained.read_finetuned(path, weights, module=_module(config))
      for task, path in _finetuned_paths(config).items()
  }


def _finetuned_paths(config: config_lib.Config) -> dict[str, pathlib.Path]:
  found = config.published.finetuned
  paths = config_lib.pairs('published.finetuned', found)
  return {task: hub.fetch(path) for task, path in paths.items()}


def write_merged(
    folder: pathlib.Path, weights: pretrained.Pretrained, params: Params
) -> None:
  """Writes merged parameters like the base, unless `folder` is there."""
  if not folder.exists():
    pretrained.write(folder, weights._replace(vision=params))
