"""Merged files against the methods on trees of the same tensors."""

import inspect
import json
import os

import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.merging import file_hashes
from taskvec_jax.merging import file_job
from taskvec_jax.merging import file_merge
from taskvec_jax.merging import recipe
from taskvec_jax.merging import slice_merging
from taskvec_jax.merging import slice_methods
from taskvec_jax.merging import streams
from taskvec_jax.merging import tied
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import headers

_SHAPES = {
    'embed.weight': (13, 8),
    'conv.weight': (4, 3, 2, 2),
    'norm.bias': (9,),
    'scale': (),
    'empty': (0, 3),
}


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
  """Tensors in several slices, and thresholds by counting, not by holding."""
  monkeypatch.setattr(streams, 'NUM_ELEMENTS', 70)
  monkeypatch.setattr(slice_merging, 'NUM_BYTES_HELD', 0)


def model(seed, dtype='float32', base=None):
  """Returns a base, or one near it; one integer tensor in each."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in _SHAPES.items():
    values = rng.normal(size=shape)
    if base is not None:
      # Rounded, so that magnitudes and signs tie.
      values = base[name].astype(float) + np.round(values, 1)
    found[name] = np.asarray(values).astype(dtype)
  return found | {'ids': np.arange(6).reshape(2, 3) + seed}


def write_models(folder, dtypes=('float32',) * 4):
  """Writes a base and finetuned models; returns them."""
  base = model(0, dtypes[0])
  models = [base]
  for seed, dtype in enumerate(dtypes[1:], 1):
    models.append(model(seed, dtype, base))
  for index, tensors in enumerate(models):
    (folder / str(index)).mkdir()
    file_writing.save(folder / str(index) / 'model.safetensors', tensors)
  return models


def job(folder, method, *, num_tasks=3, output='out', **numbers):
  return file_job.prepare(
      base=str(folder / '0'),
      finetuned=tuple(str(folder / str(t + 1)) for t in range(num_tasks)),
      method=method,
      numbers={name: str(value) for name, value in numbers.items()},
      output=str(folder / output),
  )


def merged(folder, method, **numbers):
  """Returns the tensors of a merged folder."""
  file_merge.merge(job(folder, method, **numbers), progress=lambda _: None)
  files = files_lib.open_tensors(folder / numbers.get('output', 'out'))
  return {name: files_lib.read(files, name) for name in files.tensors}


def widened(tensors, dtype=np.float32):
  return {
      name: value.astype(np.promote_types(dtype, value.dtype))
      if files_lib.is_float(value.dtype)
      else value
      for name, value in tensors.items()
  }


def merged_trees(models, method, **given):
  """Returns the same by the function on trees, computed in float32 or wider."""
  base, *finetuned = (widened(m) for m in models)
  vectors = {
      str(task): {name: tensors[name] - base[name] for name in base}
      for task, tensors in enumerate(finetuned)
  }
  numbers = dict(slice_methods.METHODS[method].numbers) | given
  scaling = numbers.pop('scaling')
  vector = slice_methods.METHODS[method].tree_fn(vectors, **numbers)
  edited = arithmetic.edit(base, vector, scaling)
  return {
      name: np.asarray(edited[name]).astype(models[0][name].dtype)
      for name in base
  }


def assert_same(found, expected, *, num_eps=0):
  """Checks equal values, or with `num_eps` nearly equal ones."""
  assert set(found) == set(expected)
  for name, value in expected.items():
    assert found[name].dtype == value.dtype, name
    assert found[name].shape == value.shape, name
    rtol = 0
    if files_lib.is_float(value.dtype):
      rtol = num_eps * float(ml_dtypes.finfo(value.dtype).eps)
    np.testing.assert_allclose(
        found[name].astype(float), value.astype(float), rtol, err_msg=name
    )


_CASES = [
    *((method, {}) for method in slice_methods.METHODS),
    ('ties', {'density': 0.5, 'tie_break': 'majority', 'scaling': 0.4}),
    ('ties', {'scope': 'per_tensor', 'tie_break': 'majority'}),
    ('ties', {'scope': 'per_tensor', 'density': 0.3, 'merge': 'dis-max'}),
    ('ties', {'density': 0.0}),
    ('ties', {'density': 1.0, 'count': 'reference', 'merge': 'dis-sum'}),
    ('dare', {'drop_rate': 0.4, 'seed': 7, 'rescale': False}),
    ('dare_ties', {'drop_rate': 0.3, 'density': 0.4, 'scope': 'per_tensor'}),
    ('breadcrumbs', {'beta': 0.3, 'gamma': 0.8}),
    (
        'breadcrumbs',
        {'beta': 0.5, 'gamma': 0.2, 'parametrisation': 'reference'},
    ),
    ('pcgrad', {'seed': 3, 'scaling': -0.5}),
    ('consensus', {'min_tasks': 1, 'mask_lambda': 0.2}),
    ('iso_cts', {'common_fraction': 0.5, 'rank_tolerance': 0.01}),
]


@pytest.mark.parametrize(('method', 'numbers'), _CASES)
def test_files_are_merged_as_trees_are(tmp_path, method, numbers):
  models = write_models(tmp_path)
  expected = merged_trees(models, method, **numbers)
  # Inner products are added up slice by slice.
  num_eps = 4 if method in ('model_stock', 'pcgrad') else 0
  assert_same(merged(tmp_path, method, **numbers), expected, num_eps=num_eps)
  if numbers.get('density') != 0.0:
    assert any((expected[name] != models[0][name]).any() for name in expected)


@pytest.mark.parametrize('method', ['task_arithmetic', 'ties', 'model_stock'])
@pytest.mark.parametrize(
    'dtypes',
    [
        ('bfloat16',) * 4,
        ('float16',) * 4,
        ('float8_e4m3fn',) * 4,
        ('float64',) * 4,
        ('bfloat16', 'float32', 'bfloat16', 'float16'),
    ],
)
def test_sums_are_float32_or_wider_and_the_result_is_of_the_bases_dtype(
    tmp_path, dtypes, method
):
  models = write_models(tmp_path, tuple(map(np.dtype, dtypes)))
  numbers = {'scaling': 0.25}
  expected = merged_trees(models, method, **numbers)
  found = merged(tmp_path, method, **numbers)
  assert_same(found, expected, num_eps=4 * (method == 'model_stock'))
  assert found['norm.bias'].dtype == np.dtype(dtypes[0])


def test_the_sum_is_not_rounded_in_between(tmp_path):
  # In bfloat16 1 + 2^-9 is 1, and so would each task's step be lost.
  base = {'x': np.full(5, 256, ml_dtypes.bfloat16)}
  tuned = {'x': np.full(5, 258, ml_dtypes.bfloat16)}
  for index, tensors in enumerate([base, tuned, tuned, tuned, tuned]):
    (tmp_path / str(index)).mkdir()
    file_writing.save(tmp_path / str(index) / 'model.safetensors', tensors)
  found = merged(tmp_path, 'task_arithmetic', num_tasks=4, scaling=0.25)
  np.testing.assert_array_equal(found['x'], tuned['x'])


def shard(folder, tensors):
  """Splits a folder's file into two shards with an index."""
  (folder / 'model.safetensors').unlink()
  names, weight_map = sorted(tensors), {}
  for number, part in enumerate((names[:3], names[3:]), 1):
    file = f'model-{number:05d}-of-00002.safetensors'
    file_writing.save(folder / file, {n: tensors[n] for n in part}, {'n': 'x'})
    weight_map |= dict.fromkeys(part, file)
  (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'metadata': {}, 'weight_map': weight_map})
  )


