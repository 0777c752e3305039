import jax
import numpy as np
import pytest

from taskvec_jax.studies import coloured_digits
from taskvec_jax.studies import pattern_tasks
from taskvec_jax.studies import provable_editing as law
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.tasks import task as task_lib

_SIZES = pattern_tasks.Sizes(5, 1, 4, 9)
_FIRST = np.array([1.0, 0.0, 0.0])


def dense_margins(params, labels, tokens):
  """y f(X) by the text's formula, every token for itself, in float64."""
  kernel = np.asarray(params['attention']['kernel'], np.float64)
  values = np.asarray(params['value']['kernel'], np.float64).T
  weights = pattern_tasks.output_weights(len(values))
  found = []
  for label, example in zip(labels, tokens, strict=True):
    total = 0.0
    for query in example:
      scores = np.exp([key @ kernel @ query for key in example])
      mixed = (scores / scores.sum()) @ example
      total += weights @ np.maximum(values @ mixed, 0)
    found.append(label * total / len(example))
  return np.array(found)


def repeated(batch):
  """All P tokens of each example, `[N, P, d]`."""
  counts = np.asarray(batch.counts).astype(int)
  counts = counts.reshape(-1, counts.shape[-1])[0]
  return np.repeat(np.asarray(batch.tokens, np.float64), counts, axis=-2)


def test_counted_tokens_give_what_all_tokens_give():
  batch = pattern_tasks.draw((0,), _FIRST, _SIZES, num=6)
  params = pattern_tasks.init((1,), dim=12, width=8, scale=0.7)
  expected = dense_margins(params, batch.labels, repeated(batch))
  found = pattern_tasks.margins(params, batch)
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
  assert np.ptp(expected) > 0.1


def test_an_example_has_the_tokens_of_its_label():
  patterns = pattern_tasks.correlated(np.array([-0.5, 1.0]))
  np.testing.assert_allclose(patterns @ _FIRST, [-0.5, 1.0])
  np.testing.assert_allclose(np.linalg.norm(patterns, axis=1), 1)
  batch = pattern_tasks.draw((0,), patterns, _SIZES, num=4)
  tokens = repeated(batch)
  assert tokens.shape == (2, 4, 10, 12)
  for run, pattern in enumerate(patterns):
    share = tokens[run, :, :, :3] @ pattern
    np.testing.assert_allclose(share.sum(1), 4 * batch.labels[run], rtol=1e-6)
  # The background is the same for all patterns, one unit vector a token.
  np.testing.assert_array_equal(tokens[0, :, 6:, 3:], tokens[1, :, 6:, 3:])
  np.testing.assert_array_equal(tokens[0, :, 6:, 3:].sum(-1), 1)


def idealised(patterns, scalings, attention, size):
  """A merge whose experts are exactly what the margin law takes them for."""
  dim, width = pattern_tasks.dimension(_SIZES), 6
  signs = np.sign(pattern_tasks.output_weights(width))
  kernel, value = np.zeros((dim, dim)), np.zeros((dim, width))
  for pattern, scaling in zip(patterns, scalings, strict=True):
    mu = np.concatenate([pattern, np.zeros(dim - 3)])
    kernel += scaling * attention * np.outer(mu, mu)
    value += scaling * size * np.outer(mu, signs)
  return {'attention': {'kernel': kernel}, 'value': {'kernel': value}}


@pytest.mark.parametrize(
    ('scalings', 'shares'),
    [
        ((1.0, 0.0), (1.0, 0.0)),
        ((1.0, 0.7), (0.6, 0.8)),
        ((1.0, -3.0), (0.0, 1.0)),
        ((-2.0, 1.5), (0.5, -0.5)),
    ],
)
def test_the_margin_law_is_exact_for_idealised_experts(scalings, shares):
  patterns = np.eye(3)[:2]
  target = np.array([*shares, np.sqrt(1 - np.sum(np.square(shares)))])
  batch = pattern_tasks.draw((3,), target, _SIZES, num=2)
  own = pattern_tasks.draw((3,), patterns[0], _SIZES, num=2)
  attention, size = 1.3, 0.4

  def margin(chosen, examples):
    params = idealised(patterns, chosen, attention, size)
    return dense_margins(params, examples.labels, repeated(examples))

  expert = law.Expert(attention, float(margin((1.0, 0.0), own).mean()))
  expected = law.predicted_margin(
      *law.shares(np.array(scalings), np.array(shares)), expert, _SIZES
  )
  # Tokens and patterns are float32 numbers.
  np.testing.assert_allclose(margin(scalings, batch), expected, atol=1e-6)
  assert abs(expected) > 0.05


