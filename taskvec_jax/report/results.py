"""What a run found: the one JSON file that tables, figures and page read.

Every field is documented beside it. Norms are Euclidean norms over all
parameters; accuracies are shares in 0..1 of the test images; a number that
does not exist (a run that diverged, a ratio with nothing below it) is None,
which JSON writes as null.
"""

import dataclasses
import json
import os
import pathlib
import types
import typing
from typing import Any


@dataclasses.dataclass
class TaskSummary:
  """One task, as this run used it."""

  name: str
  num_train: int  # training images used
  num_validation: int
  num_test: int
  num_classes: int
  num_head_examples: int  # labelled images that the frozen head was fitted on
  lambda_max: float | None  # largest eigenvalue of H_t(theta_0), first seed
  lambda_min: float | None  # lowest eigenvalue, by Lanczos like the largest


@dataclasses.dataclass
class Setting:
  """What was run."""

  config: str  # name of the config
  command: str  # the command that repeats the run, overrides included
  seeds: list[int]
  tasks: list[TaskSummary]
  model: str  # one line: architecture and sizes
  num_parameters: int  # trained parameters: those of the encoder
  regimes: dict[str, str]  # 'exact', 'empirical' -> one line: update rule,
  # step size, batch, schedule, cap on epochs, patience
  learning_rate: float  # eta of the exact regime
  num_epochs: int  # k of the second-order analysis
  scaling: float  # alpha of the analysis, the same for all tasks
  eta_lambda_max: float | None  # eta times the largest lambda_max of the tasks
  left_out: list[str]  # sentences: what the budget made this run leave out


@dataclasses.dataclass
class Equality:
  """Claim 1: after one epoch theta_TA = theta_MT, (2.2)."""

  seed: int
  dtype: str  # 'float32' or 'float64'
  num_examples: int  # training images a task at most
  largest_ulps: float  # max over parameters of |theta_TA - theta_MT| in units
  # of eps (|theta_0| + sum_t |alpha_t tau_t|)
  largest_leaf: str  # the parameter where it is
  step_norm: float  # |theta_MT - theta_0|, what the difference compares with
  gap_norm: float  # |theta_TA - theta_MT|


@dataclasses.dataclass
class Rates:
  """Claim 2: the gap is eta^2 C_k + O(eta^3), (3.3), (3.5), (3.7)."""

  batches: str  # 'full batch' or 'mini-batches'
  num_epochs: int  # k
  num_examples: int  # training images a task at most
  learning_rates: list[float]
  gap: list[float]  # |theta_TA - theta_MT|, one a learning rate
  left_by_correction: list[float]  # |gap - eta^2 C_k|
  left_by_response: list[float]  # |gap - Delta_k|
  gap_slope: float  # of log gap against log learning rate; 2 predicted
  correction_slope: float  # 3 predicted
  response_slope: float  # 3 predicted


@dataclasses.dataclass
class ResponseMap:
  """Claim 3: where linear response predicts the gap, over (eta, k).

  Tables are indexed `[learning rate][epoch]`; None where a run diverged.
  """

  dtype: str
  num_examples: int  # training images a task at most
  lambda_max: float  # largest over the tasks of H_t(theta_0)
  learning_rates: list[float]
  epochs: list[int]
  gap_share: list[list[float | None]]  # |gap| / |theta_MT - theta_0|
  correction_share: list[list[float | None]]  # eta^2 |C_k| / the same
  response_share: list[list[float | None]]  # |Delta_k| / the same
  left_by_correction: list[list[float | None]]  # |gap - eta^2 C_k| / |gap|
  left_by_response: list[list[float | None]]  # |gap - Delta_k| / |gap|
  indicator: list[list[float | None]]  # a posteriori, largest over the tasks


@dataclasses.dataclass
class Rung:
  """One bound on, or estimate of, |C_k|."""

  name: str  # 'R0' ... 'R4'
  meaning: str
  value: float | None  # None where the bound overflows
  ratio: float | None  # value / |C_k|
  kind: str  # 'certified' (a proven upper bound), 'estimate' or 'measured'


@dataclasses.dataclass
class Certificate:
  """A proven bound on |theta_TA - theta_MT| at this eta and k."""

  name: str  # '(4.2)' or '(4.6)'
  value: float | None  # None where the bound overflows
  gap: float  # the measured |theta_TA - theta_MT|
  ratio: float | None


