"""Averages of models: uniform, greedily chosen, pulled towards the base.

Written for task vectors, of which the models are `theta_0 + tau_t`:

  average      tau_m = (1/T) sum_t tau_t
  greedy soup  the average of those models that each raised its score
  Model Stock  tau_m = r (1/T) sum_t tau_t,  r = T c / (1 + (T - 1) c),

the last for each tensor by itself, with c the mean cosine between two of its
task vectors: the less they agree, the nearer the base. All cost a pass over
the task vectors; the soup 2 T scores and two more copies.

Sources: Wortsman et al., "Model soups", arXiv:2203.05482; Jang et al., "Model
Stock: All we need is just a few fine-tuned models", arXiv:2403.19522.
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np

from taskvec_jax.merging import checks
from taskvec_jax.merging import leaves
from taskvec_jax.typing import Array
from taskvec_jax.typing import Params


class Soup(NamedTuple):
  """What `greedy_soup` found."""

  task_vector: Params  # the average of the ingredients
  ingredients: tuple[str, ...]  # task names, in the order they went in
  score: float  # of the soup


def average(task_vectors: Mapping[str, Params]) -> Params:
  """Returns `(1/T) sum_t tau_t`, in the dtype of the leaves.

  Raises:
    ValueError: no task, or trees that differ.
  """
  checks.check_task_vectors(task_vectors)
  return leaves.merged(lambda _, stack: mean(stack), task_vectors)


def mean(stack: Array) -> Array:
  """Returns the mean over tasks of `stack [T, ...]`, a tensor or a slice."""
  return leaves.added(stack) / len(stack)


def greedy_soup(
    task_vectors: Mapping[str, Params], score_fn: Callable[[Params], float]
) -> Soup:
  """Returns the soup that takes in a model only if its score rises.

  Models go in from the best to the worst, equals in the mapping's order, and
  stay if the average with them scores strictly higher. As in the reference
  implementation the average is over the models kept so far and the new one;
  the base is no ingredient.

  Args:
    task_vectors: task name -> `tau_t`; here often one task, tuned in T ways.
    score_fn: task vector `tau` -> how good `theta_0 + tau` is on held-out data,
      higher is better.

  Raises:
    ValueError: no task, or trees that differ.
    FloatingPointError: a score that is not a number, with its task.
  """
  checks.check_task_vectors(task_vectors)

  def soup_of(*ingredients):
    vector = average({task: task_vectors[task] for task in ingredients})
    score = float(score_fn(vector))
    if math.isnan(score):
      raise FloatingPointError(
          f'The score with {ingredients[-1]} is not a number.'
      )
    return Soup(vector, ingredients, score)

  scores = {task: soup_of(task).score for task in task_vectors}
  first, *others = sorted(scores, key=lambda task: -scores[task])
  soup = soup_of(first)
  for task in others:
    candidate = soup_of(*soup.ingredients, task)
    if candidate.score > soup.score:
      soup = candidate
  return soup


def model_stock(task_vectors: Mapping[str, Params]) -> Params:
  """Returns `r (1/T) sum_t tau_t`, with each tensor's own r.

  The paper has one angle between all pairs; with more than two models this is
  the mean cosine, as in mergekit. One model has no pair and is left as it is,
  r = 1 (mergekit refuses). A zero tensor counts as at right angles to all
  others. Cosines below 0 contradict the paper's picture, models around a
  common centre, and the formula runs off to minus infinity: r is 0 there
  (mergekit has no such stop).

  Raises:
    ValueError: no task, or trees that differ.
  """
  checks.check_task_vectors(task_vectors)
  return leaves.merged(
      lambda _, stack: interpolation(leaves.stack_gram(stack)) * mean(stack),
      task_vectors,
  )


def interpolation(gram: np.ndarray) -> float:
  """Returns Model Stock's r, in [0, 1], from inner products `[T, T]`.

  For a tensor in slices, add up `leaves.stack_gram` of the slices.
  """
  num_tasks = len(gram)
  if num_tasks == 1:
    return 1.0
  norms = np.sqrt(np.diag(gram))
  products = np.outer(norms, norms)
  cosines = np.divide(
      gram, products, out=np.zeros_like(gram), where=products > 0
  )
  pairs = np.triu_indices(num_tasks, k=1)
  cosine = min(max(float(np.mean(cosines[pairs])), 0.0), 1.0)
  return num_tasks * cosine / (1 + (num_tasks - 1) * cosine)
