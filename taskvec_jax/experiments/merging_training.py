"""The methods that read labelled training images of all tasks.

Each takes `merging_inputs.Inputs` and returns the merged task vector with what
it read, as in `merging_data`.
"""

import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import merging_functions
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import task_losses
from taskvec_jax.finetuning import gradient_descent
from taskvec_jax.merging import atm
from taskvec_jax.merging import corrected
from taskvec_jax.merging import grad_sign
from taskvec_jax.merging import leaves
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.second_order import correction
from taskvec_jax.second_order import response
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

Inputs = merging_inputs.Inputs
Merged = merging_inputs.Merged


def perturb_and_merge_hessian(inputs: Inputs) -> Merged:
  """Perturb-and-Merge's coefficients, curvature by true Hessian products."""
  merged = perturb_and_merge.perturb_and_merge(
      inputs.task_vectors,
      perturb_and_merge.hessian_product_fns(
          inputs.setting.base_params,
          inputs.task_vectors,
          task_losses.grad_and_hvp_fns(inputs.setting),
      ),
  )
  return Merged(
      merged.task_vector,
      {'training': merging_inputs.num_examples(inputs, 'train')},
      merged.coefficients,
  )


def grad_sign_merge(inputs: Inputs) -> Merged:
  """Adds up task vectors masked by the signs of a few gradients at the base."""
  setting, at_most = inputs.setting, inputs.numbers.sign_examples
  gradient_fn = merging_functions.gradient_fn(setting.module)
  masked = {}
  for task, vector in inputs.task_vectors.items():
    train = setting.data[task].train
    head = task_losses.padded_head(setting, task)
    chosen = np.random.default_rng([inputs.seed, 1]).permutation(
        len(train.labels)
    )
    signs = grad_sign.descent_signs(
        gradient_fn(
            head, setting.base_params, train.inputs[[i]], train.labels[[i]]
        )
        for i in chosen[:at_most]
    )
    masked[task] = grad_sign.grad_sign(vector, signs)
  return Merged(
      leaves.total(masked),
      {'training': merging_inputs.num_examples(inputs, 'train', at_most)},
  )


def atm_merge(inputs: Inputs) -> Merged:
  """Alternates finetuning and averaging within the epochs of the others."""
  finetune = _finetune_exact if inputs.regime == 'exact' else _finetune_adam
  base_params = inputs.setting.base_params
  local_epochs = inputs.numbers.atm_epochs
  rounds = atm.rounds(
      base_params,
      {
          task: finetune(inputs, task, local_epochs)
          for task in inputs.task_vectors
      },
      num_rounds=inputs.num_epochs // local_epochs,
  )
  *_, (params, _) = rounds
  return Merged(
      arithmetic.task_vector(params, base_params),
      {'training': merging_inputs.num_examples(inputs, 'train')},
  )


def second_order(inputs: Inputs) -> Merged:
  """Task arithmetic less the second-order gap (3.6)."""
  eta = inputs.config.learning_rate
  found = correction.second_order_correction(
      inputs.setting.base_params,
      task_losses.grad_and_hvp_fns(inputs.setting),
      inputs.setting.scaling,
      learning_rate=eta,
      num_epochs=inputs.num_epochs,
  )
  return _corrected(inputs, tree.scale(eta**2, found))


def linear_response(inputs: Inputs) -> Merged:
  """Task arithmetic less the gap by linear response (3.7)."""
  found = response.linear_response(
      inputs.setting.base_params,
      task_losses.grad_and_hvp_fns(inputs.setting),
      inputs.setting.scaling,
      learning_rate=inputs.config.learning_rate,
      num_epochs=inputs.num_epochs,
  )
  return _corrected(inputs, found)


def _corrected(inputs: Inputs, predicted_gap: Params) -> Merged:
  merged = corrected.corrected(
      inputs.task_vectors, inputs.setting.scaling, predicted_gap
  )
  return Merged(
      merged, {'training': merging_inputs.num_examples(inputs, 'train')}
  )


def _finetune_exact(inputs: Inputs, task: str, num_epochs: int):
  fn = task_losses.value_and_grad_fn(inputs.setting, task)

  def finetune(params, number):
    del number  # every round reads all examples
    *_, (tuned, _) = gradient_descent.trajectory(
        params,
        fn,
        learning_rate=inputs.config.learning_rate,
        num_epochs=num_epochs,
    )
    return tuned

  return finetune


def _finetune_adam(inputs: Inputs, task: str, num_epochs: int):
  def finetune(params, number):
    steps = regimes.empirical_steps(
        inputs.setting._replace(base_params=params),
        task,
        inputs.config.empirical,
        max_epochs=num_epochs,
        # Another order of the examples in every round.
        seed=1_000 * inputs.seed + number,
    )(None, 0)
    *_, last = steps
    return last.params

  return finetune