@dataclasses.dataclass
class Ladder:
  """Claim 4: the second-order term can be bounded. Theory section 4."""

  num_epochs: int  # k
  learning_rate: float
  num_examples: int  # training images a task at most
  rungs: list[Rung]  # from the widest to |C_k| itself
  certificates: list[Certificate]


@dataclasses.dataclass
class Finetuning:
  """Claim 5: one finetuning run, epoch by epoch. Theory section 5.

  `delta^(e)` is the update of epoch e, `tau^(e)` the task vector after it.
  """

  seed: int
  regime: str  # 'exact' (full-batch descent) or 'empirical' (mini-batches)
  task: str  # a task's name, or 'multitask'
  losses: list[float]  # mean training loss, one an epoch: before its step
  # (exact), mean over its batches (empirical)
  validation_losses: list[float]  # after each epoch
  update_norms: list[float]  # |delta^(e)|
  path_shares: list[float]  # |delta^(e)| / sum_j |delta^(j)|, j to converged
  cos_update_first: list[float]  # cos(delta^(e), delta^(1))
  cos_gradient: float  # cos(tau^(1), -grad L_t(theta_0)); 1 by (2.1) if exact
  snapshot_epochs: list[int]  # epochs of the next three; the last: converged
  cos_tau_first: list[float]  # cos(tau^(e), tau^(1))
  cos_tau_last: list[float]  # cos(tau^(e), tau^(converged))
  tau_norms: list[float]  # |tau^(e)|
  converged_epoch: int  # the epoch of the lowest validation loss
  hit_cap: bool  # the cap on epochs ended the run, not the patience


@dataclasses.dataclass
class Accuracy:
  """Test accuracy of one model on every task."""

  seed: int
  regime: str  # 'exact', 'empirical', 'published'; '' for the base
  model: str  # 'base', 'finetuned' (each task's own), 'merged', 'multitask'
  epochs: int | None  # of finetuning; None for the base and for converged
  converged: bool
  alpha_rule: str  # 'merged': '1/T' or 'validation'; else ''
  alpha: float | None  # 'merged': the coefficient
  accuracy: dict[str, float]  # task -> accuracy


@dataclasses.dataclass
class Similarity:
  """Length and direction of the task vectors that were merged."""

  seed: int
  regime: str
  epochs: int | None  # of finetuning; None for converged
  tasks: list[str]
  norms: list[float]  # |tau_t|
  cosines: list[list[float]]  # cos(tau_s, tau_t)


@dataclasses.dataclass
class Models:
  """The models of one seed, regime and number of epochs, compared."""

  accuracies: list[Accuracy]
  similarity: Similarity


@dataclasses.dataclass
class Results:
  """Everything that a run found."""

  setting: Setting
  equality: list[Equality]
  rates: list[Rates]
  response_map: ResponseMap
  ladders: list[Ladder]
  finetuning: list[Finetuning]
  accuracies: list[Accuracy]
  similarities: list[Similarity]
  seconds: dict[str, float]  # wall time by part; differs from run to run


def write(path: str | os.PathLike[str], results: Any) -> None:
  """Writes the results of an experiment, a dataclass, as JSON.

  Beside the file, then renamed onto it.
  """
  write_json(path, dataclasses.asdict(results))


def read(path: str | os.PathLike[str], kind: Any = Results) -> Any:
  """Returns the results that `write` wrote, as the dataclass `kind`."""
  return from_json(kind, json.loads(pathlib.Path(path).read_text()))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes JSON so that a reader never sees half a file."""
  path = pathlib.Path(path)
  beside = path.with_name(path.name + '.tmp')
  beside.write_text(json.dumps(value, indent=1, allow_nan=False) + '\n')
  os.replace(beside, path)


def from_json(kind: Any, value: Any) -> Any:
  """Returns `value`, as JSON gives it, as the dataclass or type `kind`."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if isinstance(kind, type) and dataclasses.is_dataclass(kind):
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_json(hints[name], value[name]) for name in hints})
  if origin is list:
    return [from_json(arguments[0], item) for item in value]
  if origin is dict:
    return {key: from_json(arguments[1], item) for key, item in value.items()}
  if origin is types.UnionType and value is not None:
    return from_json(arguments[0], value)
  return value
