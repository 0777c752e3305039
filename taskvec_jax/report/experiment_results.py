"""What the results of every experiment beside the main job begin with."""

import dataclasses

from taskvec_jax.report import results as results_lib


@dataclasses.dataclass
class Setting:
  """What was run."""

  config: str  # name of the config
  command: str  # the command that repeats the run, overrides included
  seeds: list[int]
  tasks: list[results_lib.TaskSummary]  # without eigenvalues
  model: str  # one line: architecture and sizes
  num_parameters: int  # trained parameters: those of the encoder
  finetuning: str  # one line: update rule, step size, batch, schedule
  left_out: list[str]  # sentences: what the budget made this run leave out
