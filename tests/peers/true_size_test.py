"""CLIPs of true sizes with random weights, read from transformers' files.

B/32 always; the others, of up to 1.7 GB on disk and 5 GB of memory, if the
environment variable TASKVEC_JAX_LARGE is set.
"""

import os
import tempfile

import pytest

from taskvec_jax.models import pretrained
from tests.peers import clips

_B_16 = dict(vision_config=dict(patch_size=16))
_L_14 = dict(
    vision_config=dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    ),
    text_config=dict(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12
    ),
    projection_dim=768,
)
_large = pytest.mark.skipif(
    not os.environ.get('TASKVEC_JAX_LARGE'),
    reason='large: set TASKVEC_JAX_LARGE to run it',
)


def errors(config):
  """Returns the relative errors of images', texts' embeddings and logits."""
  model = clips.clip(**config)
  images, tokens = clips.images(model, 2), clips.tokens_of(model, 4)
  expected = clips.predictions_of_transformers(model, images, tokens)
  # Not pytest's folder, which stays.
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    del model
    found = clips.predictions(pretrained.read(folder), images, tokens)
  return [
      clips.relative(mine, theirs)
      for mine, theirs in zip(found, expected, strict=True)
  ]


@pytest.mark.parametrize(
    'config',
    [
        pytest.param({}, id='ViT-B-32'),
        pytest.param(_B_16, id='ViT-B-16', marks=_large),
        pytest.param(_L_14, id='ViT-L-14', marks=_large),
    ],
)
def test_embeddings_and_logits_of_true_sizes_are_those_of_transformers(config):
  assert max(errors(config)) < 2e-5
