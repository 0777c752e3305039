"""The main job on published weights, here a CLIP of a few hundred numbers."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import description
from taskvec_jax.experiments import ladder
from taskvec_jax.experiments import published_weights
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import task_arithmetic
from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import pretrained
from tests.experiments import tiny
from tests.models import published

_SIGNS = 'abcdefghijklmnopqrstuvwxyz0123456789.'
_LENGTH = 40


def _vocabulary():
  tokens = [*_SIGNS, *(f'{sign}</w>' for sign in _SIGNS)]
  tokens += ['<|startoftext|>', '<|endoftext|>']
  return {token: number for number, token in enumerate(tokens)}


def _write_clip(folder):
  """Writes a whole CLIP with its tokenizer, as transformers would."""
  vocabulary = _vocabulary()
  text = clip_text.TextTransformer(
      vocab_size=len(vocabulary),
      width=6,
      depth=3,
      num_heads=3,
      mlp_width=10,
      projection=5,
      max_length=_LENGTH,
  )
  shapes = jax.eval_shape(
      lambda key: encoders.init(text, key, np.zeros((1, _LENGTH), np.int32)),
      jax.random.key(0),
  )
  rng = np.random.default_rng(1)
  tree = published.params() | {
      'text': jax.tree.map(
          lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
      )
  }
  folder.mkdir()
  published.save(folder / 'model.safetensors', published.hugging_face(tree))
  numbers = {**published.CONFIG['text_config'], 'eos_token_id': 2}
  numbers['max_position_embeddings'] = _LENGTH
  config = {**published.CONFIG, 'text_config': numbers}
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  (folder / 'merges.txt').write_text('#version: 0.2\n')
  return folder


def _config(weights, **changes):
  module = published.VISION
  return tiny.config(
      **{
          'name': 'tiny_clip',
          'model': config_lib.ViTModel(
              patch_size=module.patch_size,
              width=module.width,
              depth=module.depth,
              num_heads=module.num_heads,
              mlp_width=module.mlp_width,
              projection=module.projection,
              normalize=True,
              pixel_mean=module.pixel_mean,
              pixel_std=module.pixel_std,
          ),
          'image_size': 4,
          'num_channels': 3,
          'seeds': (0,),
          'max_epochs': 1,
          'merge_epochs': (1,),
          'regimes': ('exact',),
          'published': config_lib.Published(
              weights=str(weights), write_merged=True
          ),
          'analysis': config_lib.Analysis(
              equality_examples=4,
              rates_epochs=(),
              map_sharpness=(),
              ladder_epochs=(),
              lanczos_iterations=2,
          ),
          **changes,
      }
  )


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  """The folder of a CLIP's weights."""
  return _write_clip(tmp_path_factory.mktemp('published') / 'clip')


@pytest.fixture(scope='module')
def ran(clip, tmp_path_factory):
  """(folder of the base, of the finetuned model, work folder, results)."""
  root = tmp_path_factory.mktemp('ran')
  other = root / 'finetuned'
  base = pretrained.read(clip)
  rng = np.random.default_rng(2)
  moved = jax.tree.map(
      lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype('f'),
      base.vision,
  )
  published_weights.write_merged(other, base, moved)
  config = _config(
      clip,
      published=config_lib.Published(
          weights=str(clip),
          finetuned=(f'digits={other}', f'faces={clip}'),
          write_merged=True,
      ),
  )
  results = task_arithmetic.run(config, root / 'run', command='it')
  return clip, other, root / 'run', results


@pytest.fixture
def no_images(monkeypatch):
  """Fails a test that decodes images, which takes longest of what begins."""
  monkeypatch.setattr(
      setting_lib, 'load_tasks', lambda _: pytest.fail('images were decoded')
  )


def _assert_refused(config, tmp_path, sentence):
  """Runs what is refused, and leaves nothing."""
  with pytest.raises(ValueError, match=sentence):
    task_arithmetic.run(config, tmp_path / 'run', command='it')
  assert not (tmp_path / 'run').exists()


def _with_a_nan(clip, folder, name):
  """Writes the CLIP again, with a NaN in a tensor."""
  shutil.copytree(clip, folder)
  tensors = safetensors.load_file(folder / 'model.safetensors')
  tensors[name].flat[0] = np.nan
  published.save(folder / 'model.safetensors', tensors)
  return folder


def _accuracy(results, **wanted):
  (row,) = (
      row
      for row in results.accuracies
      if all(getattr(row, key) == value for key, value in wanted.items())
  )
  return row


def _distance(a, b):
  return np.sqrt(
      sum(
          float(np.sum((x - y) ** 2))
          for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
      )
  )


def test_models_that_others_finetuned_are_compared_without_derivatives(ran):
  weights, other, folder, results = ran
  assert not (results.finetuning or results.equality or results.ladders)
  base, moved = (pretrained.read(path).vision for path in (weights, other))
  (similarity,) = results.similarities
  assert similarity.regime == 'published'
  assert similarity.norms == [pytest.approx(_distance(base, moved)), 0]
  zero_shot = _accuracy(results, model='base').accuracy
  finetuned = _accuracy(results, model='finetuned').accuracy
  assert finetuned['faces'] == zero_shot['faces']
  page = (folder / 'report.html').read_text()
  assert 'published regime' in page


