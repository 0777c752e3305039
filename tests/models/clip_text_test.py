import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders

_SIZES = dict(
    vocab_size=11,
    width=6,
    depth=2,
    num_heads=3,
    mlp_width=10,
    projection=5,
    max_length=8,
)
_TOKENS = np.array([[9, 3, 4, 10, 0, 0, 0], [9, 10, 10, 10, 10, 10, 10]])

# Op by op, a transformer compiles a program for every operation.
_encode = jax.jit(encoders.encode, static_argnums=0)


def _problem(dtype=np.float32, **changes):
  rng = np.random.default_rng(0)
  module = clip_text.TextTransformer(**{**_SIZES, **changes})
  shapes = jax.eval_shape(
      lambda key: encoders.init(module, key, jnp.asarray(_TOKENS)),
      jax.random.key(0),
  )
  params = jax.tree.map(
      lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(dtype), shapes
  )
  return module, params


def _layer_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * p['scale'] + p['bias']


def _affine(x, p):
  return x @ p['kernel'] + p['bias']


def _reference(params, tokens, num_heads=3, depth=2):
  """Features of one text that ends where its largest id stands."""
  tokens = tokens[: np.argmax(tokens) + 1]  # nothing behind is seen
  hidden = params['token_embedding'][tokens]
  hidden = hidden + params['position_embedding'][: len(tokens)]
  for index in range(depth):
    block = params[f'block_{index}']
    normed = _layer_norm(hidden, block['ln_1'])
    attention = block['attention']
    query, key, value = (
        np.split(_affine(normed, attention[name]), num_heads, axis=1)
        for name in ('query', 'key', 'value')
    )
    mixed = np.zeros_like(hidden)
    for i in range(len(tokens)):  # token by token, each sees those before
      row = []
      for q, k, v in zip(query, key, value, strict=True):
        weights = np.exp(k[: i + 1] @ q[i] / np.sqrt(q.shape[1]))
        row.append(weights / weights.sum() @ v[: i + 1])
      mixed[i] = np.concatenate(row)
    hidden = hidden + _affine(mixed, attention['out'])
    inner = _affine(_layer_norm(hidden, block['ln_2']), block['mlp']['in'])
    inner = inner / (1 + np.exp(-1.702 * inner))
    hidden = hidden + _affine(inner, block['mlp']['out'])
  last = _layer_norm(hidden[-1], params['ln_final'])
  return last @ params['projection']['kernel']


def test_forward_equals_a_loop_over_tokens_and_heads_in_numpy(x64):
  module, params = _problem(np.float64)
  features = _encode(module, params, jnp.asarray(_TOKENS))
  expected = [_reference(params, tokens) for tokens in _TOKENS]
  assert features.dtype == jnp.float64
  np.testing.assert_allclose(features, np.stack(expected), rtol=1e-10)


def test_what_stands_behind_the_end_token_changes_nothing(x64):
  module, params = _problem(np.float64)
  features = _encode(module, params, jnp.asarray(_TOKENS))
  other = _TOKENS.copy()
  other[0, 4:] = [10, 7, 2]
  other[1, 2:] = 0
  np.testing.assert_array_equal(
      features, _encode(module, params, jnp.asarray(other))
  )
  # What stands before it does.
  other[0, 1] = 5
  changed = _encode(module, params, jnp.asarray(other))
  assert np.abs(features[0] - changed[0]).max() > 1e-2


def test_features_are_read_at_the_largest_id_or_at_the_one_given():
  tokens = np.array([[3, 9, 2, 9, 1], [4, 2, 2, 2, 2]])
  assert clip_text.end_positions(tokens, None).tolist() == [1, 0]
  assert clip_text.end_positions(tokens, 2).tolist() == [2, 1]
  module, params = _problem(end_token=2, depth=0)
  features = _encode(module, params, jnp.asarray(tokens))
  positions = params['position_embedding'][[2, 1]]
  read = params['token_embedding'][2] + positions
  expected = _layer_norm(read, params['ln_final'])
  expected = expected @ params['projection']['kernel']
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_parameter_names_are_plain():
  _, params = _problem()
  assert sorted(params) == [
      'block_0',
      'block_1',
      'ln_final',
      'position_embedding',
      'projection',
      'token_embedding',
  ]
  assert params['token_embedding'].shape == (11, 6)
  assert params['position_embedding'].shape == (8, 6)
  assert params['projection']['kernel'].shape == (6, 5)
  block = params['block_1']
  assert sorted(block) == ['attention', 'ln_1', 'ln_2', 'mlp']
  assert sorted(block['attention']) == ['key', 'out', 'query', 'value']
  assert block['mlp']['in']['kernel'].shape == (6, 10)


def test_the_text_tower_of_vit_b_32_has_its_published_number_of_parameters():
  module = clip_text.TextTransformer(
      vocab_size=49408,
      width=512,
      depth=12,
      num_heads=8,
      mlp_width=2048,
      projection=512,
  )
  tokens = jax.ShapeDtypeStruct((1, 77), jnp.int32)
  shapes = jax.eval_shape(
      lambda key, tokens: encoders.init(module, key, tokens),
      jax.random.key(0),
      tokens,
  )
  # 151,277,313 of CLIP ViT-B/32 less 87,849,216 of its vision tower and
  # logit_scale.
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 63_428_096


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(vocab_size=0), 'positive sizes'),
        (dict(width=7), 'width of 7 cannot be divided among 3'),
        (dict(activation='relu'), "not 'relu'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    clip_text.TextTransformer(**{**_SIZES, **changes})


def test_more_tokens_than_positions_are_refused():
  module, params = _problem()
  with pytest.raises(ValueError, match='9 tokens but there are 8 positions'):
    encoders.encode(module, params, jnp.zeros((1, 9), jnp.int32))
