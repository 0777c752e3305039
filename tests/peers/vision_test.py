"""The same weights in transformers and here: embeddings, gradients, files.

Run in an environment with torch and transformers, `pytest tests/peers`.
"""

import functools
import json

from flax import serialization
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors
import torch
import transformers

from taskvec_jax.models import encoders
from taskvec_jax.models import pretrained

_NUM_CLASSES = 7
_SMALL = dict(
    vision_config=dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
    ),
    text_config=dict(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        vocab_size=99,
        max_position_embeddings=12,
        bos_token_id=97,
        eos_token_id=98,
    ),
    projection_dim=20,
)

_encode = jax.jit(encoders.encode, static_argnums=0)


def _clip(seed=0, **config):
  """Returns a CLIP in which no bias is zero and no scale is one."""
  torch.manual_seed(seed)
  model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if name != 'logit_scale' and parameter.ndim == 1:
        parameter += 0.2 * torch.randn_like(parameter)
  return model


def _images(model, num_images):
  size = model.config.vision_config.image_size
  rng = np.random.default_rng(0)
  return rng.normal(size=(num_images, size, size, 3)).astype(np.float32)


def _channels_first(images):
  return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _image_features(model, images):
  """Returns transformers' embeddings `[N, D]`."""
  with torch.no_grad():
    found = model.get_image_features(_channels_first(images))
  return found.pooler_output.numpy()


def _relative(found, expected):
  found, expected = np.asarray(found), np.asarray(expected)
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _head(model):
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(model.config.projection_dim, _NUM_CLASSES))
  return kernel.astype(np.float32)


def _torch_gradients(model, images, labels, folder):
  """Returns the parameters' gradients, read like a checkpoint of its own."""
  model.zero_grad()
  found = model.get_image_features(_channels_first(images)).pooler_output
  logits = found @ torch.from_numpy(_head(model))
  loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
  loss.backward()
  tensors = {
      name: p.grad.numpy()
      for name, p in model.named_parameters()
      if name.startswith('vis')
  }
  folder.mkdir()
  safetensors.save_file(tensors, folder / 'model.safetensors')
  return pretrained.read(folder).vision


@functools.partial(jax.jit, static_argnums=0)
def _features_and_gradients(module, params, images, labels, kernel):
  def loss(params):
    features = encoders.encode(module, params, images)
    log_p = jax.nn.log_softmax(features @ kernel)
    return -jnp.mean(log_p[jnp.arange(len(labels)), labels]), features

  gradients, features = jax.grad(loss, has_aux=True)(params)
  return features, gradients


def _check_gradients(found, expected):
  found, expected = (
      traverse_util.flatten_dict(tree, sep='/') for tree in (found, expected)
  )
  assert found.keys() == expected.keys()
  norms = {leaf: np.linalg.norm(g) for leaf, g in expected.items()}
  whole = np.sqrt(sum(norm**2 for norm in norms.values()))
  for leaf, values in expected.items():
    error = np.linalg.norm(np.asarray(found[leaf]) - values)
    assert error <= 1e-4 * max(norms[leaf], 1e-3 * whole), leaf


def _open_clip(state):
  """Returns the tensors that open_clip would have of the same CLIP."""
  tensors = {
      'logit_scale': state['logit_scale'],
      'token_embedding.weight': state[
          'text_model.embeddings.token_embedding.weight'
      ],
      'positional_embedding': state[
          'text_model.embeddings.position_embedding.weight'
      ],
      'ln_final.weight': state['text_model.final_layer_norm.weight'],
      'ln_final.bias': state['text_model.final_layer_norm.bias'],
      'text_projection': state['text_projection.weight'].T,
      'visual.class_embedding': state[
          'vision_model.embeddings.class_embedding'
      ],
      'visual.positional_embedding': state[
          'vision_model.embeddings.position_embedding.weight'
      ],
      'visual.conv1.weight': state[
          'vision_model.embeddings.patch_embedding.weight'
      ],
      'visual.ln_pre.weight': state['vision_model.pre_layrnorm.weight'],
      'visual.ln_pre.bias': state['vision_model.pre_layrnorm.bias'],
      'visual.ln_post.weight': state['vision_model.post_layernorm.weight'],
      'visual.ln_post.bias': state['vision_model.post_layernorm.bias'],
      'visual.proj': state['visual_projection.weight'].T,
  }
  for theirs, ours in (('vision_model', 'visual.'), ('text_model', '')):
    for index in range(len(state)):
      block = f'{theirs}.encoder.layers.{index}.'
      if f'{block}mlp.fc1.bias' not in state:
        break
      name = f'{ours}transformer.resblocks.{index}.'
      for part in ('weight', 'bias'):
        tensors[f'{name}attn.in_proj_{part}'] = np.concatenate(
            [state[f'{block}self_attn.{x}_proj.{part}'] for x in 'qkv']
        )
        for old, new in (
            ('self_attn.out_proj', 'attn.out_proj'),
            ('mlp.fc1', 'mlp.c_fc'),
            ('mlp.fc2', 'mlp.c_proj'),
            ('layer_norm1', 'ln_1'),
            ('layer_norm2', 'ln_2'),
        ):
          tensors[f'{name}{new}.{part}'] = state[f'{block}{old}.{part}']
  return tensors


