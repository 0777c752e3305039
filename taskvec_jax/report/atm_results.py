"""What an ATM run found: the JSON that its page reads.

Accuracies are shares in 0..1 of the test images, norms Euclidean over all
parameters.
"""

import dataclasses

from taskvec_jax.report import experiment_results


@dataclasses.dataclass
class Identity:
  """Full-batch single-epoch rounds against multitask descent, round by round.

  The multitask gradient is computed independently, as one derivative of the
  mean of the losses.
  """

  seed: int
  dtype: str  # 'float32' or 'float64'
  num_examples: int  # training images a task at most
  learning_rate: float  # eta of the rounds; the descent has alpha eta
  gap_norms: list[float]  # |theta_ATM^(k) - theta_MT^(k)| after each round k
  path_norms: list[float]  # |theta_MT^(k) - theta_0|
  gap_ulps: list[float]  # |gap| in units of eps times the norm of
  # s = |theta_0| + sum of |alpha tau_t / T| over tasks and rounds so far
  largest_ulps: list[float]  # largest difference of a parameter in units of
  # eps s of the same parameter


@dataclasses.dataclass
class Curve:
  """One training, after each of its rounds."""

  seed: int
  method: str  # a name of `METHODS`
  num_rounds: int
  num_epochs: int  # a round and task
  learning_rate: float | None  # 'descent': eta, chosen on validation data
  images: list[int]  # images read until then, all tasks together, those that
  # the start of a post-hoc run cost among them
  copies: list[int]  # copies of the parameters sent until then, if every task
  # had a machine of its own: 2 T a merge or a joint step
  accuracy: list[dict[str, float]]  # task -> test accuracy
  merged_lengths: list[float]  # |merged task vector|; [] without a merge


@dataclasses.dataclass
class Reference:
  """Models that no round improves."""

  seed: int
  base: dict[str, float]  # task -> test accuracy of theta_0
  finetuned: dict[str, float]  # of each task's own model, the whole budget


@dataclasses.dataclass
class Results:
  """Everything that the run found."""

  setting: experiment_results.Setting
  budget: int  # epochs over every task's images, rounds times epochs
  scaling: float  # alpha of the rounds
  identity: list[Identity]
  references: list[Reference]
  curves: list[Curve]
  seconds: dict[str, float]  # wall time by part; differs from run to run


METHODS = {
    'pa': 'PA-ATM',
    'ties': 'PA-ATM, TIES merges',
    'fedavg': 'FedAvg, weights by images',
    'joint': 'multitask, as many images',
    'descent': 'multitask, as little sent',
    'ph': 'PH-ATM',
    'ph-joint': 'multitask on validation',
}
