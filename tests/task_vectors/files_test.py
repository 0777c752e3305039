import json
import os
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import headers
from tests.task_vectors import stored

_NUMPY_DTYPES = [d for d in headers.DTYPES.values() if d.kind in 'iubf']


def test_what_is_saved_is_read_back_bitwise_in_every_dtype(tmp_path):
  tensors = stored.tensors_of_all_dtypes()
  file_writing.save(tmp_path / 'model.safetensors', tensors, {'format': 'pt'})
  files = files_lib.open_tensors(tmp_path)
  assert set(files.tensors) == set(tensors)
  assert files.metadata[files.files[0]] == {'format': 'pt'}
  for name, value in tensors.items():
    found = files_lib.read(files, name)
    stored.assert_same_bytes(found, value)
    found[...] = 0  # its own memory
  assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']


def test_the_reference_library_opens_what_is_saved(tmp_path):
  path = tmp_path / 'x.safetensors'
  tensors = stored.tensors_of_all_dtypes()
  file_writing.save(path, tensors, {'format': 'np'})
  with safetensors.safe_open(path, framework='np') as opened:
    assert opened.metadata() == {'format': 'np'}
  found = dict(safetensors.deserialize(path.read_bytes()))
  assert set(found) == set(tensors)
  for name, value in tensors.items():
    assert headers.DTYPES[found[name]['dtype']] == value.dtype
    assert found[name]['shape'] == list(value.shape)
    assert bytes(found[name]['data']) == value.tobytes()


def test_what_the_reference_library_saves_is_opened(tmp_path):
  path = tmp_path / 'x.safetensors'
  tensors = {
      name: value
      for name, value in stored.tensors_of_all_dtypes().items()
      if value.dtype in _NUMPY_DTYPES and value.ndim
  }
  safetensors_numpy.save_file(tensors, path, metadata={'a': 'b'})
  files = files_lib.open_tensors(path)
  assert set(files.tensors) == set(tensors)
  for name, value in tensors.items():
    stored.assert_same_bytes(files_lib.read(files, name), value)


def test_a_range_is_that_part_of_the_flat_tensor(tmp_path):
  values = np.arange(24, dtype=ml_dtypes.bfloat16).reshape(2, 3, 4)
  file_writing.save(tmp_path / 'x.safetensors', {'a': values, 'b': -values})
  files = files_lib.open_tensors(tmp_path)
  for name, whole in (('a', values), ('b', -values)):
    for start, stop in ((0, 24), (5, 17), (23, 24), (6, 6)):
      found = files_lib.read_range(files, name, start, stop)
      stored.assert_same_bytes(found, whole.reshape(-1)[start:stop])
  with pytest.raises(ValueError, match="5 to 25 of tensor 'a'.* has 24"):
    files_lib.read_range(files, 'a', 5, 25)


def test_shards_are_one_checkpoint(tmp_path):
  shards = [
      {'a': np.arange(3.0), 'c': np.ones(2)},
      {'b': np.zeros((2, 2), np.float16)},
  ]
  folder = stored.write_shards(tmp_path / 'model', shards)
  for path in (folder, folder / 'model.safetensors.index.json'):
    files = files_lib.open_tensors(path)
    assert len(files.files) == 2
    assert files.index == folder / 'model.safetensors.index.json'
    for name, value in (shards[0] | shards[1]).items():
      stored.assert_same_bytes(files_lib.read(files, name), value)


@pytest.mark.parametrize(
    ('present', 'meant'),
    [
        (['model.safetensors', 'other.safetensors'], 'model.safetensors'),
        (
            ['open_clip_model.safetensors', 'x.safetensors'],
            'open_clip_model.safetensors',
        ),
        (['x.safetensors', 'pytorch_model.bin'], 'x.safetensors'),
    ],
)
def test_a_folder_means_its_model(tmp_path, present, meant):
  for name in present:
    file_writing.save(tmp_path / name, {'a': np.zeros(1)})
  (file,) = files_lib.open_tensors(tmp_path).files
  assert file.name == meant


@pytest.mark.parametrize(
    ('present', 'sentence'),
    [
        ([], 'holds no safetensors; put model.safetensors'),
        (['pytorch_model.bin'], 'pytorch_model.bin, a pickle file'),
        (['a.safetensors', 'b.safetensors'], 'could be meant .a.safetensors'),
    ],
)
def test_a_folder_that_could_mean_nothing_or_much_is_refused(
    tmp_path, present, sentence
):
  for name in present:
    file_writing.save(tmp_path / name, {'a': np.zeros(1)})
  with pytest.raises(ValueError, match=sentence):
    files_lib.open_tensors(tmp_path)


