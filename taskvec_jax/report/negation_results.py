"""What a negation run found: the JSON that its page reads.

Accuracies are shares in 0..1 of the test images, where validation images are
not named.
"""

import dataclasses

from taskvec_jax.report import experiment_results

# The models that a task's vector is subtracted from.
STARTS = {
    'base': 'base model',
    'merged': 'merged model',
    'multitask': 'multitask model',
}
MODELS = ('non-linear', 'linearised')


@dataclasses.dataclass
class Forgetting:
  """One task subtracted from one model, the others being the control."""

  seed: int
  start: str  # a name of `STARTS`
  target: str  # the task to forget
  chance: float  # one over its number of classes
  scalings: list[float]  # lambda, the candidates
  target_curve: list[float]  # validation accuracy on the target, by lambda
  control_curve: list[float]  # the same, mean over the other tasks
  scaling: float  # the lambda that validation data chose
  before: dict[str, float]  # task -> accuracy of the start
  after: dict[str, float]  # task -> accuracy of start - lambda tau
  # Of the model that never learned the target: the merge of the other tasks,
  # multitask training on the others. None for the base.
  never: dict[str, float] | None


@dataclasses.dataclass
class Disentanglement:
  """The weight disentanglement error over two coefficients."""

  seed: int
  model: str  # of `MODELS`; linearised is post hoc, at the same task vectors
  tasks: list[str]  # the pair
  num_images: int  # test images a task at most
  scalings: list[float]  # of both coefficients
  error: list[list[float]]  # xi [a_1][a_2], a sum over the two tasks: 0..2
  alone: dict[str, float]  # task -> accuracy at its own task vector, a = 1
  together: dict[str, float]  # task -> accuracy at (1, 1)


@dataclasses.dataclass
class Analogy:
  """C is to D as A to B: D from the other three, B and D inverted images."""

  seed: int
  known: str  # A; B has its images inverted
  asked: str  # C; D has its images inverted
  scaling: float  # lambda of tau_C + tau_B - tau_A, by D's validation images
  scaling_alone: float  # the same of tau_C alone
  # Accuracy on D's test images of: 'base', 'C alone', 'analogy', 'D itself'.
  accuracy: dict[str, float]


@dataclasses.dataclass
class Results:
  """Everything that the run found."""

  setting: experiment_results.Setting
  control: float  # least share of the start's control accuracy to be kept
  forgetting: list[Forgetting]
  disentanglement: list[Disentanglement]
  analogies: list[Analogy]
  seconds: dict[str, float]  # wall time by part; differs from run to run