def test_the_pair_of_margins_is_that_of_each_task_alone():
  expert = law.Expert(1.2, 1.0)
  first, second = law.pair_margins(
      np.array([[0.5], [-2.0]]), np.array([[-0.3, 0.6]]), expert, _SIZES
  )
  for i, scaling in enumerate((0.5, -2.0)):
    for j, alpha in enumerate((-0.3, 0.6)):
      for found, shares in ((first, (1, alpha)), (second, (alpha, 1))):
        expected = law.predicted_margin(
            *law.shares(np.array([1, scaling]), np.array(shares)),
            expert,
            _SIZES,
        )
        assert found[i, j] == pytest.approx(expected)
  # Without attention of its own the second vector turns nothing round.
  _, alone = law.pair_margins(
      np.array(-5.0), np.array(0.0), expert, _SIZES, attends=False
  )
  _, both = law.pair_margins(np.array(-5.0), np.array(0.0), expert, _SIZES)
  assert alone < 0 < both


def test_training_learns_what_the_margin_law_says():
  sizes = pattern_tasks.Sizes(5, 1, 4, 16)
  batch = pattern_tasks.draw((0, 1), _FIRST[None], sizes, num=64)
  start = pattern_tasks.init(
      (0, 0), dim=pattern_tasks.dimension(sizes), width=16, scale=0.02
  )
  params = jax.tree.map(lambda x: x[None], start)

  @jax.jit
  def descend(params):
    def step(params, _):
      gradient = jax.grad(pattern_tasks.hinge_sum)(params, batch)
      return jax.tree.map(lambda x, g: x - 0.5 * g / 64, params, gradient), None

    return jax.lax.scan(step, params, None, length=60)[0]

  trained = jax.tree.map(lambda x: x[0], descend(params))
  test = pattern_tasks.draw((0, 2), _FIRST, sizes, num=64)
  own = pattern_tasks.scores(trained, test)
  assert own.loss < 0.01 and own.error == 0
  expert = law.Expert(
      float(trained['attention']['kernel'][0, 0]), float(own.margin)
  )
  assert expert.attention > 0.5
  for scaling in (-2.0, 0.5, 2.0):
    scaled = arithmetic.edit(
        start, arithmetic.task_vector(trained, start), scaling
    )
    expected = law.predicted_margin(
        np.array(scaling), np.array(scaling), expert, sizes
    )
    found = float(pattern_tasks.scores(scaled, test).margin)
    assert found == pytest.approx(expected, abs=0.1)
  # Values turned round alone would have the other sign.
  assert law.predicted_margin(np.array(-2.0), np.array(-2.0), expert, sizes) > 0


def test_the_regions_have_the_edges_of_the_theorems():
  def addition(scaling, alpha):
    return law.addition_region(np.array(scaling), np.array(alpha), beta=0.1)

  assert addition(0.8, 0.3) and not addition(0.79, 0.3)
  assert addition(1.1, 0.0) and not addition(5.0, -0.01)

  def negation(scaling, alpha, sign):
    return bool(
        law.negation_region(
            np.array(scaling),
            np.array(alpha),
            beta=0.1,
            lower=1.0,
            small_alpha=0.2,
            sign=sign,
        )
    )

  assert negation(-9.0, 0.0, 1) and not negation(0.1, 0.0, 1)
  assert negation(-4.0, -0.5, 1) and not negation(-4.1, -0.5, 1)
  assert negation(0.2, -0.5, 1) and not negation(0.21, -0.5, 1)
  assert negation(-0.2, -0.5, -1) and not negation(-0.19, -0.5, -1)
  assert negation(-0.4, 0.2, 1) and not negation(-0.4, 0.3, 1)
  assert not negation(-0.6, 0.2, 1)

  def transfer(scalings, gammas):
    return bool(
        law.transfer_region(np.array(scalings), np.array(gammas), beta=0.1)
    )

  # 0.8 l >= 1 + 0.1 l and 0.64 l >= 1 + 0.1 l: the second decides.
  edge = 1 / (0.64 - 0.1)
  assert transfer((1.01 * edge, 0.0), (0.8, 0.0))
  assert not transfer((0.99 * edge, 0.0), (0.8, 0.0))
  assert not transfer((-3.0, 0.0), (-0.8, 0.0))  # no attention
  assert not transfer((11.0, 0.0), (0.8, 0.0))  # c would exceed 1


