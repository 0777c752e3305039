"""This project's own merges: task arithmetic less the gap that is predicted.

  tau = sum_t alpha_t tau_t - gap,

where the gap, theta_TA - theta_MT, is predicted from the base model, the
learning rate and the number of epochs:

* `eta^2 C_k`, the second order (3.6), from `second_order.correction`; with
  `base_correction` it needs derivatives at theta_0 alone. What is left is
  O(eta^3); beyond `eta k lambda_max` of about 1 it does harm.
* `Delta_k`, linear response (3.7), from `second_order.response`; it holds to
  larger steps, as long as `eta lambda_max < 2`, and is exact for quadratics.

Both cost as much as the finetunings and need the training data, as multitask
training does: their use is to show that the gap is understood, not to save
work. They know of full-batch gradient descent, or of mini-batches in a known
order; task vectors of another update rule have another gap.

Source: derived for this project, docs/theory.md (3.6), (3.7).
"""

from collections.abc import Mapping

from taskvec_jax import tree
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def corrected(
    task_vectors: Mapping[str, Params],
    scaling: Mapping[str, float],
    predicted_gap: Params,
) -> Params:
  """Returns `sum_t alpha_t tau_t - gap`, to be added to the base as it is.

  Args:
    task_vectors: task name -> `tau_t`.
    scaling: task name -> coefficient `alpha_t`, those the gap was predicted
      for; another coefficient afterwards has no meaning.
    predicted_gap: `eta^2 C_k` or `Delta_k`.

  Raises:
    ValueError: the tasks or the trees differ.
  """
  total = arithmetic.weighted_sum(task_vectors, scaling)
  arithmetic.check_same_tree(predicted_gap, total, 'gap', 'task vectors')
  return tree.sub(total, predicted_gap)
