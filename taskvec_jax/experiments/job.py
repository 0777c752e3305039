"""What an experiment on tasks works with: its config, folder and settings."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import pathlib
from typing import Any
from typing import Generic
from typing import NamedTuple
from typing import TypeVar

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.models import pretrained
from taskvec_jax.tasks import task as task_lib

_Config = TypeVar('_Config', bound=config_lib.Config)


class Job(NamedTuple, Generic[_Config]):
  """What every part of an experiment needs."""

  config: _Config
  tasks: Mapping[str, task_lib.Task]
  folder: pathlib.Path  # the work folder
  weights: pretrained.Pretrained | None  # published ones, if any
  setting_fn: Callable[[int], setting_lib.Setting]  # of a seed; keeps the last
  # (part, type, what makes it) -> a part, from the folder if it is there
  once: Callable[[str, Any, Callable[[], Any]], Any]
  seconds: dict[str, float]  # by group of parts


def begin(
    config: _Config,
    folder: str | pathlib.Path,
    tasks: Mapping[str, task_lib.Task],
    weights: pretrained.Pretrained | None = None,
) -> Job[_Config]:
  """Returns the job of a config; a setting is built when it is asked for.

  Args:
    config: checked.
    folder: the work folder, new or of an earlier run of the same config.
    tasks: of `setting.load_tasks`.
    weights: of `published_weights.base`; None to pretrain on glyphs.

  Raises:
    ValueError: a work folder that makes no sense.
  """
  folder = workdir_lib.open_workdir(folder, config)
  setting_fn = functools.lru_cache(maxsize=1)(
      lambda seed: setting_lib.build(config, tasks, seed=seed, weights=weights)
  )
  seconds: dict[str, float] = {}
  once = functools.partial(workdir_lib.once, folder, seconds=seconds)
  return Job(config, tasks, folder, weights, setting_fn, once, seconds)
