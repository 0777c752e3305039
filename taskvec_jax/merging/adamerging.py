"""AdaMerging: coefficients that make the merged model sure of itself.

  theta(lambda) = theta_0 + sum_t lambda_t tau_t                   (task-wise)
  theta_l       = theta_0l + sum_t lambda_tl tau_tl                (layer-wise)

The coefficients minimise the entropy of the merged model's predictions, summed
over the tasks, on unlabelled test inputs:

  sum_t mean_x sum_y -p_t(y | x) log p_t(y | x).

The method is TRANSDUCTIVE: it reads no label but it does read the inputs that
it is then tested on, which data-free methods do not; a comparison must say so.
A "layer" is one parameter tensor. Coefficients start at 0.3 and are held to
[0, 1], with zero gradient outside; Adam with learning rate 1e-3 takes 500
steps, on batches of 16 inputs a task, heads frozen. AdaMerging++ learns them
for what TIES leaves of each task vector after trimming and electing signs,
`ties.survivors`: pass those as the task vectors.

The published code adds up the entropies of TWO batches of 16 a task and step:
twice that of their mean, which Adam hardly sees, and less noise. What a step
reads is `entropy_fn`'s choice. Its TIES elects the majority's sign where the
signs tie (`tie_break='majority'`), which `ties` does not by default.

Cost: a step is one gradient of the entropy and a pass over the T task vectors,
all steps in one compiled `scan`.

Source: Yang et al., "AdaMerging: adaptive model merging for multi-task
learning", arXiv:2310.02575.
"""

from collections.abc import Callable
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from taskvec_jax.merging import checks
from taskvec_jax.merging import learned_coefficients
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


def adamerging(
    base_params: Params,
    task_vectors: Mapping[str, Params],
    entropy_fn: Callable[[Params, Array], Array],
    *,
    layer_wise: bool = True,
    initial: float = 0.3,
    learning_rate: float = 1e-3,
    num_steps: int = 500,
) -> learned_coefficients.Learned:
  """Returns the merged task vector, its coefficients and the entropies.

  Args:
    base_params: `theta_0`.
    task_vectors: task name -> `tau_t`; `ties.survivors` of them for
      AdaMerging++.
    entropy_fn: `(params, step) -> scalar`, the sum over tasks of the mean
      entropy of the batch of this step; traceable. A `jax.tree_util.Partial`
      passes its arrays as data, so that equal shapes compile once.
    layer_wise: one coefficient a task and parameter tensor; False for one a
      task.
    initial: every coefficient at the start, from 0 to 1.
    learning_rate: Adam's.
    num_steps: steps of Adam; 0 is task arithmetic with `initial`.

  Raises:
    ValueError: the trees differ or the numbers make no sense.
    FloatingPointError: the entropy became NaN or infinite, with its step.
  """
  checks.check_task_vectors(task_vectors)
  checks.check_fraction('initial', initial)
  start = jnp.full((), initial)
  if layer_wise:
    start = jax.tree.map(lambda _: start, base_params)
  return learned_coefficients.learn(
      base_params,
      task_vectors,
      entropy_fn,
      dict.fromkeys(task_vectors, start),
      clamped=True,
      learning_rate=learning_rate,
      num_steps=num_steps,
  )


def entropy(logits: Array) -> Array:
  """Returns the entropy in nats of each prediction, `[N, C] -> [N]`.

  Classes that pad a head, with a probability of exactly 0, add nothing.
  """
  log_probabilities = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)
