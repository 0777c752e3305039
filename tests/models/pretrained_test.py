import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors as safetensors_lib
from safetensors import numpy as safetensors

from taskvec_jax.models import clip_layouts
from taskvec_jax.models import pretrained
from taskvec_jax.task_vectors import files as files_lib
from tests.models import published

_LAYOUTS = list(published.FOLDERS)
_DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def _assert_equal(found, expected):
  found, expected = published.flat(found), published.flat(expected)
  assert found.keys() == expected.keys()
  for leaf, values in expected.items():
    assert found[leaf].dtype == np.float32
    np.testing.assert_array_equal(found[leaf], values, err_msg=leaf)


def _safetensors(tmp_path, change, make=published.hugging_face):
  """Returns a folder whose one file was changed in a way."""
  tensors = make(published.params())
  change(tensors)
  folder = tmp_path / 'changed'
  folder.mkdir()
  published.save(folder / 'model.safetensors', tensors)
  return folder


@pytest.mark.parametrize('dtype', _DTYPES)
@pytest.mark.parametrize('layout', _LAYOUTS)
def test_every_layout_and_dtype_is_read_to_the_same_parameters(
    tmp_path, layout, dtype
):
  tree = published.params(dtype=dtype)
  folder = published.FOLDERS[layout](tmp_path / 'weights', tree, dtype)
  weights = pretrained.read(folder)
  if 'alone' in layout:
    del tree['vision']['projection']
    assert weights.text is None and weights.logit_scale is None
  else:
    _assert_equal(weights.text, tree['text'])
    assert weights.logit_scale == published.LOGIT_SCALE
  _assert_equal(weights.vision, tree['vision'])


@pytest.mark.parametrize('dtype', _DTYPES)
@pytest.mark.parametrize('layout', _LAYOUTS)
def test_parameters_as_read_are_written_to_the_same_bytes(
    tmp_path, layout, dtype
):
  folder = published.FOLDERS[layout](
      tmp_path / 'weights', published.params(dtype=dtype), dtype
  )
  weights = pretrained.read(folder)
  on_device = jax.tree.map(jnp.asarray, weights.vision)
  pretrained.write(tmp_path / 'copy', weights._replace(vision=on_device))
  assert published.contents(tmp_path / 'copy') == published.contents(folder)


@pytest.mark.parametrize('layout', _LAYOUTS)
def test_a_changed_parameter_changes_its_tensor_alone(tmp_path, layout):
  tree = published.params()
  folder = published.FOLDERS[layout](tmp_path / 'weights', tree)
  weights = pretrained.read(folder)
  weights.vision['block_1']['attention']['key']['kernel'][2, 5] += 1.0
  pretrained.write(tmp_path / 'new', weights)
  tree['vision']['block_1']['attention']['key']['kernel'][2, 5] += 1.0
  expected = published.FOLDERS[layout](tmp_path / 'expected', tree)
  assert published.contents(tmp_path / 'new') == published.contents(expected)


@pytest.mark.parametrize('layout', _LAYOUTS)
def test_what_is_merged_is_read_back_rounded_to_the_files_dtype(
    tmp_path, layout
):
  folder = published.FOLDERS[layout](
      tmp_path / 'weights', published.params(dtype=np.float16), np.float16
  )
  base = pretrained.read(folder)
  other = published.params(seed=1)['vision']
  other = {name: other[name] for name in base.vision}
  merged = jax.tree.map(lambda a, b: 0.5 * (a + b), base.vision, other)
  pretrained.write(tmp_path / 'new', base._replace(vision=merged))
  again = pretrained.read(tmp_path / 'new')
  rounded = published.cast(published.cast(merged, np.float16), np.float32)
  _assert_equal(again.vision, rounded)
  assert again.logit_scale == base.logit_scale