def test_the_merged_model_is_in_the_layout_of_the_weights(ran):
  weights, other, folder, results = ran
  base, moved, merged = (
      pretrained.read(path)
      for path in (weights, other, folder / 'merged' / 'published')
  )
  assert merged.source.shapes == base.source.shapes
  assert _distance(merged.text, base.text) == 0
  alpha = _accuracy(results, model='merged', alpha_rule='validation').alpha
  expected = alpha * _distance(moved.vision, base.vision)
  found = _distance(merged.vision, base.vision)
  assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    'finetuned, sentence',
    [
        (('digits=x',), 'has weights for digits, but the tasks are digits, f'),
        (('digits=x', 'faces=y', 'cars=z'), 'cars, digits, faces'),
        (('digits',), "must hold TASK=VALUE, each task once, but has 'digits'"),
    ],
)
def test_a_task_without_weights_is_named(
    clip, tmp_path, no_images, finetuned, sentence
):
  config = _config(
      clip,
      published=config_lib.Published(weights=str(clip), finetuned=finetuned),
  )
  _assert_refused(config, tmp_path, sentence)


def test_a_folder_without_weights_is_named_by_the_task_in_it(
    clip, tmp_path, monkeypatch
):
  config = _config(
      clip,
      tasks=('digits', 'folder:/images/birds'),
      published=config_lib.Published(
          weights=str(clip), finetuned=(f'digits={clip}', f'robins={clip}')
      ),
  )
  monkeypatch.setattr(
      setting_lib, 'load_tasks', lambda _: dict.fromkeys(['digits', 'birds'])
  )
  _assert_refused(config, tmp_path, 'for digits, robins, but .* birds, digits;')


def test_weights_of_another_architecture_are_refused_before_any_work(
    clip, tmp_path, no_images
):
  config = _config(clip)
  config.model.depth = 3
  _assert_refused(config, tmp_path, 'depth.*3.*2|depth.*2.*3')


@pytest.mark.parametrize(
    'changes, sentence',
    [
        (
            {'image_size': 8},
            'images with image_size 4, but config.image_size is 8; set it to 4,'
            ' or name weights for 8',
        ),
        (
            {'num_channels': 1},
            'images with num_channels 3, but config.num_channels is 1; set',
        ),
    ],
)
def test_weights_for_other_images_are_refused_before_any_work(
    clip, tmp_path, no_images, changes, sentence
):
  config = _config(clip, **changes)
  config.model.pixel_mean = config.model.pixel_std = (0.5,)
  _assert_refused(config, tmp_path, sentence)


@pytest.mark.parametrize(
    'name, changes_fn',
    [
        (
            'vision_model.post_layernorm.bias',
            lambda clip, other: {
                'finetuned': (f'digits={clip}', f'faces={other}')
            },
        ),
        (
            'text_model.final_layer_norm.bias',
            lambda clip, other: {'text_weights': str(other)},
        ),
    ],
    ids=['finetuned', 'text_tower_of_its_own'],
)
def test_a_nan_in_other_weights_is_found_before_any_work(
    clip, tmp_path, no_images, name, changes_fn
):
  other = _with_a_nan(clip, tmp_path / 'other', name)
  config = _config(
      clip,
      published=config_lib.Published(
          weights=str(clip), **changes_fn(clip, other)
      ),
  )
  _assert_refused(config, tmp_path, f"{other}: tensor '{name}' has 1 values")


def test_a_vision_tower_alone_has_no_zero_shot_head(clip, tmp_path, no_images):
  alone = tmp_path / 'vision'
  alone.mkdir()
  tensors = published.vision_alone(published.params())
  tensors['visual_projection.weight'] = published.params()['vision'][
      'projection'
  ]['kernel'].T
  published.save(alone / 'model.safetensors', tensors)
  shutil.copyfile(clip / 'config.json', alone / 'config.json')
  config = _config(alone)
  _assert_refused(config, tmp_path, 'no text tower.*text_weights')
  # The same with the text tower of the whole model.
  config.published.text_weights = str(clip)
  base = published_weights.base(config)
  assert (
      published_weights.heads(
          config.published, base, {}, activation='quick_gelu'
      )
      == {}
  )


def test_a_tokenizer_that_does_not_fit_is_refused_before_any_work(
    clip, tmp_path, no_images
):
  folder = tmp_path / 'clip'
  shutil.copytree(clip, folder)
  vocabulary = _vocabulary()
  del vocabulary['<|endoftext|>'], vocabulary['a']
  fewer = {token: number for number, token in enumerate(vocabulary)}
  fewer['<|endoftext|>'] = len(fewer)
  (folder / 'vocab.json').write_text(json.dumps(fewer))
  _assert_refused(_config(folder), tmp_path, f'{folder}: .*own tokenizer')


def test_a_finetuned_model_that_is_not_there_is_refused_before_any_work(
    clip, tmp_path, no_images
):
  found = config_lib.Published(
      weights=str(clip), finetuned=('digits=/nowhere', f'faces={clip}')
  )
  config = _config(clip, published=found)
  _assert_refused(config, tmp_path, 'nowhere')


def test_a_transformer_has_the_rungs_by_lanczos_and_says_why_no_others(clip):
  config = _config(clip, max_train=4)
  setting = setting_lib.build(
      config,
      setting_lib.load_tasks(config),
      seed=0,
      weights=published_weights.base(config),
  )
  (found,) = ladder.ladders(
      setting, learning_rate=0.1, epochs=[2], lanczos_iterations=2, seed=0
  )
  assert {'R3', 'R4'} <= {rung.name for rung in found.rungs}
  assert not {'R0', 'R1', 'R2'} & {rung.name for rung in found.rungs}
  assert not found.certificates
  assert any('an attention' in text for text in description.left_out(config))
