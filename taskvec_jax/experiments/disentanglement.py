"""The weight disentanglement error of a pair of tasks, drawn as a map.

  xi(a_1, a_2) = sum_t P( argmax f(x_t; theta_0 + a_t tau_t)
                          /= argmax f(x_t; theta_0 + a_1 tau_1 + a_2 tau_2) )

over a square of coefficients, of the model itself and of the same model
linearised at theta_0 (post hoc: same task vectors, no other finetuning). All
points are one compiled program a model; on test images, as nothing is chosen.

Source: Ortiz-Jimenez, Favero and Frossard, "Task arithmetic in the tangent
space", arXiv:2305.12827.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_losses
from taskvec_jax.gradients import full_batch
from taskvec_jax.gradients import losses
from taskvec_jax.merging import linearised
from taskvec_jax.report import negation_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params

# Names of the pair inside compiled programs, where mappings are sorted.
_NAMES = ('first', 'second')


def maps(
    setting: setting_lib.Setting,
    task_vectors: Mapping[str, Params],
    *,
    scalings: Sequence[float],
    num_images: int,
    seed: int,
) -> list[negation_results.Disentanglement]:
  """Returns the map of the non-linear and of the linearised model.

  Args:
    setting: gives base, heads and test images.
    task_vectors: of the two tasks.
    scalings: of both coefficients.
    num_images: test images a task at most; 0 for all.
    seed: for the rows.

  Raises:
    ValueError: there are not two task vectors.
  """
  if len(task_vectors) != 2:
    raise ValueError(
        'A map has two coefficients, so it needs two task vectors, but there'
        f' are {len(task_vectors)}.'
    )
  pair = dict(zip(_NAMES, task_vectors, strict=True))
  vectors = {name: task_vectors[task] for name, task in pair.items()}
  data = {
      task: setting.data[task]._replace(
          test=_at_most(setting.data[task].test, num_images)
      )
      for task in pair.values()
  }
  largest = max(own.test.num_examples for own in data.values())
  # One batch: a point's parameters are put together once for each.
  setting = setting._replace(data=data, batch_size=largest)
  test = evaluation.place(setting, 'test')
  grid = np.asarray(
      [(first, second) for first in scalings for second in scalings], np.float32
  )
  points = np.asarray([(1, 0), (0, 1), (1, 1)], np.float32)
  found = []
  for model in negation_results.MODELS:
    error, correct = np.zeros(len(grid)), {}
    for name, task in pair.items():
      head = task_losses.padded_head(setting, task)
      counts = functools.partial(
          full_batch.exact_mean,
          batches=test.batches[task],
          num_examples=test.num_examples[task],
      )
      functions = _functions(setting.module, model == 'linearised', name)
      disagree, right = (jax.tree_util.Partial(fn, head) for fn in functions)
      operands = (setting.base_params, vectors)
      error += np.asarray(counts(disagree, (*operands, grid)), np.float64)
      correct[name] = np.asarray(counts(right, (*operands, points)))
    found.append(
        negation_results.Disentanglement(
            seed=seed,
            model=model,
            tasks=list(pair.values()),
            num_images=largest,
            scalings=list(scalings),
            error=error.reshape(len(scalings), len(scalings)).tolist(),
            alone={
                task: float(correct[name][index])
                for index, (name, task) in enumerate(pair.items())
            },
            together={
                task: float(correct[name][2]) for name, task in pair.items()
            },
        )
    )
  return found


# One function a module, model and place in the pair; heads are data.
@functools.cache
def _functions(module, is_linear: bool, name: str):
  """Returns `(head, operands, batch) -> [S]`: numbers disagreeing, correct."""

  def predict_fn(head, base_params, batch):
    apply = functools.partial(losses.logits, module, head)
    fn = linearised.linearised(apply, base_params) if is_linear else apply
    # Padding is class 0 for every model, so that it never disagrees.
    return lambda params: jnp.where(
        batch.mask, jnp.argmax(fn(params, batch.inputs), axis=1), 0
    )

  def disagree(head, operands, batch):
    base_params, task_vectors, scalings = operands
    return linearised.num_disagreements(
        predict_fn(head, base_params, batch),
        base_params,
        task_vectors,
        scalings,
        task=name,
    )

  def right(head, operands, batch):
    base_params, task_vectors, scalings = operands
    predict = predict_fn(head, base_params, batch)

    def one(row):
      params = base_params
      for index, vector in enumerate(task_vectors.values()):
        params = arithmetic.edit(params, vector, row[index])
      hits = (predict(params) == batch.labels) & batch.mask
      return jnp.sum(hits, dtype=row.dtype)

    return jax.lax.map(one, scalings)

  return disagree, right


def _at_most(arrays: setting_lib.Arrays, num_images: int) -> setting_lib.Arrays:
  """Returns images evenly from a split, at most so many; 0 for all."""
  if not num_images or num_images >= arrays.num_examples:
    return arrays
  index = (
      np.linspace(0, arrays.num_examples - 1, num_images).round().astype(int)
  )
  return setting_lib.Arrays(
      arrays.inputs[index], arrays.labels[index], num_images
  )