@pytest.mark.parametrize('has_text', [True, False])
@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_beside_flax_arrays_lie_the_safetensors_of_the_same_parameters(
    tmp_path, dtype, has_text
):
  tree = published.params(dtype=dtype)
  source = published.flax_folder(tmp_path / 'weights', tree, dtype)
  base = pretrained.read(source, has_text=has_text)
  changed = published.params(seed=1, dtype=dtype)['vision']
  folder = tmp_path / 'new'
  pretrained.write(folder, base._replace(vision=changed))
  tree['vision'] = changed
  with safetensors_lib.safe_open(folder / 'model.safetensors', 'np') as file:
    # transformers refuses a file without it.
    assert file.metadata() == {'format': 'pt'}
  found = safetensors.load_file(folder / 'model.safetensors')
  expected = published.cast(published.hugging_face(tree), dtype)
  assert found.keys() == expected.keys()
  for name, tensor in expected.items():
    assert found[name].dtype == dtype
    np.testing.assert_array_equal(found[name], tensor, err_msg=name)
  for path in (folder, folder / 'flax_model.msgpack'):
    again = pretrained.read(path)
    _assert_equal(again.vision, changed)
    _assert_equal(again.text, tree['text'])


@pytest.mark.parametrize('layout', ['hugging_face', 'flax', 'open_clip'])
def test_a_tower_that_was_not_read_is_copied_from_the_source(tmp_path, layout):
  folder = published.FOLDERS[layout](tmp_path / 'weights', published.params())
  weights = pretrained.read(folder, has_text=False)
  assert weights.text is None and weights.logit_scale is None
  pretrained.write(tmp_path / 'copy', weights)
  assert published.contents(tmp_path / 'copy') == published.contents(folder)


@pytest.mark.parametrize('layout', _LAYOUTS)
def test_the_modules_of_a_checkpoint_fit_its_parameters(tmp_path, layout):
  folder = published.FOLDERS[layout](tmp_path / 'weights', published.params())
  source = pretrained.open_weights(folder)
  alone = 'alone' in layout
  expected = (
      published.VISION.clone(projection=None) if alone else published.VISION
  )
  assert pretrained.vision_module(source) == expected
  assert source.vision.image_size == 4
  pretrained.read(folder, module=expected)
  if alone:
    with pytest.raises(ValueError, match='vision tower alone, 39 tensors'):
      pretrained.text_module(source)
  else:
    text = pretrained.text_module(source)
    end_token = None if layout == 'open_clip' else 49407
    assert text == published.TEXT.clone(end_token=end_token)


def test_a_file_of_weights_can_be_named_itself(tmp_path):
  tree = published.params()
  folder = published.sharded_folder(tmp_path / 'shards', tree)
  index = pretrained.read(folder / 'model.safetensors.index.json')
  _assert_equal(index.vision, tree['vision'])
  folder = published.flax_folder(tmp_path / 'flax', tree)
  (folder / 'flax_model.msgpack').rename(folder / 'other.msgpack')
  _assert_equal(
      pretrained.read(folder / 'other.msgpack').vision, tree['vision']
  )


def test_a_finetuned_tower_without_projection_takes_the_bases(tmp_path):
  tree, other = published.params(), published.params(seed=1)
  base = pretrained.read(published.flax_folder(tmp_path / 'base', tree))
  folder = published.vision_folder(tmp_path / 'finetuned', other)
  found = pretrained.read_finetuned(folder, base)
  expected = other['vision'] | {'projection': tree['vision']['projection']}
  _assert_equal(found, expected)
  whole = published.open_clip_folder(tmp_path / 'whole', other)
  _assert_equal(pretrained.read_finetuned(whole, base), other['vision'])


def test_a_finetuned_tower_of_other_sizes_is_refused(tmp_path):
  base = pretrained.read(
      published.hugging_face_folder(tmp_path / 'base', published.params())
  )

  def more_positions(tensors):
    name = 'vision_model.embeddings.position_embedding.weight'
    tensors[name] = np.zeros((10, 8), np.float32)

  folder = _safetensors(tmp_path, more_positions)
  with pytest.raises(
      ValueError, match='not finetuned from.*num_positions=10.*num_positions=5'
  ):
    pretrained.read_finetuned(folder, base)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'num_attention_heads': 4}, 'its num_heads is 4, not 2'),
        ({'hidden_act': 'gelu'}, 'its activation is gelu, not quick_gelu'),
    ],
)
def test_a_finetuned_tower_whose_config_says_another_module_is_refused(
    tmp_path, change, said
):
  tree = published.params()
  base = pretrained.read(published.hugging_face_folder(tmp_path / 'base', tree))
  folder = published.hugging_face_folder(tmp_path / 'finetuned', tree)
  pretrained.read_finetuned(folder, base, module=published.VISION)
  config = json.loads((folder / 'config.json').read_text())
  config['vision_config'] |= change
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=said):
    pretrained.read_finetuned(folder, base, module=published.VISION)