def test_a_pickle_file_and_an_absent_one_are_refused(tmp_path):
  (tmp_path / 'model.pt').write_bytes(b'any')
  with pytest.raises(ValueError, match='model.pt is a pickle file.*convert'):
    files_lib.open_tensors(tmp_path / 'model.pt')
  with pytest.raises(ValueError, match='there is no .*nothing'):
    files_lib.open_tensors(tmp_path / 'nothing')


@pytest.mark.parametrize(
    ('header', 'num_bytes', 'sentence'),
    [
        ({'a': stored.entry(0, 8)}, 7, 'was cut short .* it has'),
        ({'a': stored.entry(0, 8)}, 9, 'bytes too many'),
        (
            {'a': stored.entry(0, 8), 'b': stored.entry(4, 12)},
            12,
            "'b'.* starts at byte 4",
        ),
        (
            {'a': stored.entry(0, 8), 'b': stored.entry(12, 20)},
            20,
            "'b'.* starts at byte 12",
        ),
        ({'a': stored.entry(0, 4)}, 4, "'a'.* needs 8 bytes but has 4"),
        ({'a': stored.entry(0, 8, 'F3')}, 8, "dtype 'F3'; known are F64"),
        ({'a': stored.entry(8, 0)}, 8, "'a'.* starts at byte 8"),
        ({'a': {'dtype': 'F32'}}, 0, 'header cannot be read'),
        ([1, 2], 0, 'header cannot be read'),
        (b'{"a": ', 0, 'header cannot be read'),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path, header, num_bytes, sentence
):
  path = stored.raw_file(tmp_path / 'x.safetensors', header, num_bytes)
  with pytest.raises(ValueError, match=sentence) as raised:
    files_lib.open_tensors(path)
  assert str(path) in str(raised.value)
  with pytest.raises(safetensors.SafetensorError):  # it agrees
    with safetensors.safe_open(path, framework='np') as opened:
      opened.keys()


@pytest.mark.parametrize('num_bytes', [0, 5, 8, 30])
def test_a_file_that_ends_in_its_header_is_named(tmp_path, num_bytes):
  path = tmp_path / 'x.safetensors'
  file_writing.save(path, {'a': np.zeros(4)})
  os.truncate(path, num_bytes)
  with pytest.raises(ValueError, match='cut short') as raised:
    files_lib.open_tensors(path)
  assert str(path) in str(raised.value)


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path):
  path = tmp_path / 'x.safetensors'
  file_writing.save(path, {'a': np.zeros(4)})
  files = files_lib.open_tensors(path)
  os.truncate(path, path.stat().st_size - 8)
  with pytest.raises(OSError, match='x.safetensors was cut short.* 8 bytes'):
    files_lib.read(files, 'a')


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda index: index.pop('weight_map'), "has no 'weight_map'"),
        (
            lambda index: index['weight_map'].pop('a'),
            "'a', but .* that no file does",
        ),
        (
            lambda index: index['weight_map'].update(
                z=index['weight_map']['a']
            ),
            "tensor 'z' is in .* which does not hold it",
        ),
        (
            lambda index: index['weight_map'].update(a='gone.safetensors'),
            'the shard gone.safetensors, which is missing',
        ),
        (
            lambda index: index['weight_map'].update(a='../x.safetensors'),
            'is not the name of a file beside',
        ),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    tmp_path, change, sentence
):
  shards = [{'a': np.zeros(2), 'c': np.zeros(2)}, {'b': np.zeros(3)}]
  folder = stored.write_shards(tmp_path / 'model', shards)
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  change(index)
  path.write_text(json.dumps(index))
  with pytest.raises(ValueError, match=sentence):
    files_lib.open_tensors(folder)


def test_an_index_that_is_not_json_is_named(tmp_path):
  path = tmp_path / 'model.safetensors.index.json'
  path.write_text('{')
  with pytest.raises(ValueError, match='index.json is not JSON'):
    files_lib.open_tensors(tmp_path)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_value_that_is_not_finite_is_named(dtype, value):
  values = np.array([1, value, 2], dtype)
  with pytest.raises(ValueError, match="f.st: tensor 'a' has 1 values"):
    files_lib.check_finite(values, 'a', pathlib.Path('f.st'))
  files_lib.check_finite(values[::2], 'a', pathlib.Path('f.st'))
  files_lib.check_finite(np.arange(3), 'a', pathlib.Path('f.st'))
