import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.models import tokenizer as tokenizer_lib
from taskvec_jax.models import zero_shot

_LETTERS = 'abcdefghijklmnopqrstuvwxyz .'
_NAMES = ('ape', 'bee', 'cow')
_TEMPLATES = ('a {}.', 'the small {}.')


def _tokenizer(extra=()):
  tokens = [*_LETTERS, *(f'{letter}</w>' for letter in _LETTERS), *extra]
  tokens += ['<|startoftext|>', '<|endoftext|>']
  return tokenizer_lib.from_vocabulary(
      {token: number for number, token in enumerate(tokens)}, []
  )


def _tower(**changes):
  tokenizer = _tokenizer()
  sizes = dict(
      vocab_size=tokenizer.max_token + 1,
      width=4,
      depth=1,
      num_heads=2,
      mlp_width=6,
      projection=3,
      max_length=40,
  )
  module = clip_text.TextTransformer(**{**sizes, **changes})
  shapes = jax.eval_shape(
      lambda key: encoders.init(module, key, jnp.zeros((1, 40), jnp.int32)),
      jax.random.key(0),
  )
  rng = np.random.default_rng(1)
  params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  return module, params, tokenizer


def test_a_column_is_the_renormalised_mean_of_normalised_prompts():
  module, params, tokenizer = _tower()
  head = zero_shot.zero_shot_head(
      module, params, tokenizer, _NAMES, _TEMPLATES, logit_scale=1.5
  )
  assert isinstance(head, heads.Head)
  assert head.kernel.dtype == jnp.float32
  np.testing.assert_array_equal(head.bias, np.zeros(3))
  texts = ['a ape.', 'the small ape.', 'a bee.', 'the small bee.']
  texts += ['a cow.', 'the small cow.']
  tokens = tokenizer_lib.tokenize(tokenizer, texts, length=40)
  features = np.asarray(
      jax.jit(encoders.encode, static_argnums=0)(module, params, tokens)
  )
  for label in range(3):
    first, second = features[2 * label : 2 * label + 2]
    mean = (first / math.hypot(*first) + second / math.hypot(*second)) / 2
    expected = math.exp(1.5) * mean / math.hypot(*mean)
    np.testing.assert_allclose(head.kernel[:, label], expected, rtol=2e-5)
  lengths = np.linalg.norm(head.kernel, axis=0)
  np.testing.assert_allclose(lengths, math.exp(1.5), rtol=1e-6)


def test_logits_of_unit_features_are_scaled_cosines():
  module, params, tokenizer = _tower()
  head = zero_shot.zero_shot_head(
      module, params, tokenizer, _NAMES, _TEMPLATES, logit_scale=math.log(50)
  )
  features = np.asarray(head.kernel).T / 50  # each class's own direction
  logits = heads.logits(head, jnp.asarray(features))
  np.testing.assert_allclose(np.diag(logits), 50, rtol=1e-5)
  assert np.abs(logits).max() <= 50 * (1 + 1e-5)


def test_the_batch_size_changes_nothing_and_no_text_is_lost():
  module, params, tokenizer = _tower()
  tokens = tokenizer_lib.tokenize(
      tokenizer, ['ape', 'bee', 'the cow', 'a', 'zebra'], length=40
  )
  whole = zero_shot.text_features(module, params, tokens, batch_size=64)
  assert whole.shape == (5, 3)
  parts = zero_shot.text_features(module, params, tokens, batch_size=2)
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='batch_size is 0'):
    zero_shot.text_features(module, params, tokens, batch_size=0)


def test_texts_are_no_longer_than_they_must_be(monkeypatch):
  module, params, tokenizer = _tower()
  shapes = []

  def encode(module, params, tokens):
    shapes.append(tokens.shape)
    return np.zeros((len(tokens), 3), np.float32)

  monkeypatch.setattr(zero_shot, '_encode', encode)
  for text in ('a', 'abcdefghijklmn', 'abcdefghijklmno', 60 * 'a'):
    tokens = tokenizer_lib.tokenize(tokenizer, 3 * [text], length=40)
    zero_shot.text_features(module, params, tokens, batch_size=2)
  assert shapes[::2] == [(2, 16), (2, 16), (2, 32), (2, 40)]


def test_names_go_into_templates_class_by_class():
  assert zero_shot.prompts(['x {}', 'y'], ['{}!', 'a {}.']) == (
      ['x {}!', 'a x {}.'] + ['y!', 'a y.']
  )


@pytest.mark.parametrize(
    ('names', 'templates', 'sentence'),
    [
        ([], _TEMPLATES, 'there are 0 and 2'),
        (_NAMES, [], 'there are 3 and 0'),
        (['ape', ' '], _TEMPLATES, "class 1 of 2 is ' '"),
        (_NAMES, ['a photo'], "'a photo' has no place"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(names, templates, sentence):
  with pytest.raises(ValueError, match=sentence):
    zero_shot.prompts(names, templates)


def test_a_tokenizer_with_more_ids_than_the_tower_is_refused():
  module, params, tokenizer = _tower(vocab_size=20)
  with pytest.raises(ValueError, match='has 20 token embeddings'):
    zero_shot.zero_shot_head(
        module, params, tokenizer, _NAMES, _TEMPLATES, logit_scale=0.0
    )
  with pytest.raises(ValueError, match='logit_scale is nan'):
    module, params, tokenizer = _tower()
    zero_shot.zero_shot_head(
        module, params, tokenizer, _NAMES, _TEMPLATES, logit_scale=math.nan
    )


def test_an_embedding_that_is_not_finite_names_its_class():
  module, params, tokenizer = _tower()
  embedding = params['token_embedding'].copy()
  embedding[_LETTERS.index('b')] = np.nan  # only 'bee' has a b inside
  params['token_embedding'] = embedding
  with pytest.raises(FloatingPointError, match="'bee'"):
    zero_shot.zero_shot_head(
        module, params, tokenizer, _NAMES, ['a {}'], logit_scale=0.0
    )
