"""The same weights in transformers and here: embeddings, gradients, files.

Run in an environment with torch and transformers, `pytest tests/peers`.
"""

import functools

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
from tests.models import published
from tests.peers import clips

_NUM_CLASSES = 7


def _image_features(model, images):
  """Returns transformers' embeddings `[N, D]`."""
  with torch.no_grad():
    found = model.get_image_features(clips.channels_first(images))
  return found.pooler_output.numpy()


def _head(model):
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(model.config.projection_dim, _NUM_CLASSES))
  return kernel.astype(np.float32)


def _torch_gradients(model, tower, inputs, labels, folder):
  """Returns a tower's gradients, read like a checkpoint of its own."""
  model.zero_grad()
  if tower == 'vision':
    found = model.get_image_features(clips.channels_first(inputs)).pooler_output
  else:
    found = model.get_text_features(torch.from_numpy(inputs)).pooler_output
  logits = found @ torch.from_numpy(_head(model))
  loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
  loss.backward()
  # There is no file of a text tower alone: the other's gradients are zeros.
  tensors = {
      name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
      for name, p in model.named_parameters()
      if name.startswith('vis') or tower == 'text'
  }
  folder.mkdir()
  safetensors.save_file(tensors, folder / 'model.safetensors')
  return getattr(pretrained.read(folder), tower)


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
    'flax': clips.write_flax,
    'open_clip': clips.write_open_clip,
}
# What opens them in transformers.
_READERS = {
    'whole': transformers.CLIPModel,
    'sharded': transformers.CLIPModel,
    'float16': transformers.CLIPModel,
    'bfloat16': transformers.CLIPModel,
    # From what is written beside its msgpack.
    'flax': transformers.CLIPModel,
    'vision alone': transformers.CLIPVisionModel,
    'vision with projection': transformers.CLIPVisionModelWithProjection,
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """One small CLIP in every layout."""
  root = tmp_path_factory.mktemp('clip')
  for name, write in _WRITERS.items():
    write(clips.clip(**clips.SMALL), root / name)
  return root


@pytest.mark.parametrize('layout', _WRITERS)
def test_image_embeddings_are_those_of_transformers(folders, layout):
  model = clips.clip(**clips.SMALL)
  if layout in ('float16', 'bfloat16'):
    model = getattr(model, {'float16': 'half'}.get(layout, layout))().float()
  images = clips.images(model, 5)
  weights = pretrained.read(folders / layout)
  module = pretrained.vision_module(weights.source)
  found = clips.encode(module, weights.vision, images)
  expected = _image_features(model, images)
  if layout == 'vision alone':
    with torch.no_grad():
      outputs = model.vision_model(clips.channels_first(images))
    expected = outputs.pooler_output.numpy()
  assert clips.relative(found, expected) < 2e-5


@pytest.mark.parametrize('layout', ['whole', 'flax', 'open_clip'])
def test_text_embeddings_and_logits_are_those_of_transformers(folders, layout):
  model = clips.clip(**clips.SMALL)
  images, tokens = clips.images(model, 5), clips.tokens_of(model, 4)
  found = clips.predictions(pretrained.read(folders / layout), images, tokens)
  expected = clips.predictions_of_transformers(model, images, tokens)
  for mine, theirs in zip(found, expected, strict=True):
    assert clips.relative(mine, theirs) < 2e-5


@pytest.mark.parametrize('tower', ['vision', 'text'])
@pytest.mark.parametrize('layout', ['whole', 'flax', 'open_clip'])
def test_every_gradient_is_that_of_torch(folders, layout, tower, tmp_path):
  model = clips.clip(**clips.SMALL)
  if tower == 'vision':
    inputs = clips.images(model, 6)
  else:
    inputs = clips.tokens_of(model, 4)
  labels = np.arange(len(inputs)) % _NUM_CLASSES
  expected = _torch_gradients(model, tower, inputs, labels, tmp_path / 'torch')
  weights = pretrained.read(folders / layout)
  module = {
      'vision': pretrained.vision_module,
      'text': pretrained.text_module,
  }[tower](weights.source)
  _, found = _features_and_gradients(
      module, getattr(weights, tower), jnp.asarray(inputs), labels, _head(model)
  )
  _check_gradients(found, expected)


@pytest.mark.parametrize('layout', _WRITERS)
def test_what_is_read_is_written_to_the_same_bytes(folders, layout, tmp_path):
  pretrained.write(tmp_path / 'copy', pretrained.read(folders / layout))
  found = published.contents(tmp_path / 'copy')
  assert found == published.contents(folders / layout)


def test_a_clip_of_flax_is_written_for_transformers_without_flax(
    folders, tmp_path
):
  pretrained.write(tmp_path / 'copy', pretrained.read(folders / 'flax'))
  found, info = transformers.CLIPModel.from_pretrained(
      tmp_path / 'copy', output_loading_info=True
  )
  assert not any(info.values()), info
  model = clips.clip(**clips.SMALL)
  images, tokens = clips.images(model, 5), clips.tokens_of(model, 4)
  for mine, theirs in zip(
      clips.predictions_of_transformers(found.eval(), images, tokens),
      clips.predictions_of_transformers(model, images, tokens),
      strict=True,
  ):
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize('layout', _READERS)
def test_a_merged_model_opens_in_transformers_and_predicts_the_same(
    folders, layout, tmp_path
):
  base = pretrained.read(folders / layout)
  _WRITERS[layout](clips.clip(seed=1, **clips.SMALL), tmp_path / 'finetuned')
  finetuned = pretrained.read_finetuned(tmp_path / 'finetuned', base)
  merged = jax.tree.map(lambda a, b: a + 0.4 * (b - a), base.vision, finetuned)
  pretrained.write(tmp_path / 'merged', base._replace(vision=merged))
  model, info = _READERS[layout].from_pretrained(
      tmp_path / 'merged', output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  images = clips.images(clips.clip(**clips.SMALL), 20)
  with torch.no_grad():
    pixels = clips.channels_first(images)
    if layout == 'vision alone':
      expected = model.eval()(pixels).pooler_output
    elif layout == 'vision with projection':
      expected = model.eval()(pixels).image_embeds
    else:
      expected = model.eval().get_image_features(pixels).pooler_output
  again = pretrained.read(tmp_path / 'merged')
  module = pretrained.vision_module(again.source)
  found = clips.encode(module, again.vision, images)
  assert clips.relative(found, expected.numpy()) < 2e-5
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(found.shape[1], _NUM_CLASSES))
  np.testing.assert_array_equal(
      np.argmax(found @ kernel, axis=1),
      np.argmax(expected.numpy() @ kernel, axis=1),
  )
  # Merging moved it: the base predicts something else somewhere.
  before = clips.encode(module, base.vision, images)
  assert clips.relative(before, found) > 1e-2


def test_the_gradients_of_vit_b_32_agree_at_its_true_size(tmp_path):
  model = clips.clip()
  model.save_pretrained(tmp_path / 'whole')
  images = clips.images(model, 2)
  labels = np.array([3, 5])
  weights = pretrained.read(tmp_path / 'whole', has_text=False)
  module = pretrained.vision_module(weights.source)
  features, gradients = _features_and_gradients(
      module, weights.vision, images, labels, _head(model)
  )
  assert clips.relative(features, _image_features(model, images)) < 2e-5
  expected = _torch_gradients(
      model, 'vision', images, labels, tmp_path / 'torch'
  )
  _check_gradients(gradients, expected)
