import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import heads


def _clusters(num_classes, num_examples=20, num_features=6, offset=0.0):
  rng = np.random.default_rng(num_classes)
  labels = np.arange(num_examples * num_classes) % num_classes
  centres = rng.normal(size=(num_classes, num_features))
  features = centres[labels] + 0.7 * rng.normal(
      size=(len(labels), num_features)
  )
  return (features + offset).astype(np.float32), labels.astype(np.int32)


def _objective(kernel, bias, features, labels, regularization, size):
  """Summed cross-entropy + |kernel|^2 / (2 C) in units of the features."""
  logits = features @ kernel + bias
  losses = (
      np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
  )
  return losses.sum() + np.sum((kernel * size) ** 2) / (2 * regularization)


@pytest.mark.parametrize('num_classes', [2, 3, 5])
def test_probe_minimises_the_penalised_cross_entropy(num_classes):
  features, labels = _clusters(num_classes)
  head = heads.linear_probe(
      features, labels, num_classes=num_classes, regularization=0.5
  )
  exact = features.astype(np.float64)
  size = np.sqrt(np.mean((exact - exact.mean(0)) ** 2))
  kernel, bias = np.asarray(head.kernel, 'f8'), np.asarray(head.bias, 'f8')
  # One row w of two classes is the pair -w/2, w/2, of half its squared norm.
  penalty = 0.25 if num_classes == 2 else 0.5
  best = _objective(kernel, bias, exact, labels, penalty, size)
  rng = np.random.default_rng(0)
  for _ in range(20):
    step = 0.05 * rng.normal(size=kernel.shape)
    tilt = 0.05 * rng.normal(size=bias.shape)
    near = (kernel + step, bias + tilt)
    assert _objective(*near, exact, labels, penalty, size) > best


@pytest.mark.parametrize('num_classes', [2, 4])
def test_probe_separates_clusters_and_has_one_column_a_class(num_classes):
  features, labels = _clusters(num_classes)
  head = heads.linear_probe(features, labels, num_classes=num_classes)
  assert head.kernel.shape == (6, num_classes)
  assert head.bias.shape == (num_classes,)
  assert head.kernel.dtype == jnp.float32
  predictions = jnp.argmax(heads.logits(head, jnp.asarray(features)), axis=1)
  assert np.mean(np.asarray(predictions) == labels) > 0.8


def test_probe_does_not_depend_on_the_scale_or_offset_of_the_features():
  features, labels = _clusters(3)
  head = heads.linear_probe(features, labels, num_classes=3)
  moved = 100 * features + 7
  other = heads.linear_probe(moved, labels, num_classes=3)
  np.testing.assert_allclose(
      jax.nn.log_softmax(heads.logits(head, jnp.asarray(features))),
      jax.nn.log_softmax(heads.logits(other, jnp.asarray(moved))),
      atol=2e-3,
  )


def test_probe_is_the_same_every_time():
  features, labels = _clusters(4)
  first = heads.linear_probe(features, labels, num_classes=4)
  second = heads.linear_probe(features, labels, num_classes=4)
  np.testing.assert_array_equal(first.kernel, second.kernel)
  np.testing.assert_array_equal(first.bias, second.bias)


def test_probe_of_equal_features_knows_only_the_frequencies():
  labels = np.array([0, 0, 0, 1])
  head = heads.linear_probe(np.ones((4, 2), np.float32), labels, num_classes=2)
  probabilities = jax.nn.softmax(heads.logits(head, jnp.ones((1, 2))))
  np.testing.assert_allclose(probabilities, [[0.75, 0.25]], atol=1e-3)


def test_probe_refuses_a_class_without_examples():
  features, labels = _clusters(3)
  with pytest.raises(ValueError, match=r'4 classes.*labels \[0, 1, 2\]'):
    heads.linear_probe(features, labels, num_classes=4)
  with pytest.raises(ValueError, match=r'2 classes.*labels \[0, 1, 2\]'):
    heads.linear_probe(features, labels, num_classes=2)


def test_probe_refuses_shapes_that_do_not_fit_and_a_negative_penalty():
  features, labels = _clusters(3)
  with pytest.raises(ValueError, match=r'\(60, 6\) and \(59,\)'):
    heads.linear_probe(features, labels[1:], num_classes=3)
  with pytest.raises(ValueError, match='positive, not -1.0'):
    heads.linear_probe(features, labels, num_classes=3, regularization=-1.0)
