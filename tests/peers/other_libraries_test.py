"""Merged models in the layouts of open_clip and Flax, opened by their own.

open_clip needs torchvision; transformers has had no Flax since version 5. What
an environment does not have is skipped.
"""

import jax
import numpy as np
import pytest
import torch
import transformers

from taskvec_jax.models import pretrained
from tests.peers import clips

_has_flax = hasattr(transformers, 'FlaxCLIPModel')


def _merge(write, folder):
  """Returns the base and, from its folder 'merged', the merged model."""
  for seed, name in enumerate(('base', 'finetuned')):
    write(clips.clip(seed, **clips.SMALL), folder / name)
  base = pretrained.read(folder / 'base')
  finetuned = pretrained.read_finetuned(folder / 'finetuned', base)
  merged = jax.tree.map(lambda a, b: a + 0.4 * (b - a), base.vision, finetuned)
  pretrained.write(folder / 'merged', base._replace(vision=merged))
  return base, pretrained.read(folder / 'merged')


def _check(base, merged, images, tokens, expected):
  found = clips.predictions(merged, images, tokens)
  for mine, theirs in zip(found, expected, strict=True):
    assert clips.relative(mine, theirs) < 2e-5
  np.testing.assert_array_equal(found[2].argmax(1), expected[2].argmax(1))
  # Merging moved it.
  before = clips.predictions(base, images, tokens)
  assert clips.relative(before[2], found[2]) > 1e-2


def _inputs():
  model = clips.clip(**clips.SMALL)
  return clips.images(model, 20), clips.tokens_of(model, 4)


def test_a_merged_model_opens_in_open_clip_and_predicts_the_same(tmp_path):
  open_clip = pytest.importorskip('open_clip', reason='no open_clip here')
  base, merged = _merge(clips.write_open_clip, tmp_path)
  model = open_clip.create_model(f'local-dir:{tmp_path / "merged"}').eval()
  images, tokens = _inputs()
  pixels, texts = clips.channels_first(images), torch.from_numpy(tokens)
  with torch.no_grad():
    image, text = model.encode_image(pixels), model.encode_text(texts)
    logits, _ = model.get_logits(pixels, texts)
  expected = image.numpy(), text.numpy(), logits.numpy()
  _check(base, merged, images, tokens, expected)


@pytest.mark.skipif(not _has_flax, reason='this transformers has no Flax')
def test_a_merged_model_opens_in_flax_and_predicts_the_same(tmp_path):
  base, merged = _merge(clips.write_flax, tmp_path)
  model = transformers.FlaxCLIPModel.from_pretrained(tmp_path / 'merged')
  images, tokens = _inputs()
  pixels = images.transpose(0, 3, 1, 2)
  expected = (
      np.asarray(model.get_image_features(pixels)),
      np.asarray(model.get_text_features(tokens)),
      np.asarray(model(tokens, pixels).logits_per_image),
  )
  _check(base, merged, images, tokens, expected)