def test_agreement_leaves_the_margin_out():
  region = np.zeros((5, 6), bool)
  region[:, 3:] = True
  clear = law.outside_margin(region, margin=1)
  np.testing.assert_array_equal(clear.sum(0), [5, 5, 0, 0, 5, 5])
  measured = region.copy()
  measured[:, 2] = True  # within the margin
  measured[0, 5] = False
  found = law.agreement(region, measured, clear)
  assert found == law.Agreement(share=19 / 20, kept=9 / 10)


def task_vector(seed=0):
  return pattern_tasks.init((seed,), dim=7, width=4, scale=1.0)


def test_a_low_rank_vector_is_the_nearest_of_its_rank():
  vector = task_vector()
  cut = law.low_rank(vector, 1)
  errors = law.relative_error(cut, vector)
  for name in vector:
    values = np.linalg.svd(vector[name]['kernel'], compute_uv=False)
    assert np.linalg.matrix_rank(cut[name]['kernel'], tol=1e-4) == 1
    expected = np.sqrt(np.sum(values[1:] ** 2) / np.sum(values**2))
    assert errors[name] == pytest.approx(expected, rel=1e-4)


def test_the_smallest_neurons_are_pruned_first():
  vector = task_vector()
  kernel = vector['value']['kernel']
  kernel[:, 2] *= 0.01
  pruned = law.pruned_neurons(vector, share=0.49)
  np.testing.assert_array_equal(pruned['value']['kernel'][:, 2], 0)
  others = [0, 1, 3]
  np.testing.assert_array_equal(
      pruned['value']['kernel'][:, others], kernel[:, others]
  )
  assert pruned['attention'] is vector['attention']


def digits(num=2000):
  rng = np.random.default_rng(0)
  images = rng.integers(1, 255, (num, 2, 2, 1)).astype(np.uint8)
  return task_lib.Examples(images, (np.arange(num) % 10).astype(np.int32))


def test_colour_follows_the_label_with_the_redness_of_the_task():
  shown = coloured_digits.examples(
      digits(), redness=0.85, noise=0.25, seed=(0,)
  )
  red = shown.images[:, 0, 0, 0] > 0
  np.testing.assert_array_equal(shown.images.max(-1), digits().images[..., 0])
  assert not shown.images[..., 2].any()
  odd = digits().labels % 2 == 1
  error = 3 * np.sqrt(0.25 / 1000)
  assert abs(np.mean(shown.labels != odd) - 0.25) < error
  assert abs(np.mean(red[shown.labels == 1]) - 0.85) < error
  assert abs(np.mean(red[shown.labels == 0]) - 0.15) < error
  opposite = coloured_digits.examples(
      digits(), redness=0.15, noise=0.25, seed=(0,)
  )
  np.testing.assert_array_equal(opposite.labels, shown.labels)


def test_outputs_that_are_opposite_have_correlation_minus_one():
  logits = np.random.default_rng(0).normal(size=(9, 2))
  assert coloured_digits.output_correlation(logits, 3 * logits) == (
      pytest.approx(1)
  )
  assert coloured_digits.output_correlation(logits, logits[:, ::-1]) == (
      pytest.approx(-1)
  )


@pytest.mark.parametrize(
    ('call', 'said'),
    [
        (
            lambda: pattern_tasks.draw((0,), _FIRST, _SIZES, num=3),
            'even and at least 2 but is 3',
        ),
        (
            lambda: pattern_tasks.draw(
                (0,), _FIRST, _SIZES._replace(num_confusing=5), num=2
            ),
            'not 5 and 5',
        ),
        (
            lambda: coloured_digits.examples(
                digits(), redness=1.2, noise=0.0, seed=(0,)
            ),
            'redness must lie in 0 .. 1 but is 1.2',
        ),
    ],
)
def test_numbers_without_sense_are_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()
