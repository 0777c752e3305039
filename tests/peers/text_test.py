"""Text towers, tokenizers and zero-shot logits beside transformers' own.

transformers gives random weights, perturbed here: fresh ones have zero biases
and unit scales, which hide what is swapped or left out. The vocabulary is
CLIP's own, from the wheel of open_clip_torch (MIT): the installed one, else pip
downloads it once.
"""

import gzip
import importlib.metadata
import json
import subprocess
import sys
import unicodedata
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.models import tokenizer as tokenizer_lib
from taskvec_jax.models import zero_shot
from taskvec_jax.tasks import benchmarks

_WHEEL_FILE = 'open_clip/bpe_simple_vocab_16e6.txt.gz'
_TINY = dict(
    vocab_size=300,
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=16,
)

_encode = jax.jit(encoders.encode, static_argnums=0)


@pytest.fixture(scope='session')
def published(request):
  """CLIP's vocabulary, a dict, and its merges, pairs of tokens."""
  try:
    dist = importlib.metadata.distribution('open_clip_torch')
    data = dist.locate_file(_WHEEL_FILE).read_bytes()
  except importlib.metadata.PackageNotFoundError:
    folder = request.config.cache.mkdir('open_clip_torch')
    if not list(folder.glob('*.whl')):
      command = ['pip', 'download', '-q', '--no-deps', 'open_clip_torch']
      subprocess.run(
          [sys.executable, '-m', *command, '-d', str(folder)], check=True
      )
    (wheel,) = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
      data = archive.read(_WHEEL_FILE)
  lines = gzip.decompress(data).decode('utf-8').split('\n')
  # 49,152 tokens: 256 bytes twice, the merges, begin and end.
  merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 1]]
  signs = _signs()
  tokens = [*signs, *(f'{sign}</w>' for sign in signs)]
  tokens += [''.join(merge) for merge in merges]
  tokens += ['<|startoftext|>', '<|endoftext|>']
  assert len(tokens) == 49408
  return {token: number for number, token in enumerate(tokens)}, merges


