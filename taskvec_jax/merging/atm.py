"""Alternating tuning and merging (ATM).

  theta^(0) = theta_0 (or a model that is merged already),
  tau_t^(k) = FT(theta^(k), D_t) - theta^(k),
  theta^(k+1) = theta^(k) + alpha merge(tau_1^(k), ..., tau_T^(k)),

with any finetuning FT and any merge step; the mean, by default. The paper uses
it in two ways, and both are this loop:

* PA-ATM, in place of multitask training where tasks may not share their data:
  `rounds` from the pretrained `theta_0`, FT on each task's TRAINING data;
* PH-ATM, refining a merged model afterwards: `post_hoc_rounds` from
  `theta_0 + alpha tau_m` of any method, FT on small VALIDATION sets. What is
  tuned on those can no longer be chosen on them.

With one full-batch epoch of gradient descent a round and the mean as merge
step, a round IS one step of multitask gradient descent on sum_t L_t with
learning rate `alpha eta / T` (2.3). With several local steps the mean is
uniform-weight FedAvg, and with alpha other than 1 batched Reptile with outer
step alpha: known algorithms, seen as merging. A fair comparison gives multitask
training the same passes over the data.

Cost: a round costs T finetunings, and if tasks are on T machines 2 T copies of
the parameters are sent. Memory is T + 2 copies. The state is the parameters
alone, so a run goes on from any round.

Source: Zhou et al., "ATM: Improving Model Merging by Alternating Tuning and
Merging", arXiv:2411.03055; McMahan et al., arXiv:1602.05629 (FedAvg); Nichol,
Achiam and Schulman, arXiv:1803.02999 (Reptile).
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import math
from typing import NamedTuple

from taskvec_jax import tree
from taskvec_jax.merging import averaging
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

# (parameters to start from, round 1, 2, ...) -> finetuned parameters.
FinetuneFn = Callable[[Params, int], Params]

MergeFn = Callable[[Mapping[str, Params]], Params]


class RoundInfo(NamedTuple):
  """What was measured on the way to `theta^(round)`."""

  round: int  # k + 1 = 1, 2, ...
  lengths: dict[str, float]  # task name -> |tau_t^(k)|
  merged_length: float  # |merge(tau_1^(k), ...)|, before alpha


def rounds(
    base_params: Params,
    finetune_fns: Mapping[str, FinetuneFn],
    merge_fn: MergeFn = averaging.average,
    *,
    scaling: float = 1.0,
    num_rounds: int,
    num_done: int = 0,
) -> Iterator[tuple[Params, RoundInfo]]:
  """Yields `(theta^(k), info)` after each round k = 1..num_rounds.

  Args:
    base_params: `theta_0`; when going on, `theta^(num_done)`.
    finetune_fns: task name -> `(params, round) -> finetuned params`. The round,
      from 1, lets it seed its mini-batches or read fresh data.
    merge_fn: task vectors of a round, by task name -> merged task vector; the
      paper's is the mean.
    scaling: alpha, what the merged task vector is multiplied by.
    num_rounds: at least 1.
    num_done: rounds that lie behind `base_params`, not repeated.

  Raises:
    ValueError: there is no task or the numbers make no sense; raised by the
      call. A finetuning function that returns another tree; raised in its
      round.
  """
  if not finetune_fns:
    raise ValueError('There are no finetune_fns; give one for each task.')
  if num_rounds < 1:
    raise ValueError(f'num_rounds must be at least 1 but is {num_rounds}.')
  if not math.isfinite(scaling):
    raise ValueError(f'scaling must be finite but is {scaling}.')

  def generate():
    params = base_params
    for number in range(num_done + 1, num_rounds + 1):
      task_vectors = {
          task: arithmetic.task_vector(fn(params, number), params)
          for task, fn in finetune_fns.items()
      }
      merged = merge_fn(task_vectors)
      lengths = {t: float(tree.norm(v)) for t, v in task_vectors.items()}
      info = RoundInfo(number, lengths, float(tree.norm(merged)))
      del task_vectors  # or they would be a part of the next round's peak
      params = arithmetic.edit(params, merged, scaling)
      yield params, info

  return generate()


def post_hoc_rounds(
    base_params: Params,
    task_vector: Params,
    finetune_fns: Mapping[str, FinetuneFn],
    merge_fn: MergeFn = averaging.average,
    *,
    initial_scaling: float = 1.0,
    scaling: float = 1.0,
    num_rounds: int,
) -> Iterator[tuple[Params, RoundInfo]]:
  """Yields the rounds that start from a merged model (PH-ATM).

  Args:
    base_params: `theta_0`.
    task_vector: of any merging method.
    finetune_fns: as in `rounds`, on validation data.
    merge_fn: of the rounds; it need not be what made `task_vector`.
    initial_scaling: what `task_vector` is multiplied by.
    scaling: alpha of the rounds.
    num_rounds: at least 1.

  Raises:
    ValueError: as `rounds`, or a task vector that differs from the base.
  """
  merged_params = arithmetic.edit(base_params, task_vector, initial_scaling)
  return rounds(
      merged_params,
      finetune_fns,
      merge_fn,
      scaling=scaling,
      num_rounds=num_rounds,
  )
