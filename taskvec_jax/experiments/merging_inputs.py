"""What a merging method is handed in the comparison, and what it hands back."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.typing import Params


@dataclasses.dataclass
class Numbers:
  """The methods' own numbers; those of their papers, where they say one."""

  ties_density: float = 0.2  # of TIES and of all that uses it
  dare_drop_rate: float = 0.9
  breadcrumbs_beta: float = 0.85
  breadcrumbs_gamma: float = 0.993
  consensus_lambda: float = 0.6  # of the masks, without validation data
  consensus_min_tasks: int = 2
  iso_common_fraction: float = 0.8
  adamerging_steps: int = 500
  adamerging_learning_rate: float = 1e-3
  adamerging_batch_size: int = 32  # inputs a task and step
  atlas_steps: int = 300
  atlas_learning_rate: float = 1e-2
  atlas_batch_size: int = 32  # validation images a task and step
  fisher_inputs: int = 100  # training images a task, at most
  regmean_off_diagonal: float = 0.9
  regmean_ridge: float = 1e-4
  sign_examples: int = 20  # training images a task that vote on signs, at most
  atm_epochs: int = 1  # of finetuning a round; rounds use up the epochs


# Those that lie between 0 and 1; all others are positive.
FRACTIONS = (
    'ties_density',
    'dare_drop_rate',
    'breadcrumbs_beta',
    'breadcrumbs_gamma',
    'iso_common_fraction',
    'regmean_off_diagonal',
)


class Fishers(NamedTuple):
  """Diagonal Fisher matrices, shared by the methods that need them."""

  by_task: dict[str, Params]
  num_inputs: int  # over all tasks
  seconds: float  # it took to compute them


class Inputs(NamedTuple):
  """One seed and regime, ready to merge; what a method read, it says."""

  config: config_lib.Config
  numbers: Numbers
  seed: int
  regime: str
  num_epochs: int  # of finetuning
  setting: setting_lib.Setting
  task_vectors: dict[str, Params]
  # Score on validation data of a merged task vector, and of one task's own.
  validation_score: Callable[[Params], float]
  validation_accuracy: Callable[[str, Params], float]
  fishers: Callable[[], Fishers]  # computed by the first call


class Merged(NamedTuple):
  """What a method made of the task vectors."""

  task_vector: Params
  examples: dict[str, int] = {}  # kind of data -> different examples it read
  coefficients: dict[str, float] = {}  # task -> its coefficient, if there is


def num_examples(inputs: Inputs, split: str, at_most: int | None = None) -> int:
  """Returns how many examples of 'train', ... there are, over all tasks."""
  numbers = [
      getattr(data, split).num_examples for data in inputs.setting.data.values()
  ]
  return sum(
      number if at_most is None else min(number, at_most) for number in numbers
  )
