"""Linear heads: one a task, fitted once, then frozen.

  logits = features kernel + bias

A task's loss is a function of the encoder's parameters alone, so that all tasks
share one parameter space; the head that turns features into that task's classes
is fixed. Where CLIP has a zero-shot head made of its text encoder's embeddings,
the packaged setting has a linear probe fitted on the base encoder's features of
a few examples a class.

Shapes: N examples, D features, C classes.
"""

from typing import NamedTuple
import warnings

import jax.numpy as jnp
import numpy as np
from sklearn import linear_model

from taskvec_jax.typing import Array

# exp(-10,000) is 0 in float64, too.
_NEVER = -1e4


class Head(NamedTuple):
  """A linear head; a pytree of two arrays."""

  kernel: Array  # [D, C]
  bias: Array  # [C]


def logits(head: Head, features: Array) -> Array:
  """Returns logits `[N, C]` of `features [N, D]`."""
  return features @ head.kernel + head.bias


def pad_classes(head: Head, *, num_classes: int) -> Head:
  """Returns the head with classes added that never get any probability.

  Their logit is so low that the softmax of any float type makes it exactly 0,
  so losses, gradients and Hessians stay what they were. Tasks of different
  numbers of classes then have equal shapes and share compiled programs.
  """
  missing = num_classes - head.kernel.shape[1]
  if missing < 0:
    raise ValueError(
        f'The head has {head.kernel.shape[1]} classes, more than the'
        f' {num_classes} to pad to.'
    )
  return Head(
      jnp.pad(head.kernel, [(0, 0), (0, missing)]),
      jnp.pad(head.bias, (0, missing), constant_values=_NEVER),
  )


def check_fits(head: Head, *, num_features: int) -> None:
  """Raises a ValueError unless `head` reads `num_features` features."""
  if head.kernel.shape[0] != num_features:
    raise ValueError(
        f'The head reads {head.kernel.shape[0]} features but the encoder gives'
        f' {num_features}; fit the head on features of this encoder.'
    )


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    regularization: float = 1.0,
) -> Head:
  """Returns the multinomial logistic regression of labels on features.

  Features are centred and divided by one number, their root mean square, so
  that `regularization` means the same for every encoder; both are then folded
  into the head, which reads plain features. With two classes, where
  scikit-learn fits one row w, the head's rows are -w/2 and w/2: the same
  probabilities.

  Args:
    features: float `[N, D]`, of a few examples a class.
    labels: int `[N]`, each of `0..C-1` at least once.
    num_classes: C.
    regularization: scikit-learn's C, the inverse of the weight of |kernel|^2/2
      against the summed cross-entropy.

  Returns:
    A head in the features' dtype; the same one for the same arguments.

  Raises:
    ValueError: if features and labels do not fit, or a class has no example.
  """
  features, labels = np.asarray(features), np.asarray(labels)
  if features.ndim != 2 or len(features) != len(labels):
    raise ValueError(
        f'A linear probe needs features [N, D] and labels [N] but has shapes'
        f' {features.shape} and {labels.shape}.'
    )
  missing = sorted(set(range(num_classes)) - set(labels.tolist()))
  if missing or len(np.unique(labels)) != num_classes:
    raise ValueError(
        f'A linear probe of {num_classes} classes needs examples of exactly'
        f' those, but has labels {np.unique(labels).tolist()}; give it at least'
        ' one example a class.'
    )
  if not regularization > 0:
    raise ValueError(f'regularization must be positive, not {regularization}.')
  exact = features.astype(np.float64)
  mean = exact.mean(0)
  size = np.sqrt(np.mean((exact - mean) ** 2)) or 1.0
  model = linear_model.LogisticRegression(
      C=regularization, tol=1e-6, max_iter=10_000
  )
  with warnings.catch_warnings():
    # One image a class is asked for; it is no regression.
    warnings.filterwarnings('ignore', 'The number of unique classes')
    model.fit((exact - mean) / size, labels)
  rows, bias = model.coef_ / size, model.intercept_
  if num_classes == 2:
    rows = np.concatenate([-rows, rows]) / 2
    bias = np.concatenate([-bias, bias]) / 2
  return Head(
      jnp.asarray(rows.T, features.dtype),
      jnp.asarray(bias - rows @ mean, features.dtype),
  )