def _flax(state):
  """Returns what transformers 4 kept of the same CLIP in Flax, nested."""
  arrays = {}
  for name, tensor in state.items():
    *owner, last = name.split('.')
    if last == 'weight':
      if tensor.ndim == 4:
        last, tensor = 'kernel', tensor.transpose(2, 3, 1, 0)
      elif 'norm' in owner[-1]:
        last = 'scale'
      elif 'embedding' in owner[-1]:
        last = 'embedding'
      else:
        last, tensor = 'kernel', tensor.T
    arrays[(*owner, last)] = np.ascontiguousarray(tensor).reshape(tensor.shape)
  return traverse_util.unflatten_dict(arrays)


def _write_open_clip(model, folder):
  folder.mkdir()
  state = {name: t.numpy() for name, t in model.state_dict().items()}
  tensors = {
      name: np.ascontiguousarray(tensor).reshape(tensor.shape)
      for name, tensor in _open_clip(state).items()
  }
  safetensors.save_file(tensors, folder / 'open_clip_model.safetensors')
  config, text = model.config.vision_config, model.config.text_config
  vision_cfg = {
      'width': config.hidden_size,
      'layers': config.num_hidden_layers,
      'patch_size': config.patch_size,
      'head_width': config.hidden_size // config.num_attention_heads,
  }
  text_cfg = {
      'width': text.hidden_size,
      'heads': text.num_attention_heads,
      'layers': text.num_hidden_layers,
  }
  model_cfg = {
      'quick_gelu': True,
      'vision_cfg': vision_cfg,
      'text_cfg': text_cfg,
  }
  (folder / 'open_clip_config.json').write_text(
      json.dumps({'model_cfg': model_cfg})
  )


def _write_flax(model, folder):
  model.config.save_pretrained(folder)
  state = {name: t.numpy() for name, t in model.state_dict().items()}
  data = serialization.to_bytes(_flax(state))
  (folder / 'flax_model.msgpack').write_bytes(data)


def _write_vision(model, folder):
  """Saves what transformers saves of the vision tower alone."""
  alone = transformers.CLIPVisionModel(model.config.vision_config)
  state = model.state_dict()
  prefix = 'vision_model.'
  own = {
      name.removeprefix(prefix): tensor
      for name, tensor in state.items()
      if name.startswith(prefix)
  }
  missing, unexpected = alone.load_state_dict(own, strict=False)
  assert not missing and not unexpected
  alone.save_pretrained(folder)


def _write_vision_with_projection(model, folder):
  config = transformers.CLIPVisionConfig.from_dict(
      model.config.vision_config.to_dict()
      | {'projection_dim': model.config.projection_dim}
  )
  alone = transformers.CLIPVisionModelWithProjection(config)
  state = model.state_dict()
  alone.load_state_dict({name: state[name] for name in alone.state_dict()})
  alone.save_pretrained(folder)


_WRITERS = {
    'whole': lambda model, folder: model.save_pretrained(folder),
    'sharded': lambda model, folder: model.save_pretrained(
        folder, max_shard_size='20KB'
    ),
    'float16': lambda model, folder: model.half().save_pretrained(folder),
    'bfloat16': lambda model, folder: model.bfloat16().save_pretrained(folder),
    'vision alone': _write_vision,
    'vision with projection': _write_vision_with_projection,
    'flax': _write_flax,
    'open_clip': _write_open_clip,
}
# What opens them in transformers.
_READERS = {
    'whole': transformers.CLIPModel,
    'sharded': transformers.CLIPModel,
    'float16': transformers.CLIPModel,
    'bfloat16': transformers.CLIPModel,
    'vision alone': transformers.CLIPVisionModel,
    'vision with projection': transformers.CLIPVisionModelWithProjection,
}


def _contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """One small CLIP in every layout."""
  root = tmp_path_factory.mktemp('clip')
  for name, write in _WRITERS.items():
    write(_clip(**_SMALL), root / name)
  return root