def test_the_output_is_sharded_like_the_base_whatever_the_others_are(tmp_path):
  models = write_models(tmp_path)
  shard(tmp_path / '0', models[0])
  shard(tmp_path / '2', models[2])
  for name in ('config.json', 'tokenizer.json', 'merges.txt', 'notes.txt'):
    (tmp_path / '0' / name).write_text(name)
  found = merged(tmp_path, 'ties', density=0.4)
  assert_same(found, merged_trees(models, 'ties', density=0.4))
  written = {path.name for path in (tmp_path / 'out').iterdir()}
  beside = {path.name for path in (tmp_path / '0').iterdir()}
  assert written == beside - {'notes.txt'} | {'recipe.json'}
  out = files_lib.open_tensors(tmp_path / 'out')
  for file in out.files:
    assert headers.read_bytes(file) == headers.read_bytes(
        tmp_path / '0' / file.name
    )
  roles = [
      entry['role']
      for entry in json.loads((tmp_path / 'out/recipe.json').read_text())[
          'inputs'
      ]
  ]
  assert roles == ['base'] * 3 + ['finetuned 1'] + ['finetuned 2'] * 3 + [
      'finetuned 3'
  ]
  assert all(found.problem is None for found in recipe.verify(tmp_path / 'out'))


def test_weights_that_are_called_tokenizer_are_merged_and_not_copied(tmp_path):
  models = write_models(tmp_path)
  for index in range(4):
    folder = tmp_path / str(index)
    (folder / 'model.safetensors').rename(folder / 'tokenizer-e.safetensors')
  for name in ('tokenizer.bin', 'vocab.pt', 'tokenizer.json'):
    (tmp_path / '0' / name).write_text(name)
  found = merged(tmp_path, 'average')
  assert_same(found, merged_trees(models, 'average'))
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {
      'recipe.json',
      'tokenizer-e.safetensors',
      'tokenizer.json',
  }


