"""The methods that read validation images, or inputs without labels.

Each takes `merging_inputs.Inputs` and returns the merged task vector with what
it read: different examples, over all tasks, by kind. Methods that learn on
mini-batches run on one device, whatever number the run has.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import merging_functions
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.gradients import full_batch
from taskvec_jax.merging import adamerging
from taskvec_jax.merging import averaging
from taskvec_jax.merging import fisher
from taskvec_jax.merging import learned_coefficients
from taskvec_jax.merging import perturb_and_merge
from taskvec_jax.merging import regmean
from taskvec_jax.merging import tall_masks
from taskvec_jax.merging import ties
from taskvec_jax.merging import uncertainty_gradient
from taskvec_jax.task_vectors import arithmetic

Inputs = merging_inputs.Inputs
Merged = merging_inputs.Merged


def greedy_soup(inputs: Inputs) -> Merged:
  """Averages the models that raise the score on validation data."""
  soup = averaging.greedy_soup(inputs.task_vectors, inputs.validation_score)
  share = 1 / len(soup.ingredients)
  return Merged(
      soup.task_vector,
      {'validation': merging_inputs.num_examples(inputs, 'validation')},
      {t: share * (t in soup.ingredients) for t in inputs.task_vectors},
  )


def consensus_localized(inputs: Inputs) -> Merged:
  """Consensus of masks whose thresholds validation data chose."""
  found = tall_masks.localize(inputs.task_vectors, inputs.validation_accuracy)
  merged = tall_masks.consensus(
      inputs.task_vectors,
      min_tasks=inputs.numbers.consensus_min_tasks,
      lambdas=found.lambdas,
  )
  return Merged(
      merged, {'validation': merging_inputs.num_examples(inputs, 'validation')}
  )


def atlas(inputs: Inputs) -> Merged:
  """Learns a coefficient a task and tensor on labelled validation images."""
  numbers = inputs.numbers
  learned = learned_coefficients.learned_coefficients(
      inputs.setting.base_params,
      inputs.task_vectors,
      merging_functions.batch_loss(
          merging_functions.mean_loss_fn(inputs.setting.module),
          inputs,
          'validation',
          batch_size=numbers.atlas_batch_size,
          num_steps=numbers.atlas_steps,
      ),
      learning_rate=numbers.atlas_learning_rate,
      num_steps=numbers.atlas_steps,
  )
  return _learned(
      learned, {'validation': merging_inputs.num_examples(inputs, 'validation')}
  )


def ada(inputs: Inputs, *, layer_wise: bool, trimmed: bool) -> Merged:
  """AdaMerging, of the task vectors or of what TIES leaves of them (++)."""
  numbers, task_vectors = inputs.numbers, inputs.task_vectors
  if trimmed:
    task_vectors = ties.survivors(task_vectors, density=numbers.ties_density)
  learned = adamerging.adamerging(
      inputs.setting.base_params,
      task_vectors,
      merging_functions.batch_loss(
          merging_functions.entropy_fn(inputs.setting.module),
          inputs,
          'test',
          batch_size=numbers.adamerging_batch_size,
          num_steps=numbers.adamerging_steps,
      ),
      layer_wise=layer_wise,
      learning_rate=numbers.adamerging_learning_rate,
      num_steps=numbers.adamerging_steps,
  )
  return _learned(
      learned, {'test inputs': merging_inputs.num_examples(inputs, 'test')}
  )


def fisher_merge(inputs: Inputs) -> Merged:
  """Fisher merging with exact diagonals."""
  fishers = inputs.fishers()
  merged = fisher.fisher(inputs.task_vectors, fishers.by_task)
  return Merged(merged, {'training inputs': fishers.num_inputs})


def uncertainty(inputs: Inputs) -> Merged:
  """Uncertainty-based gradient matching at 1/T.

  The base model's own Fisher, whose data a user seldom has, is a prior here:
  the mean entry of the tasks' diagonals.
  """
  fishers = inputs.fishers()
  entries = [
      leaf for one in fishers.by_task.values() for leaf in jax.tree.leaves(one)
  ]
  prior = sum(float(jnp.sum(leaf)) for leaf in entries) / sum(
      leaf.size for leaf in entries
  )
  merged = uncertainty_gradient.uncertainty_gradient(
      inputs.task_vectors,
      fishers.by_task,
      jax.tree.map(
          lambda leaf: jnp.full(leaf.shape, prior, leaf.dtype),
          inputs.setting.base_params,
      ),
      arithmetic.uniform_scaling(inputs.task_vectors),
  )
  return Merged(merged, {'training inputs': fishers.num_inputs})


def perturb_and_merge_fisher(inputs: Inputs) -> Merged:
  """Perturb-and-Merge's coefficients, curvature by the diagonal Fisher."""
  fishers = inputs.fishers()
  merged = perturb_and_merge.perturb_and_merge(
      inputs.task_vectors,
      perturb_and_merge.fisher_product_fns(fishers.by_task),
  )
  return Merged(
      merged.task_vector,
      {'training inputs': fishers.num_inputs},
      merged.coefficients,
  )


def regmean_merge(inputs: Inputs) -> Merged:
  """RegMean on the Gram matrices of all training inputs."""
  setting, numbers = inputs.setting, inputs.numbers
  grams = {}
  for task, vector in inputs.task_vectors.items():
    grams[task] = full_batch.exact_mean(
        merging_functions.gram_fn(setting.module),
        arithmetic.edit(setting.base_params, vector),
        splits.batches(setting, setting.data[task].train),
        1,  # the sum
    )
  merged = regmean.regmean(
      inputs.task_vectors,
      grams,
      off_diagonal=numbers.regmean_off_diagonal,
      ridge=numbers.regmean_ridge,
  )
  return Merged(
      merged, {'training inputs': merging_inputs.num_examples(inputs, 'train')}
  )


def diagonal_fishers(
    setting: setting_lib.Setting, task_vectors, *, at_most: int, seed: int
) -> merging_inputs.Fishers:
  """Returns each task's exact diagonal Fisher at its own model.

  Over a random choice of images: sets come sorted by class.
  """
  start = time.monotonic()
  by_task, num_inputs = {}, 0
  for task, vector in task_vectors.items():
    images = setting.data[task].train.inputs
    order = np.random.default_rng([seed, 2]).permutation(len(images))
    chosen = images[np.sort(order[:at_most])]
    num_inputs += len(chosen)
    by_task[task] = fisher.diagonal_fisher(
        jax.tree_util.Partial(
            merging_functions.logits_fn(setting.module), setting.heads[task]
        ),
        arithmetic.edit(setting.base_params, vector),
        chosen,
    )
  jax.block_until_ready(by_task)
  return merging_inputs.Fishers(by_task, num_inputs, time.monotonic() - start)


def _learned(learned: learned_coefficients.Learned, examples) -> Merged:
  """Layer-wise coefficients are summed up by their mean over tensors."""
  means = {
      task: float(np.mean([float(c) for c in jax.tree.leaves(found)]))
      for task, found in learned.coefficients.items()
  }
  return Merged(learned.task_vector, examples, means)