def test_towers_of_different_projections_are_refused(tmp_path):
  def other_projection(tensors):
    tensors['text_projection.weight'] = np.zeros((7, 6), np.float32)

  folder = _safetensors(tmp_path, other_projection)
  with pytest.raises(
      ValueError,
      match="'text_projection.weight' gives embeddings of 7 .* gives 5;",
  ):
    pretrained.open_weights(folder)


def test_any_tensor_missing_is_named():
  tree = published.params()
  for tensors in (
      published.hugging_face(tree),
      published.vision_alone(tree),
      published.flat(published.flax(tree)),
      published.open_clip(tree),
  ):
    # Without it a tower without projection is whole.
    for name in tensors.keys() - {'visual_projection.weight'}:
      with pytest.raises(
          ValueError,
          match=rf"has {len(tensors)} tensors, but FILE lacks 1.*'{name}'",
      ):
        clip_layouts.layout('FILE', tensors.keys() - {name})


def _rename_block(tensors):
  for name in [n for n in tensors if n.startswith('vision_model.encoder')]:
    tensors[name.replace('layers.1', 'layers.2')] = tensors.pop(name)


def _set(name, values):
  return lambda tensors: tensors.update({name: values})


_PROJECTION = 'vision_model.encoder.layers.1.self_attn.q_proj.weight'


@pytest.mark.parametrize(
    'change, sentence',
    [
        (
            _set('classifier.weight', np.zeros((2, 8), np.float32)),
            r"has 94 tensors.*has besides 1.*'classifier.weight'",
        ),
        (_rename_block, r'lacks 16.*layers\.1.*has besides 16.*layers\.2'),
        (
            lambda tensors: [
                tensors.pop(n) for n in list(tensors) if 'vision_' in n
            ],
            "no block of a CLIP's vision tower.*'vision_model.encoder.layers.'"
            ".*but 55 tensors such as 'logit_scale'",
        ),
        (
            _set(_PROJECTION, np.zeros((8, 7), np.float32)),
            rf"'{_PROJECTION}' has shape \(8, 7\).*its shape is \(8, 8\)",
        ),
        (
            _set(
                'vision_model.embeddings.patch_embedding.weight',
                np.zeros((8, 12), np.float32),
            ),
            r"patch_embedding.weight' has shape \(8, 12\).*4 axes",
        ),
        (
            _set(
                'vision_model.embeddings.position_embedding.weight',
                np.zeros((7, 8), np.float32),
            ),
            "position_embedding.weight' has 7 positions, .* are 5 or 10",
        ),
        (
            _set(
                'text_model.embeddings.token_embedding.weight',
                np.full((11, 6), np.nan, np.float32),
            ),
            r'changed.*token_embedding.weight.*66 values.*NaN',
        ),
        (
            _set('text_model.final_layer_norm.bias', np.zeros(6)),
            r"'text_model.final_layer_norm.bias' is of dtype float64.*bfloat16",
        ),
    ],
)
def test_a_checkpoint_that_is_not_right_is_refused_with_names(
    tmp_path, change, sentence
):
  folder = _safetensors(tmp_path, change)
  with pytest.raises(ValueError, match=sentence):
    pretrained.read(folder)


def test_a_stacked_tensor_of_a_wrong_shape_is_named_with_both(tmp_path):
  name = 'visual.transformer.resblocks.0.attn.in_proj_bias'
  folder = _safetensors(
      tmp_path, _set(name, np.zeros(23, np.float32)), published.open_clip
  )
  with pytest.raises(ValueError, match=rf'{name}.*\(23,\).*\(24,\)'):
    pretrained.read(folder)


