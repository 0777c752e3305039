import numpy as np
import pytest

from benchmarks import weights
from taskvec_jax.models import clip_sizes

_SIZES = (
    clip_sizes.VisionSizes(
        patch_size=2,
        num_channels=3,
        width=8,
        depth=2,
        mlp_width=12,
        projection=5,
        num_positions=5,
    ),
    clip_sizes.TextSizes(
        vocab_size=11,
        max_length=7,
        width=6,
        depth=1,
        mlp_width=10,
        projection=5,
    ),
)


@pytest.mark.parametrize('layout', ['hugging_face', 'open_clip', 'flax'])
def test_a_checkpoint_that_is_made_is_read_and_written_back(tmp_path, layout):
  suffix = 'msgpack' if layout == 'flax' else 'safetensors'
  path = tmp_path / f'model.{suffix}'
  weights.make(path, _SIZES, layout, np.dtype(np.float16))
  cost = weights.measure(path, 'tiny', layout, 'float16')
  assert cost.is_same
  # Parameters are twice as large as in the file, whose header is left.
  assert 0 < 2 * cost.file_bytes - cost.parameter_bytes < 2**15
  assert cost.peak_bytes > cost.parameter_bytes


def test_a_bar_that_is_missed_fails():
  cost = weights.Cost(
      model='vit_b32',
      layout='flax',
      dtype='float32',
      file_bytes=100,
      parameter_bytes=100,
      read_seconds=3.0,
      read_cpu_seconds=1.0,
      read_beyond=1.5,
      write_seconds=9.0,
      write_beyond=9.0,
      peak_bytes=8 * 2**30,
      is_same=True,
  )
  assert weights.passes(cost)
  assert not weights.passes(cost._replace(read_seconds=3.1))
  assert not weights.passes(cost._replace(read_beyond=1.6))
  assert not weights.passes(cost._replace(is_same=False))
  large = cost._replace(model='vit_l14', read_seconds=9.0)
  assert weights.passes(large)
  assert not weights.passes(large._replace(peak_bytes=8 * 2**30 + 1))


def test_the_sizes_are_those_of_the_published_models():
  counts = {}
  for model, sizes in weights.MODELS.items():
    shapes = clip_sizes.leaf_shapes(*sizes)
    counts[model] = sum(int(np.prod(shape)) for shape in shapes.values())
  # CLIPModel(CLIPConfig()) of transformers has the first.
  assert counts == {
      'vit_b32': 151_277_313,
      'vit_b16': 149_620_737,
      'vit_l14': 427_616_513,
  }
