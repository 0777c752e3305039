"""Files and folders appear whole, in the layout of their template."""

import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib
from taskvec_jax.task_vectors import headers
from tests.task_vectors import stored


def test_unchanged_values_make_the_same_files_byte_for_byte(tmp_path):
  tensors = stored.tensors_of_all_dtypes()
  names = list(tensors)
  folder = stored.write_shards(
      tmp_path / 'model',
      [{n: tensors[n] for n in part} for part in (names[::2], names[1::2])],
  )
  files = files_lib.open_tensors(folder)

  def unchanged(name, start, stop):
    assert stop - start <= 4
    return files_lib.read_range(files, name, start, stop)

  file_writing.write_like(files, tmp_path / 'out', unchanged, slice_size=4)
  assert {p.name for p in folder.iterdir()} == {
      p.name for p in (tmp_path / 'out').iterdir()
  }
  for path in folder.iterdir():
    assert path.read_bytes() == (tmp_path / 'out' / path.name).read_bytes()


def test_other_values_stand_in_the_layout_of_the_template(tmp_path):
  # An order of one's own, which is not that of `save`.
  path = stored.raw_file(
      tmp_path / 'x.safetensors',
      {
          '__metadata__': {'k': 'v'},
          'b': stored.entry(0, 4, 'BF16'),
          'a': stored.entry(4, 12),
      },
      12,
  )
  files = files_lib.open_tensors(path)
  values = {
      'a': np.array([1, 2], np.float32),
      'b': np.array([3, 4], ml_dtypes.bfloat16),
  }
  file_writing.write_like(
      files, tmp_path / 'out', lambda name, i, j: values[name][i:j]
  )
  written = files_lib.open_tensors(tmp_path / 'out')
  assert headers.read_bytes(written.files[0]) == headers.read_bytes(path)
  for name, value in values.items():
    stored.assert_same_bytes(files_lib.read(written, name), value)


@pytest.mark.parametrize(
    'wrong', [np.zeros(2), np.zeros((1, 4), np.float32), np.zeros(3, 'float32')]
)
def test_values_that_do_not_fit_leave_nothing(tmp_path, wrong):
  file_writing.save(tmp_path / 'x.safetensors', {'a': np.zeros(4, np.float32)})
  files = files_lib.open_tensors(tmp_path)
  with pytest.raises(ValueError, match="'a' must be float32 of shape .4,."):
    file_writing.write_like(files, tmp_path / 'out', lambda *_: wrong)
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']


def test_a_folder_that_exists_is_refused_and_kept(tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'file').write_text('kept')
  for name in ('out', 'file'):
    with pytest.raises(ValueError, match=f'{name} exists'):
      with file_writing.new_folder(tmp_path / name):
        pytest.fail('the block ran')
  with pytest.raises(ValueError, match='cannot be made'):
    with file_writing.new_folder(tmp_path / 'file' / 'out'):
      pytest.fail('the block ran')
  assert (tmp_path / 'file').read_text() == 'kept'
  assert not list((tmp_path / 'out').iterdir())


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
  with pytest.raises(ValueError, match='out exists'):
    with file_writing.new_folder(tmp_path / 'deep' / 'out') as hidden:
      (hidden / 'mine').write_text('')
      (tmp_path / 'deep' / 'out').mkdir()
      (tmp_path / 'deep' / 'out' / 'theirs').write_text('')
  assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['out']
  assert (tmp_path / 'deep' / 'out' / 'theirs').exists()


def test_a_dtype_that_files_cannot_hold_is_named_and_nothing_is_written(
    tmp_path,
):
  with pytest.raises(ValueError, match="'z' is of dtype complex64.*float64"):
    file_writing.save(
        tmp_path / 'x.safetensors', {'z': np.zeros(2, np.complex64)}
    )
  assert not list(tmp_path.iterdir())