def test_a_msgpack_that_was_cut_short_or_holds_no_arrays_is_refused(tmp_path):
  folder = published.flax_folder(tmp_path / 'weights', published.params())
  file = folder / 'flax_model.msgpack'
  data = file.read_bytes()
  file.write_bytes(data[:-100])
  with pytest.raises(
      ValueError, match=rf'flax_model.msgpack .*cut short, at {len(data) - 100}'
  ):
    pretrained.read(folder)
  file.write_bytes(b'\x81\xa1a\xa1b')  # {'a': 'b'}
  with pytest.raises(ValueError, match="msgpack: 'a' is of type str"):
    pretrained.read(folder)


def test_pickles_are_refused(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'anything')
  with pytest.raises(ValueError, match='pytorch_model.bin.*pickle'):
    pretrained.read(tmp_path)


def test_another_architecture_is_refused_with_all_values(tmp_path):
  folder = published.flax_folder(tmp_path / 'weights', published.params())
  module = published.VISION.clone(
      width=16, depth=3, patch_size=4, num_heads=4, activation='gelu'
  )
  with pytest.raises(
      ValueError,
      match='patch_size is 2, not 4, its width is 8, not 16, its depth is 2,'
      ' not 3, its num_heads is 2, not 4, its activation is quick_gelu, not',
  ):
    pretrained.read(folder, module=module)


def _write_config(folder, change, name='config.json'):
  config = json.loads((folder / name).read_text())
  change(config)
  (folder / name).write_text(json.dumps(config))
  return pretrained.open_weights(folder)


def test_heads_and_activation_are_the_configs(tmp_path):
  folder = published.sharded_folder(tmp_path / 'hf', published.params())

  def old_and_gelu(config):
    config['vision_config_dict'] = {'num_attention_heads': 4}
    config['vision_config']['hidden_act'] = 'gelu'
    config['text_config']['eos_token_id'] = 2

  source = _write_config(folder, old_and_gelu)
  expected = published.VISION.clone(num_heads=4, activation='gelu')
  assert pretrained.vision_module(source) == expected
  assert pretrained.text_module(source) == published.TEXT
  folder = published.open_clip_folder(tmp_path / 'oc', published.params())

  def gelu_by_default(config):
    del config['model_cfg']['quick_gelu']
    config['model_cfg']['vision_cfg']['head_width'] = 2

  source = _write_config(folder, gelu_by_default, 'open_clip_config.json')
  assert pretrained.vision_module(source) == expected


def test_pixels_are_normalised_as_the_files_beside_say(tmp_path):
  folder = published.flax_folder(tmp_path / 'hf', published.params())
  mean, std = [0.5, 0.25, 0.125], [1.0, 2.0, 3.0]
  (folder / 'preprocessor_config.json').write_text(
      json.dumps({'image_mean': mean, 'image_std': std})
  )
  expected = published.VISION.clone(
      pixel_mean=tuple(mean), pixel_std=tuple(std)
  )
  source = pretrained.open_weights(folder)
  assert pretrained.vision_module(source) == expected
  with pytest.raises(
      ValueError, match=r'its pixel_mean is \(0.5, .*, not \(0.48'
  ):
    pretrained.read(folder, module=published.VISION)
  folder = published.open_clip_folder(tmp_path / 'oc', published.params())
  source = _write_config(
      folder,
      lambda c: c['preprocess_cfg'].update(mean=mean, std=std),
      'open_clip_config.json',
  )
  assert pretrained.vision_module(source) == expected


def test_without_a_config_the_activation_has_to_be_said(tmp_path):
  folder = published.flax_folder(tmp_path / 'weights', published.params())
  (folder / 'config.json').unlink()
  source = pretrained.open_weights(folder)
  with pytest.raises(ValueError, match="no config.*'quick_gelu'.*or 'gelu'"):
    pretrained.vision_module(source)
  module = pretrained.vision_module(source, activation='gelu')
  # A head is 64 wide; here there is only one that is narrower.
  assert module == published.VISION.clone(num_heads=1, activation='gelu')
  pretrained.read(folder, module=published.VISION)


