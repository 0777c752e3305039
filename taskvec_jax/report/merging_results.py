"""What a comparison of merging methods found: the JSON that its page reads.

As in `results`: norms are Euclidean over all parameters, accuracies are shares
in 0..1 of the test images, and None is a number that does not exist.
"""

import dataclasses

from taskvec_jax.report import results as results_lib

# What a method can have read, in the order of what it is allowed to see; a row
# belongs to the class of the last one that it read.
KINDS = ('validation', 'test inputs', 'training inputs', 'training')


@dataclasses.dataclass
class Trained:
  """One finetuning run, which the merges start from."""

  seed: int
  regime: str  # 'exact' (full-batch descent) or 'empirical' (mini-batches)
  task: str  # a task's name, or 'multitask'
  num_epochs: int
  loss: float  # mean training loss of the last epoch
  length: float  # |tau_t|, or |theta_MT - theta_0|


@dataclasses.dataclass
class Merge:
  """One model of one seed: a merge, or a reference to compare it with."""

  seed: int
  regime: str
  method: str  # 'base', 'finetuned', 'multitask', or a merging method's name
  rule: str  # how the scaling was set: 'fixed', 'validation', or '' where the
  # method has none
  scaling: float | None  # theta = theta_0 + scaling tau; None without a rule
  scalings: list[float]  # the candidates, where validation data chose
  curve: list[float]  # their scores: mean over the tasks of accuracy on
  # validation data, over that of the task's own model
  accuracy: dict[str, float]  # task -> test accuracy
  distance: float | None  # |theta - theta_MT|; None where tasks have own models
  relative_distance: float | None  # the same over |theta_MT - theta_0|
  cosine: float | None  # cos(theta - theta_0, theta_MT - theta_0)
  coefficients: dict[str, float]  # task -> its coefficient, where the method
  # learned or derived some; the mean over tensors if there is one for each
  examples: dict[str, int]  # kind of data -> different examples read by the
  # merge, over all tasks; kinds of KINDS, 'inputs' being without labels
  seconds: float  # of merging and of choosing the scaling, wall time


@dataclasses.dataclass
class Prediction:
  """One prediction of the gap theta_TA - theta_MT."""

  name: str  # 'base' (3.4), 'second order' (3.3), 'linear response' (3.7)
  norm: float | None  # |prediction|; None where it diverged
  left: float | None  # |gap - prediction| / |gap|
  cosine: float | None  # cos(prediction, gap)


@dataclasses.dataclass
class Gap:
  """Task arithmetic at 1/T against multitask training, exact regime."""

  seed: int
  learning_rate: float  # eta
  num_epochs: int  # k
  step: float  # |theta_MT - theta_0|
  gap: float  # |theta_TA - theta_MT|, measured
  predictions: list[Prediction]


@dataclasses.dataclass
class Ranks:
  """Numerical ranks of one matrix, by which methods with an SVD are cut."""

  regime: str
  leaf: str  # its path, keys joined by '/'
  full: int  # min(n_in, n_out)
  tasks: dict[str, int]  # task -> rank of its task vector
  total: int  # rank of the sum of all


@dataclasses.dataclass
class Results:
  """Everything that the comparison found."""

  setting: results_lib.Setting
  num_epochs: dict[str, int]  # regime -> epochs of every finetuning run
  numbers: dict[str, float]  # the methods' own numbers, as the config has them
  trained: list[Trained]
  merges: list[Merge]
  gaps: list[Gap]  # one a seed; none without the exact regime
  small_steps: list[results_lib.Rates]  # first seed, float64: distances to
  # multitask training at small learning rates, of task arithmetic (`gap`), of
  # the second-order merge (`left_by_correction`) and of linear response
  ranks: list[Ranks]  # of the first seed, one a regime and matrix
  seconds: dict[str, float]  # wall time by part; differs from run to run
