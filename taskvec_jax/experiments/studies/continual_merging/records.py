"""What is found of one sequence of tasks and one seed, as it is stored."""

import dataclasses

# The two sequences.
PERMUTED = 'permuted digits'
PACKAGED = 'packaged tasks'

# How theta*_t is trained, and where along Delta theta^_t is put.
PLAIN, PERTURBED, NOISE, EWC = 'plain', 'perturbed', 'noise', 'EWC'
LAST, MEAN = '1', '1/t'
EMPIRICAL, EXACT = 'empirical Fisher', 'exact Fisher'
HESSIAN, MEASURED = 'Hessian', 'measured loss'

# Every method: a training and a rule for the coefficient.
SEQUENTIAL = (PLAIN, LAST)
ANCHORED = (EWC, LAST)
RUNNING_MEAN = (PLAIN, MEAN)
MERGED = (PLAIN, EMPIRICAL)  # the paper's coefficient alone
PAPER = (PERTURBED, EMPIRICAL)  # the paper's method
WITH_NOISE = (NOISE, EMPIRICAL)
BY_HESSIAN = (PLAIN, HESSIAN)
PERTURBED_BY_HESSIAN = (PERTURBED, HESSIAN)
SEARCHED = (PLAIN, MEASURED)
PERTURBED_SEARCHED = (PERTURBED, MEASURED)
METHODS = (
    SEQUENTIAL,
    ANCHORED,
    RUNNING_MEAN,
    MERGED,
    PAPER,
    WITH_NOISE,
    BY_HESSIAN,
    PERTURBED_BY_HESSIAN,
    SEARCHED,
    PERTURBED_SEARCHED,
)
# Merged once, at the end.
AVERAGE, MAGMAX = 'average', 'MagMax'
# Rules that are held against the measured loss, on one and the same Delta.
RULES = (HESSIAN, EXACT, EMPIRICAL, MEAN, MEASURED)


@dataclasses.dataclass
class Walk:
  """One method through one sequence."""

  training: str
  rule: str
  alphas: list[float]
  seen: list[float]  # after each task: mean test accuracy on those so far
  final: dict[str, float]  # task -> test accuracy of the last model
  own: dict[str, float]  # task -> test accuracy of theta*_t on it


@dataclasses.dataclass
class Comparison:
  """All rules for one and the same Delta."""

  training: str
  step: int  # t, from 2
  alphas: dict[str, float]  # rule -> alpha_t
  losses: dict[str, float]  # rule -> measured mean loss of the tasks so far
  predicted_rise: float  # of the new task's loss from theta*_t to theta^_{t-1}
  measured_rise: float


@dataclasses.dataclass
class Penalty:
  """What perturbing adds to the loss of the second task, in float64."""

  training: str
  length: float  # |Delta|
  epsilons: list[float]
  added: list[float]  # E - L, along Delta
  curvature: float  # Delta' H Delta
  noise_added: list[float]  # the same with noise, mean over draws
  noise_curvatures: list[float]  # z' H z of each draw


@dataclasses.dataclass
class Sequence:
  """All of one sequence and seed."""

  sequence: str
  seed: int
  base: dict[str, float]  # task -> test accuracy of theta_0
  own: dict[str, float]  # of a model for each task alone, from theta_0
  posthoc: dict[str, dict[str, float]]  # method -> task -> test accuracy
  walks: list[Walk]
  comparisons: list[Comparison]
  penalties: list[Penalty]


def walk(record: Sequence, method: tuple[str, str]) -> Walk:
  """Returns a method's walk through the sequence."""
  (found,) = (w for w in record.walks if (w.training, w.rule) == method)
  return found