def test_tensors_that_are_tied_stay_tied_under_random_drops(tmp_path):
  rng = np.random.default_rng(0)
  for index in range(3):
    shared = rng.normal(size=(6, 5)).astype(np.float32)
    other = rng.normal(size=(6, 5)).astype(np.float32)
    (tmp_path / str(index)).mkdir()
    file_writing.save(
        tmp_path / str(index) / 'model.safetensors',
        {
            'embed': shared,
            'head': shared,
            'other': other,
            'bias': shared.reshape(-1),
            'head.bias': shared.reshape(-1),
        },
    )
  found = merged(tmp_path, 'dare', num_tasks=2, drop_rate=0.5)
  np.testing.assert_array_equal(found['embed'], found['head'])
  np.testing.assert_array_equal(found['bias'], found['head.bias'])
  dropped = found['embed'] == files_lib.read(
      files_lib.open_tensors(tmp_path / '0'), 'embed'
  )
  assert dropped.any()
  assert not dropped.all()


def test_tensors_that_are_equal_in_the_base_alone_are_told_apart_at_once(
    tmp_path, monkeypatch
):
  compared = []
  monkeypatch.setattr(tied, '_same_bytes', lambda *_: compared.append(True))
  for index in range(3):
    tensors = {
        f'{i}.bias': np.full(9, index * i, np.float32) for i in range(20)
    }
    (tmp_path / str(index)).mkdir()
    file_writing.save(tmp_path / str(index) / 'model.safetensors', tensors)
  merged(tmp_path, 'dare', num_tasks=2)
  assert not compared


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
  write_models(tmp_path)
  for output, seed in (('a', 1), ('b', 1), ('c', 2)):
    merged(tmp_path, 'dare', seed=seed, drop_rate=0.5, output=output)
  a, b, c = (
      (tmp_path / name / 'model.safetensors').read_bytes() for name in 'abc'
  )
  assert a == b != c


def test_the_recipe_has_the_hashes_of_all_that_was_read_and_written(tmp_path):
  write_models(tmp_path)
  merged(tmp_path, 'dare_ties', seed=5)
  found = json.loads((tmp_path / 'out' / 'recipe.json').read_text())
  assert found['method'] == 'dare_ties'
  assert found['seed'] == found['numbers']['seed'] == 5
  assert found['numbers']['density'] == 0.2
  assert found['versions']['numpy'] == np.__version__
  for entry in (*found['inputs'], *found['outputs']):
    file = tmp_path / 'out' / entry['file']
    assert file_hashes.sha256(file) == entry['sha256']
    assert file.stat().st_size == entry['num_bytes']


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('index', [0, 2])
@pytest.mark.parametrize('method', ['average', 'ties', 'breadcrumbs'])
def test_a_value_that_is_not_finite_names_file_and_tensor(
    tmp_path, method, index, value
):
  models = write_models(tmp_path)
  models[index]['embed.weight'][12, 7] = value
  file = tmp_path / str(index) / 'model.safetensors'
  file_writing.save(file, models[index])
  with pytest.raises(ValueError, match="'embed.weight' .*NaN") as raised:
    merged(tmp_path, method)
  assert str(file) in str(raised.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == list('0123')


def test_a_sum_that_the_bases_dtype_cannot_hold_is_named(tmp_path):
  write_models(tmp_path, (np.dtype('float16'),) * 4)
  with pytest.raises(FloatingPointError, match='too large for float16'):
    merged(tmp_path, 'task_arithmetic', scaling=1e6)
  assert not (tmp_path / 'out').exists()


def change(file, *, keep_time):
  """Flips the last byte of a file."""
  status = file.stat()
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  with open(file, 'r+b') as stream:  # the same inode
    stream.write(data)
  if keep_time:
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ('method', 'when', 'keep_time', 'said'),
    [
        ('task_arithmetic', 5, False, 'its size or time did'),
        ('ties', 15, True, 'its SHA-256 was'),  # in the second pass
    ],
)
def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path, method, when, keep_time, said
):
  write_models(tmp_path)
  file = tmp_path / '1' / 'model.safetensors'
  prepared = job(tmp_path, method)
  calls = []

  def progress(_):
    calls.append(True)
    if len(calls) == when:
      change(file, keep_time=keep_time)

  with pytest.raises(OSError, match=said) as raised:
    file_merge.merge(prepared, progress=progress)
  assert str(file) in str(raised.value)
  assert not (tmp_path / 'out').exists()
  assert sorted(path.name for path in tmp_path.iterdir()) == list('0123')