@pytest.mark.parametrize('layout', _WRITERS)
def test_image_embeddings_are_those_of_transformers(folders, layout):
  model = _clip(**_SMALL)
  if layout in ('float16', 'bfloat16'):
    model = getattr(model, {'float16': 'half'}.get(layout, layout))().float()
  images = _images(model, 5)
  weights = pretrained.read(folders / layout)
  module = pretrained.vision_module(weights.source)
  found = _encode(module, weights.vision, images)
  expected = _image_features(model, images)
  if layout == 'vision alone':
    with torch.no_grad():
      outputs = model.vision_model(_channels_first(images))
    expected = outputs.pooler_output.numpy()
  assert _relative(found, expected) < 2e-5


@pytest.mark.parametrize('layout', ['whole', 'flax', 'open_clip'])
def test_text_embeddings_and_logits_are_those_of_transformers(folders, layout):
  model = _clip(**_SMALL)
  images = _images(model, 5)
  rng = np.random.default_rng(2)
  tokens = rng.integers(0, 97, size=(4, 12))
  tokens[:, 0] = 97
  tokens[np.arange(4), [3, 11, 1, 7]] = 98
  with torch.no_grad():
    outputs = model(
        input_ids=torch.from_numpy(tokens),
        pixel_values=_channels_first(images),
    )
    features = model.get_text_features(torch.from_numpy(tokens)).pooler_output
  weights = pretrained.read(folders / layout)
  text = _encode(
      pretrained.text_module(weights.source), weights.text, jnp.asarray(tokens)
  )
  assert _relative(text, features.numpy()) < 2e-5
  module = pretrained.vision_module(weights.source).clone(normalize=True)
  found = _encode(module, weights.vision, images)
  cosines = found @ (text / jnp.linalg.norm(text, axis=1, keepdims=True)).T
  logits = np.exp(weights.logit_scale) * cosines
  assert _relative(logits, outputs.logits_per_image.numpy()) < 2e-5


@pytest.mark.parametrize('layout', ['whole', 'flax', 'open_clip'])
def test_every_gradient_is_that_of_torch(folders, layout, tmp_path):
  model = _clip(**_SMALL)
  images = _images(model, 6)
  labels = np.arange(6) % _NUM_CLASSES
  expected = _torch_gradients(model, images, labels, tmp_path / 'gradients')
  weights = pretrained.read(folders / layout)
  module = pretrained.vision_module(weights.source)
  _, found = _features_and_gradients(
      module, weights.vision, images, labels, _head(model)
  )
  _check_gradients(found, expected)


@pytest.mark.parametrize('layout', _WRITERS)
def test_what_is_read_is_written_to_the_same_bytes(folders, layout, tmp_path):
  pretrained.write(tmp_path / 'copy', pretrained.read(folders / layout))
  assert _contents(tmp_path / 'copy') == _contents(folders / layout)


@pytest.mark.parametrize('layout', _READERS)
def test_a_merged_model_opens_in_transformers_and_predicts_the_same(
    folders, layout, tmp_path
):
  base = pretrained.read(folders / layout)
  _WRITERS[layout](_clip(seed=1, **_SMALL), tmp_path / 'finetuned')
  finetuned = pretrained.read_finetuned(tmp_path / 'finetuned', base)
  merged = jax.tree.map(lambda a, b: a + 0.4 * (b - a), base.vision, finetuned)
  pretrained.write(tmp_path / 'merged', base._replace(vision=merged))
  model, info = _READERS[layout].from_pretrained(
      tmp_path / 'merged', output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  images = _images(_clip(**_SMALL), 20)
  with torch.no_grad():
    pixels = _channels_first(images)
    if layout == 'vision alone':
      expected = model.eval()(pixels).pooler_output
    elif layout == 'vision with projection':
      expected = model.eval()(pixels).image_embeds
    else:
      expected = model.eval().get_image_features(pixels).pooler_output
  again = pretrained.read(tmp_path / 'merged')
  module = pretrained.vision_module(again.source)
  found = _encode(module, again.vision, images)
  assert _relative(found, expected.numpy()) < 2e-5
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(found.shape[1], _NUM_CLASSES))
  np.testing.assert_array_equal(
      np.argmax(found @ kernel, axis=1),
      np.argmax(expected.numpy() @ kernel, axis=1),
  )
  # Merging moved it: the base predicts something else somewhere.
  before = _encode(module, base.vision, images)
  assert _relative(before, found) > 1e-2


def test_vit_b_32_agrees_at_its_true_size(tmp_path):
  model = _clip()
  model.save_pretrained(tmp_path / 'whole')
  images = _images(model, 2)
  labels = np.array([3, 5])
  weights = pretrained.read(tmp_path / 'whole', has_text=False)
  module = pretrained.vision_module(weights.source)
  features, gradients = _features_and_gradients(
      module, weights.vision, images, labels, _head(model)
  )
  assert _relative(features, _image_features(model, images)) < 2e-5
  expected = _torch_gradients(model, images, labels, tmp_path / 'gradients')
  _check_gradients(gradients, expected)