def _signs():
  """The 256 bytes as printable characters, in the vocabulary's order."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  return [chr(byte) for byte in shown] + [
      chr(256 + place) for place in range(len(hidden))
  ]


@pytest.fixture(scope='session')
def folders(published, tmp_path_factory):
  """The tokenizer as vocab.json and merges.txt, and as transformers does."""
  vocabulary, merges = published
  parts = tmp_path_factory.mktemp('parts')
  (parts / 'vocab.json').write_text(json.dumps(vocabulary), encoding='utf-8')
  lines = ['#version: 0.2', *(' '.join(merge) for merge in merges)]
  (parts / 'merges.txt').write_text('\n'.join(lines), encoding='utf-8')
  saved = tmp_path_factory.mktemp('saved')
  reference = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
  reference.save_pretrained(saved)
  assert (saved / 'tokenizer.json').exists()
  return reference, {'parts': parts, 'saved': saved}


def _varied_texts():
  """Returns 240 texts: prompts, scripts, signs, numbers, spaces, long ones."""
  texts = [
      '',
      ' ',
      '\t\n',
      'a',
      'A photo of a Cat.',
      'HELLO WORLD',
      "it's I'm you're we've they'll he'd DON'T can't",
      'a photo of the number: "7".',
      '3.14159 1,000,000 1e-5 0x1F 2nd 42nd ½ ² Ⅷ ٣',
      'naïve café façade Ångström Øresund Straße İstanbul ﬁne',
      unicodedata.normalize('NFD', 'naïve café Ångström'),
      'Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย 한국어 日本語 中文',
      '👍 👩‍🔬 🇩🇪 ❤️ ☃ ∑∫√ → €£¥₹ ©®™',
      '<html>&amp; &lt;b&gt; <|startoftext|> <|endoftext|> <|other|>',
      'end<|endoftext|>less',
      'a\u00a0b\u2003c\u200bd\ufeffe\u3000f',
      'snake_case kebab-case CamelCase dots.in.words e-mail@example.org',
      '!!! ??? ... --- ___ *** /// \\\\\\ ((())) [[]] {} ``` ~~~ ^^^ |||',
      "''' 's 't 're 've 'm 'll 'd '' 'S",
      'word ' * 100,
      'supercalifragilisticexpialidocious' * 12,
      '1234567890' * 20,
      'é' * 90,
      '\x00\x01\x7f control',
  ]
  for name in benchmarks.NAMES:
    names, templates = benchmarks.prompts(name)
    texts += zero_shot.prompts(names[-4:], templates[-1:])
  ranges = [(32, 127), (160, 592), (880, 1424), (0x4E00, 0x4F00)]
  ranges += [(0x2000, 0x2C00), (0x1F300, 0x1F6FF), (32, 0xD7FF)]
  rng = np.random.default_rng(0)
  while len(texts) < 240:
    low, high = ranges[len(texts) % len(ranges)]
    codes = rng.integers(low, high, rng.integers(1, 120))
    spaces = rng.random(len(codes)) < 0.15
    texts.append(''.join(map(chr, np.where(spaces, 32, codes))))
  return texts


@pytest.mark.parametrize('kind', ['parts', 'saved'])
def test_ids_equal_transformers_on_varied_texts(folders, kind):
  reference, places = folders
  tokenizer = tokenizer_lib.read_tokenizer(places[kind])
  assert (tokenizer.begin_token, tokenizer.end_token) == (49406, 49407)
  texts = _varied_texts()
  assert len(set(texts)) >= 200
  ids = tokenizer_lib.tokenize(tokenizer, texts)
  expected = reference(
      texts, padding='max_length', truncation=True, max_length=77
  )['input_ids']
  for text, mine, theirs in zip(texts, ids, expected, strict=True):
    assert mine.tolist() == theirs, repr(text)
  # Some are cut and some are not.
  filled = (ids == tokenizer.end_token).sum(1)
  assert (filled == 1).sum() >= 5
  assert (filled > 30).sum() >= 30
  assert tokenizer.pad_token == reference.pad_token_id


def test_known_ids_of_clips_vocabulary(folders):
  # As OpenAI's code gives them, whatever transformers does.
  _, places = folders
  tokenizer = tokenizer_lib.read_tokenizer(places['parts'])
  (ids,) = tokenizer_lib.tokenize(tokenizer, ['a photo of a cat'], length=7)
  assert ids.tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


def _perturbed(model, seed=0):
  """Adds noise to every parameter, so that none is zero or one."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in model.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(0.05 * noise)
  return model.eval()


def _tower(state, config, prefix):
  """Returns our text tower and transformers' parameters under our names."""
  state = {name: tensor.detach().numpy() for name, tensor in state.items()}

  def affine(name):
    return {
        'kernel': state[f'{name}.weight'].T,
        'bias': state[f'{name}.bias'],
    }

  def norm(name):
    return {'scale': state[f'{name}.weight'], 'bias': state[f'{name}.bias']}

  params = {
      'token_embedding': state[f'{prefix}embeddings.token_embedding.weight'],
      'position_embedding': state[
          f'{prefix}embeddings.position_embedding.weight'
      ],
      'ln_final': norm(f'{prefix}final_layer_norm'),
      'projection': {'kernel': state['text_projection.weight'].T},
  }
  for index in range(config.num_hidden_layers):
    layer = f'{prefix}encoder.layers.{index}'
    attention = f'{layer}.self_attn'
    params[f'block_{index}'] = {
        'ln_1': norm(f'{layer}.layer_norm1'),
        'attention': {
            'query': affine(f'{attention}.q_proj'),
            'key': affine(f'{attention}.k_proj'),
            'value': affine(f'{attention}.v_proj'),
            'out': affine(f'{attention}.out_proj'),
        },
        'ln_2': norm(f'{layer}.layer_norm2'),
        'mlp': {
            'in': affine(f'{layer}.mlp.fc1'),
            'out': affine(f'{layer}.mlp.fc2'),
        },
    }
  module = clip_text.TextTransformer(
      vocab_size=config.vocab_size,
      width=config.hidden_size,
      depth=config.num_hidden_layers,
      num_heads=config.num_attention_heads,
      mlp_width=config.intermediate_size,
      projection=config.projection_dim,
      max_length=config.max_position_embeddings,
      activation=config.hidden_act,
      end_token=None if config.eos_token_id == 2 else config.eos_token_id,
  )
  return module, jax.tree.map(jnp.asarray, params)