@pytest.mark.parametrize(
    'change, sentence',
    [
        (
            lambda config: config['vision_config'].update(hidden_size=16),
            'vision tower has width 16, but its tensors have 8',
        ),
        (
            lambda config: config['vision_config'].update(layer_norm_eps=1e-6),
            'add 1e-06 to the variance; here it is 1e-05',
        ),
        (
            lambda config: config.update(vision_config=[1]),
            r"config.json is no config of a CLIP's vision tower",
        ),
        (
            lambda config: config['text_config'].update(eos_token_id=[1, 2]),
            r"of a CLIP's text tower .*eos_token_id is \[1, 2\]",
        ),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    tmp_path, change, sentence
):
  folder = published.flax_folder(tmp_path / 'weights', published.params())
  source = _write_config(folder, change)
  with pytest.raises(ValueError, match=sentence):
    pretrained.vision_module(source)
    pretrained.text_module(source)


def test_what_the_towers_do_not_have_is_refused_by_its_key(tmp_path):
  folder = published.open_clip_folder(tmp_path / 'weights', published.params())
  source = _write_config(
      folder,
      lambda c: c['model_cfg']['vision_cfg'].update(pool_type='avg'),
      'open_clip_config.json',
  )
  with pytest.raises(ValueError, match="sets pool_type of the vision.*'avg'"):
    pretrained.vision_module(source)
  with pytest.raises(ValueError, match="'quick_gelu' by the config.*'gelu'"):
    (folder / 'open_clip_config.json').write_text(
        json.dumps(published.OPEN_CLIP_CONFIG)
    )
    pretrained.vision_module(source, activation='gelu')


@pytest.mark.parametrize(
    'make', [published.flax_folder, published.vision_folder]
)
def test_parameters_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path, make
):
  folder = make(tmp_path / 'weights', published.params(), np.float16)
  weights = pretrained.read(folder)

  def changed(**leaves):
    return weights._replace(vision=weights.vision | leaves)

  token = weights.vision['class_token']
  for wrong, sentence in (
      (changed(class_token=token[1:]), r'class_token is \(7,\) but \(8,\)'),
      (changed(extra=token), r'vision/extra is \(8,\) but absent'),
      (changed(class_token=token * np.nan), 'class_token.*NaN.*float16'),
      (changed(class_token=token * 0 + 7e4), 'class_token.*large for float16'),
  ):
    with pytest.raises(ValueError, match=sentence):
      pretrained.write(tmp_path / 'new', wrong)
  del weights.vision['class_token']
  with pytest.raises(ValueError, match=r'class_token is absent but \(8,\)'):
    pretrained.write(tmp_path / 'new', weights)
  assert [path.name for path in tmp_path.iterdir()] == ['weights']


def test_a_folder_that_exists_is_not_overwritten(tmp_path):
  folder = published.flax_folder(tmp_path / 'weights', published.params())
  before = published.contents(folder)
  with pytest.raises(ValueError, match='weights exists'):
    pretrained.write(folder, pretrained.read(folder))
  assert published.contents(folder) == before


def test_nothing_is_left_when_the_source_has_gone(tmp_path):
  folder = published.hugging_face_folder(tmp_path / 'w', published.params())
  weights = pretrained.read(folder)
  shutil.rmtree(folder)
  with pytest.raises(FileNotFoundError):
    pretrained.write(tmp_path / 'new', weights)
  assert list(tmp_path.iterdir()) == []


def test_a_tensor_is_read_once_and_a_buffer_never(tmp_path, monkeypatch):
  folder = published.hugging_face_folder(tmp_path / 'w', published.params())
  held = []

  def read(files, name):
    held.append(name)
    return files_lib.read_range(
        files, name, 0, files.tensors[name].size
    ).reshape(files.tensors[name].shape)

  monkeypatch.setattr(files_lib, 'read', read)
  weights = pretrained.read(folder)
  names = safetensors.load_file(folder / 'model.safetensors').keys()
  assert sorted(held) == sorted(names - set(weights.source.layout.extras))
  for leaf in published.flat(weights.vision).values():
    # Not a view of a tensor laid out in another order.
    assert leaf.flags['C_CONTIGUOUS'] and leaf.flags['WRITEABLE']
