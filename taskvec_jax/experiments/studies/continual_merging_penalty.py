"""What perturbing adds to a network's loss, in float64.

E - L at `theta*_2` for epsilons that halve, along Delta and along Gaussian
noise of Delta's length, and the curvatures by true Hessian-vector products.
"""

from typing import Any

import jax
import numpy as np

from taskvec_jax import tree
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments.studies import continual_merging_records as records
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.studies import continual_merging
from taskvec_jax.typing import Params


def penalty(
    setting: setting_lib.Setting,
    training: str,
    step: continual_merging.Step,
    *,
    config: Any,
) -> records.Penalty:
  """Returns what is measured around the step's `theta*_t`."""
  with jax.enable_x64():
    setting = setting_lib.cast(setting, np.float64)
    previous, params = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), x)
        for x in (step.previous_params, step.finetuned_params)
    )
    train = setting.data[step.task].train
    loss_sum = setting_lib.loss_sum(setting, step.task)
    batches = full_batch.place(setting_lib.batches(setting, train))
    hvp_fn = full_batch.exact_gradient_and_hvp(
        loss_sum, batches, train.num_examples
    )
    direction = tree.sub(params, previous)

    def loss_fn(params):
      return full_batch.exact_mean(
          loss_sum, params, batches, train.num_examples
      )

    here = float(loss_fn(params))

    def added(previous: Params, epsilon: float) -> float:
      expected_fn = perturb_and_merge.perturbed_loss(
          loss_fn, previous, epsilon=epsilon, probability=config.probability
      )
      return float(expected_fn(params)) - here

    def curvature(direction: Params) -> float:
      return float(tree.vdot(direction, hvp_fn(params, direction)[1]))

    noises = [
        continual_merging.gaussian_like(jax.random.key(draw), direction)
        for draw in range(config.noise_draws)
    ]
    # `perturbed_loss` measures its Delta from where it is told.
    around = [tree.sub(params, noise) for noise in noises]
    return records.Penalty(
        training=training,
        length=float(tree.norm(direction)),
        epsilons=list(config.epsilons),
        added=[added(previous, epsilon) for epsilon in config.epsilons],
        curvature=curvature(direction),
        noise_added=[
            float(np.mean([added(one, epsilon) for one in around]))
            for epsilon in config.epsilons
        ],
        noise_curvatures=[curvature(noise) for noise in noises],
    )