@pytest.mark.parametrize(
    ('method', 'numbers'),
    [
        ('task_arithmetic', {}),
        ('ties', {}),
        ('ties', {'tie_break': 'majority'}),
        ('pcgrad', {}),
    ],
)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_progress_ends_at_what_was_announced(tmp_path, method, numbers, dtype):
  models = write_models(tmp_path, (np.dtype(dtype),) * 4)
  # All magnitudes are equal but for rounding.
  for index, tensors in enumerate(models[1:], 1):
    for name in _SHAPES:
      tensors[name] = models[0][name] + 1e-3 * np.sign(tensors[name])
    file = tmp_path / str(index) / 'model.safetensors'
    file_writing.save(file, widened(tensors, np.dtype(dtype)))
  prepared = job(tmp_path, method, **numbers)
  seen = []
  file_merge.merge(prepared, progress=seen.append)
  assert sum(seen) == file_job.num_bytes_read(prepared)
  assert file_job.num_passes(prepared) <= 4


def test_a_description_names_files_passes_and_memory(tmp_path):
  write_models(tmp_path)
  text = file_job.describe(job(tmp_path, 'ties', tie_break='majority'))
  assert 'up to 4 times' in text
  assert f'finetuned 3: {tmp_path}/3' in text
  assert 'model.safetensors, recipe.json' in text
  assert 'keeps 1 tensors' in text
  assert 'memory: at most about' in text
  assert not (tmp_path / 'out').exists()


def test_defaults_are_those_of_the_functions_on_trees():
  for method in slice_methods.METHODS.values():
    parameters = inspect.signature(method.tree_fn).parameters.values()
    defaults = {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }
    given = {k: v for k, v in method.numbers.items() if k != 'scaling'}
    assert defaults.items() <= given.items()
    assert set(given) == {
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY
    }


def different(folder, change_tensors):
  models = write_models(folder)
  change_tensors(models[2])
  file_writing.save(folder / '2' / 'model.safetensors', models[2])
  with pytest.raises(ValueError, match='not of one architecture') as raised:
    job(folder, 'average')
  assert str(folder / '2') in str(raised.value)
  return str(raised.value)


def test_tensors_that_differ_are_named_the_first_three(tmp_path):
  def change_tensors(tensors):
    del tensors['embed.weight']
    tensors['norm.bias'] = np.zeros(4, np.float32)
    tensors['scale'] = np.int64(3)
    tensors['zusatz'] = np.zeros(2)

  text = different(tmp_path, change_tensors)
  assert "'embed.weight' is missing" in text
  assert "'norm.bias' has shape [4], not [9]" in text
  assert "'scale' is of dtype int64, not float32" in text
  assert 'and 1 more' in text
  assert 'zusatz' not in text


def test_a_tensor_that_the_base_has_not_is_named(tmp_path):
  more = {name: np.zeros(1, np.float32) for name in 'zyxwv'}
  text = different(tmp_path, lambda t: t.update(more))
  # The first in the order of their file.
  assert "'v' is not in the base; 'w' is not in the base; 'x' is" in text
  assert 'and 2 more' in text