def _prefix(state):
  """What transformers writes before the text tower's names."""
  (name,) = (
      n for n in state if n.endswith('embeddings.token_embedding.weight')
  )
  return name.removesuffix('embeddings.token_embedding.weight')


def _relative(mine, theirs):
  mine, theirs = np.asarray(mine), np.asarray(theirs)
  return np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)


def _texts(vocab_size, end_token, num=5, length=20):
  tokens = np.random.default_rng(0).integers(3, vocab_size - 1, (num, length))
  for row, end in zip(tokens, (2, 7, length - 1, 11, 4), strict=True):
    row[end:] = end_token
  tokens[3, 14:] = 5  # filled with something else
  return tokens


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
@pytest.mark.parametrize('end_token', [2, 299, 2 + 5])
def test_embeddings_equal_transformers(activation, end_token):
  # 2 in a config is history: it means the largest id.
  config = transformers.CLIPTextConfig(
      **_TINY, hidden_act=activation, eos_token_id=end_token
  )
  model = _perturbed(transformers.CLIPTextModelWithProjection(config))
  tokens = _texts(300, 299 if end_token == 2 else end_token)
  with torch.no_grad():
    theirs = model(torch.from_numpy(tokens)).text_embeds
  state = model.state_dict()
  module, params = _tower(state, config, _prefix(state))
  mine = _encode(module, params, jnp.asarray(tokens))
  assert _relative(mine, theirs) < 2e-5


def test_embeddings_of_vit_b_32s_text_tower_equal_transformers():
  config = transformers.CLIPTextConfig()
  model = _perturbed(transformers.CLIPTextModelWithProjection(config))
  tokens = _texts(config.vocab_size, config.eos_token_id, length=77)
  with torch.no_grad():
    theirs = model(torch.from_numpy(tokens)).text_embeds
  state = model.state_dict()
  module, params = _tower(state, config, _prefix(state))
  mine = _encode(module, params, jnp.asarray(tokens))
  assert _relative(mine, theirs) < 2e-5


def test_zero_shot_logits_equal_transformers(folders):
  _, places = folders
  tokenizer = tokenizer_lib.read_tokenizer(places['saved'])
  config = transformers.CLIPConfig(
      text_config=dict(_TINY, vocab_size=49408),
      vision_config=dict(
          hidden_size=24,
          intermediate_size=48,
          num_hidden_layers=2,
          num_attention_heads=4,
          image_size=16,
          patch_size=8,
      ),
      projection_dim=16,
  )
  model = _perturbed(transformers.CLIPModel(config))
  names, template = ('cat', 'dog', 'traffic sign'), 'a photo of a {}.'
  texts = tokenizer_lib.tokenize(
      tokenizer, zero_shot.prompts(names, [template])
  )
  pixels = torch.randn(
      (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)
  )
  with torch.no_grad():
    output = model(
        input_ids=torch.from_numpy(texts).long(), pixel_values=pixels
    )
  state = model.state_dict()
  module, params = _tower(state, config.text_config, _prefix(state))
  head = zero_shot.zero_shot_head(
      module,
      params,
      tokenizer,
      names,
      [template],
      logit_scale=model.logit_scale.item(),
  )
  mine = heads.logits(head, jnp.asarray(output.image_embeds.numpy()))
  assert _relative(mine, output.logits_per_image) < 2e-5
