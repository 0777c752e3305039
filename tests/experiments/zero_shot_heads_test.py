import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.experiments import zero_shot_heads
from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import heads as heads_lib
from taskvec_jax.models import tokenizer as tokenizer_lib
from taskvec_jax.models import zero_shot
from taskvec_jax.tasks import benchmarks

_PROMPTS = {
    'pets': benchmarks.Prompts(('cat', 'dog'), ('a {}.',)),
    'signs': benchmarks.Prompts(('go', 'no', 'up'), ('a {}.', 'the {}.')),
}


@pytest.fixture(scope='module')
def tower():
  signs = 'abcdefghijklmnopqrstuvwxyz.'
  tokens = [*signs, *(f'{sign}</w>' for sign in signs)]
  tokens += ['<|startoftext|>', '<|endoftext|>']
  vocabulary = {token: number for number, token in enumerate(tokens)}
  tokenizer = tokenizer_lib.from_vocabulary(vocabulary, [])
  module = clip_text.TextTransformer(
      vocab_size=len(tokens),
      width=4,
      depth=1,
      num_heads=2,
      mlp_width=6,
      projection=3,
      max_length=16,
  )
  shapes = jax.eval_shape(
      lambda key: encoders.init(module, key, jnp.zeros((1, 16), jnp.int32)),
      jax.random.key(0),
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  return module, params, tokenizer


@pytest.fixture
def made(monkeypatch):
  """The class names for which a head was made; the heads are all ones."""
  names = []

  def make(module, params, tokenizer, class_names, templates, *, logit_scale):
    zero_shot.prompts(class_names, templates)
    names.append(class_names)
    num_classes = len(class_names)
    return heads_lib.Head(jnp.ones((3, num_classes)), jnp.zeros(num_classes))

  monkeypatch.setattr(zero_shot, 'zero_shot_head', make)
  return names


def _heads(tower, tmp_path, prompts=None, logit_scale=2.0):
  return zero_shot_heads.zero_shot_heads(
      *tower,
      _PROMPTS if prompts is None else prompts,
      logit_scale=logit_scale,
      cache_dir=tmp_path / 'cache',
  )


def test_heads_made_and_heads_read_are_those_of_zero_shot(
    tower, tmp_path, monkeypatch
):
  first = _heads(tower, tmp_path)
  assert {name: head.kernel.shape for name, head in first.items()} == {
      'pets': (3, 2),
      'signs': (3, 3),
  }
  expected = zero_shot.zero_shot_head(
      *tower, *_PROMPTS['signs'], logit_scale=2.0
  )
  monkeypatch.setattr(zero_shot, 'zero_shot_head', None)  # no longer called
  again = _heads(tower, tmp_path)
  for heads in (first, again):
    np.testing.assert_array_equal(heads['signs'].kernel, expected.kernel)
    assert heads['signs'].kernel.dtype == expected.kernel.dtype
  np.testing.assert_array_equal(again['pets'].bias, np.zeros(2, np.float32))


def test_whatever_a_head_depends_on_makes_it_anew(tower, tmp_path, made):
  module, params, tokenizer = tower
  _heads(tower, tmp_path)
  assert made == [('cat', 'dog'), ('go', 'no', 'up')]
  del made[:]
  _heads(tower, tmp_path)
  assert made == []
  _heads(tower, tmp_path, logit_scale=2.5)
  assert len(made) == 2
  other = dict(params, ln_final=dict(params['ln_final']))
  other['ln_final']['bias'] = params['ln_final']['bias'] + 1e-3
  _heads((module, other, tokenizer), tmp_path)
  assert len(made) == 4
  _heads((module, params, tokenizer._replace(digest='another')), tmp_path)
  assert len(made) == 6
  _heads((module.clone(activation='gelu'), params, tokenizer), tmp_path)
  assert len(made) == 8
  # Only the task whose names or templates changed.
  pets = _PROMPTS['pets']
  _heads(
      tower, tmp_path, {**_PROMPTS, 'pets': pets._replace(templates=('{}',))}
  )
  _heads(tower, tmp_path, {**_PROMPTS, 'pets': pets._replace(class_names='ab')})
  assert len(made) == 10


def test_a_damaged_file_is_made_again_with_a_warning(
    tower, tmp_path, made, caplog
):
  expected = _heads(tower, tmp_path)
  (path,) = (tmp_path / 'cache').glob('zero_shot_pets_*.npz')
  path.write_bytes(path.read_bytes()[:100])
  del made[:]
  again = _heads(tower, tmp_path)
  assert made == [('cat', 'dog')]
  assert 'cannot be read' in caplog.text
  np.testing.assert_array_equal(again['pets'].kernel, expected['pets'].kernel)
  assert not list((tmp_path / 'cache').glob('*.tmp'))


def test_a_cache_that_cannot_be_written_only_warns(
    tower, tmp_path, made, caplog
):
  (tmp_path / 'cache').write_text('a file where the folder should be')
  assert set(_heads(tower, tmp_path)) == set(_PROMPTS)
  assert 'is not kept' in caplog.text


def test_a_wrong_prompt_names_its_task_and_a_wrong_tokenizer_comes_first(
    tower, tmp_path, made
):
  with pytest.raises(ValueError, match="'pets': The template 'a cat' has no"):
    _heads(tower, tmp_path, {'pets': (('cat', 'dog'), ('a cat',))})
  module, params, tokenizer = tower
  del made[:]
  with pytest.raises(ValueError, match='end token is 55 but'):
    _heads((module.clone(end_token=3), params, tokenizer), tmp_path)
  assert made == []
