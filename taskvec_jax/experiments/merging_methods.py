"""The methods of the comparison, by name, and how each is scaled.

A method with a scaling has two rows: with the scaling that is in use without
validation data, and with the one that validation data choose. Methods that
average, or find coefficients by themselves, have none.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import merging_data
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import merging_training
from taskvec_jax.experiments import task_losses
from taskvec_jax.merging import averaging
from taskvec_jax.merging import breadcrumbs
from taskvec_jax.merging import dare
from taskvec_jax.merging import iso
from taskvec_jax.merging import leaves
from taskvec_jax.merging import magmax
from taskvec_jax.merging import pcgrad
from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from taskvec_jax.merging import tsv

Inputs = merging_inputs.Inputs
Merged = merging_inputs.Merged

_REGIMES = ('exact', 'empirical')


class Method(NamedTuple):
  """One method, wired."""

  merge: Callable[[Inputs], Merged]
  scaling: float | None = None  # in use without validation data
  is_tuned: bool = False  # whether validation data choose a scaling, too
  # What counts its right answers: the model's, or its linearisation's.
  correct_sum_fn: evaluation.CorrectSumFn = task_losses.correct_sum
  reads_fishers: bool = False
  regimes: tuple[str, ...] = _REGIMES  # that it has a meaning in


def _average(inputs: Inputs) -> Merged:
  return Merged(averaging.average(inputs.task_vectors))


def _model_stock(inputs: Inputs) -> Merged:
  return Merged(averaging.model_stock(inputs.task_vectors))


def _sum(inputs: Inputs) -> Merged:
  return Merged(leaves.total(inputs.task_vectors))


def _ties(inputs: Inputs) -> Merged:
  density = inputs.numbers.ties_density
  return Merged(ties.ties(inputs.task_vectors, density=density))


def _ties_reference(inputs: Inputs) -> Merged:
  return Merged(
      ties.ties(
          inputs.task_vectors,
          density=inputs.numbers.ties_density,
          count='reference',
          tie_break='majority',
          merge='dis-sum',
      )
  )


def _dare(inputs: Inputs) -> Merged:
  return Merged(
      dare.dare(
          inputs.task_vectors,
          drop_rate=inputs.numbers.dare_drop_rate,
          seed=inputs.seed,
      )
  )


def _dare_ties(inputs: Inputs) -> Merged:
  return Merged(
      dare.dare_ties(
          inputs.task_vectors,
          drop_rate=inputs.numbers.dare_drop_rate,
          seed=inputs.seed,
          density=inputs.numbers.ties_density,
      )
  )


def _breadcrumbs(inputs: Inputs) -> Merged:
  return Merged(
      breadcrumbs.breadcrumbs(
          inputs.task_vectors,
          beta=inputs.numbers.breadcrumbs_beta,
          gamma=inputs.numbers.breadcrumbs_gamma,
      )
  )


def _consensus(inputs: Inputs) -> Merged:
  numbers = inputs.numbers
  return Merged(
      tall_masks.consensus(
          inputs.task_vectors,
          min_tasks=numbers.consensus_min_tasks,
          lambdas=dict.fromkeys(inputs.task_vectors, numbers.consensus_lambda),
      )
  )


def _pcgrad(inputs: Inputs) -> Merged:
  return Merged(pcgrad.pcgrad(inputs.task_vectors, seed=inputs.seed))


def _magmax(inputs: Inputs) -> Merged:
  return Merged(magmax.magmax(inputs.task_vectors))


def _tsv_m(inputs: Inputs) -> Merged:
  return Merged(tsv.tsv_m(inputs.task_vectors))


def _iso_c(inputs: Inputs) -> Merged:
  return Merged(iso.iso_c(inputs.task_vectors))


def _iso_cts(inputs: Inputs) -> Merged:
  return Merged(
      iso.iso_cts(
          inputs.task_vectors,
          common_fraction=inputs.numbers.iso_common_fraction,
      )
  )


def _ada(*, layer_wise: bool, trimmed: bool) -> Method:
  return Method(
      functools.partial(
          merging_data.ada, layer_wise=layer_wise, trimmed=trimmed
      )
  )


# Without validation data sums are scaled by 0.3 (AdaMerging, FusionBench), Iso
# by 1.5 (FusionBench), the others by 1, as their papers have it.
METHODS = {
    'average': Method(_average),
    'model_stock': Method(_model_stock),
    'task_arithmetic': Method(_sum, 0.3, is_tuned=True),
    'linearised': Method(
        _sum,
        0.3,
        is_tuned=True,
        correct_sum_fn=task_losses.linear_correct_sum,
    ),
    'ties': Method(_ties, 1.0, is_tuned=True),
    'ties_reference': Method(_ties_reference, 0.3, is_tuned=True),
    'dare': Method(_dare, 0.3, is_tuned=True),
    'dare_ties': Method(_dare_ties, 1.0, is_tuned=True),
    'breadcrumbs': Method(_breadcrumbs, 0.3, is_tuned=True),
    'consensus': Method(_consensus, 0.3, is_tuned=True),
    'pcgrad': Method(_pcgrad, 0.3, is_tuned=True),
    'magmax': Method(_magmax, 1.0, is_tuned=True),
    'tsv_m': Method(_tsv_m, 1.0, is_tuned=True),
    'iso_c': Method(_iso_c, 1.5, is_tuned=True),
    'iso_cts': Method(_iso_cts, 1.5, is_tuned=True),
    'greedy_soup': Method(merging_data.greedy_soup),
    'consensus_localized': Method(
        merging_data.consensus_localized, is_tuned=True
    ),
    'atlas': Method(merging_data.atlas),
    'adamerging_task': _ada(layer_wise=False, trimmed=False),
    'adamerging_layer': _ada(layer_wise=True, trimmed=False),
    'adamerging_task_pp': _ada(layer_wise=False, trimmed=True),
    'adamerging_layer_pp': _ada(layer_wise=True, trimmed=True),
    'fisher': Method(merging_data.fisher_merge, reads_fishers=True),
    'regmean': Method(merging_data.regmean_merge),
    'uncertainty': Method(merging_data.uncertainty, reads_fishers=True),
    'perturb_and_merge_fisher': Method(
        merging_data.perturb_and_merge_fisher, reads_fishers=True
    ),
    'perturb_and_merge_hessian': Method(
        merging_training.perturb_and_merge_hessian
    ),
    'grad_sign': Method(merging_training.grad_sign_merge, 0.3, is_tuned=True),
    'atm': Method(merging_training.atm_merge),
    'second_order': Method(merging_training.second_order, regimes=('exact',)),
    'linear_response': Method(
        merging_training.linear_response, regimes=('exact',)
    ),
}
