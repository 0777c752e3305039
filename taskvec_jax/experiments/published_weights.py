"""Published CLIP weights in a run: the base model, its heads, others' models.

The vision tower is theta_0; the text tower makes one frozen head a task from
class names and prompts. Models that others finetuned from the same base stand
in the place of runs of one's own, and merged models go back into the layout
that the weights came in.
"""

from collections.abc import Mapping
import pathlib

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import zero_shot_heads
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
    ValueError: they are not there, damaged, or not of the config's model.
  """
  name = config.published.weights
  if not name:
    return None
  module = config_lib.module(config)
  assert isinstance(module, vit.ViT)  # config.check has seen to it
  return pretrained.read(hub.fetch(name), module=module)


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
  path = hub.fetch(published.text_weights or published.weights)
  if published.text_weights:
    weights = pretrained.read(path)
  if weights.text is None or weights.logit_scale is None:
    raise ValueError(
        f'{path} holds no text tower, which zero-shot heads are made of; name a'
        ' whole CLIP as config.published.text_weights.'
    )
  folder = path if path.is_dir() else path.parent
  module = pretrained.text_module(weights.source, activation=activation)
  return zero_shot_heads.zero_shot_heads(
      module,
      weights.text,
      tokenizer.read_tokenizer(folder),
      {name: benchmarks.task_prompts(task) for name, task in tasks.items()},
      logit_scale=weights.logit_scale,
  )


def finetuned(
    published: config_lib.Published,
    weights: pretrained.Pretrained,
    tasks: Mapping[str, task_lib.Task],
) -> dict[str, Params]:
  """Returns each task's parameters as others finetuned them.

  Raises:
    ValueError: a task has none, a name is no task's, or weights are damaged or
      of another architecture.
  """
  paths = config_lib.pairs('published.finetuned', published.finetuned)
  if set(paths) != set(tasks):
    raise ValueError(
        'config.published.finetuned has weights for'
        f' {", ".join(sorted(paths))}, but the tasks are'
        f' {", ".join(sorted(tasks))}; name one for each.'
    )
  return {
      task: pretrained.read_finetuned(hub.fetch(path), weights)
      for task, path in paths.items()
  }


def write_merged(
    folder: pathlib.Path, weights: pretrained.Pretrained, params: Params
) -> None:
  """Writes merged parameters like the base, unless `folder` is there."""
  if not folder.exists():
    pretrained.write(folder, weights._replace(vision=params))
