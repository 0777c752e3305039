"""The command line of a merge."""

import hashlib
import json
import os
import platform
import resource

from absl import flags
import numpy as np
import pytest
import scipy

from taskvec_jax import merge
from taskvec_jax.merging import file_merge
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib


@pytest.fixture
def call(capsys):
  """Runs the command in this process: (exit status, stdout, stderr)."""

  def run(*arguments):
    flags.FLAGS.unparse_flags()
    status = 0
    try:
      merge.parse(['merge', *map(str, arguments)])
      merge.main(['merge'])
    except SystemExit as stopped:
      status = stopped.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  yield run
  flags.FLAGS.unparse_flags()


@pytest.fixture
def models(tmp_path):
  """Writes a base and two finetuned models; returns their flags."""
  rng = np.random.default_rng(0)
  for name in 'ABC':
    tensors = {
        'w': rng.normal(size=(6, 5)).astype(np.float32),
        'b': rng.normal(size=7).astype(np.float32),
    }
    file_writing.save(tmp_path / f'{name}.safetensors', tensors)
  (tmp_path / 'config.json').write_text('{}')
  return [
      f'--base={tmp_path}/A.safetensors',
      f'--finetuned={tmp_path}/B.safetensors',
      f'--finetuned={tmp_path}/C.safetensors',
  ]


def test_a_merge_that_is_interrupted_says_so(
    call, models, tmp_path, monkeypatch
):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(file_merge, 'merge', interrupted)
  status, _, said = call(*models, '--method=ties', f'--output={tmp_path}/out')
  assert (status, said) == (130, 'taskvec_jax: stopped; nothing was written\n')


def tensors_of(path):
  files = files_lib.open_tensors(path)
  return {name: files_lib.read(files, name) for name in files.tensors}


def test_the_command_of_the_readme_merges(tmp_path, models, call):
  status, out, err = call(
      *models,
      '--method=task_arithmetic',
      '--set=scaling=0.4',
      f'--output={tmp_path}/out',
  )
  assert (status, err) == (0, '')
  assert str(tmp_path / 'out') in out
  a, b, c, found = (
      tensors_of(tmp_path / name)
      for name in ('A.safetensors', 'B.safetensors', 'C.safetensors', 'out')
  )
  for name, value in a.items():
    expected = value + np.float32(0.4) * ((b[name] - value) + (c[name] - value))
    np.testing.assert_allclose(found[name], expected, rtol=1e-6)
  status, out, err = call(f'--verify={tmp_path}/out')
  assert (status, err) == (0, '')
  assert 'All 5 files' in out


@pytest.mark.parametrize('flag', ['--dry-run', '--dry_run', '--dry-run=true'])
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    tmp_path, models, call, flag
):
  before = sorted(tmp_path.iterdir())
  status, out, err = call(
      *models, '--method=ties', f'--output={tmp_path}/out', flag
  )
  assert (status, err) == (0, '')
  assert 'ties with scaling=1.0, density=0.2' in out
  assert f'writes {tmp_path}/out' in out
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--method=ties'], '--output is missing'),
        (['--output=out'], '--method is missing'),
        (['--method=median', '--output=out'], "no method 'median'; known are"),
        (
            ['--method=ties', '--output=out', '--set=dense=1'],
            "ties has no number 'dense'; known, with their defaults, are"
            ' scaling (1.0), density (0.2)',
        ),
        (
            ['--method=ties', '--output=out', '--set=density=1.5'],
            'density must lie between 0 and 1 but is 1.5',
        ),
        (
            ['--method=ties', '--output=out', '--set=density=half'],
            "density must be a number but is 'half'",
        ),
        (
            ['--method=ties', '--output=out', '--set=scope=row'],
            "scope must be one of global, per_tensor but is 'row'",
        ),
        (
            ['--method=dare', '--output=out', '--set=seed=1.5'],
            "seed must be a whole number but is '1.5'",
        ),
        (
            ['--method=dare', '--output=out', '--set=rescale=maybe'],
            "rescale must be true or false but is 'maybe'",
        ),
        (
            ['--method=consensus', '--output=out', '--set=min_tasks=-1'],
            'min_tasks must not be negative but is -1',
        ),
        (
            ['--method=iso_c', '--output=out', '--set=rank_tolerance=2'],
            'rank_tolerance must be at least 0 and below 1',
        ),
        (
            ['--method=average', '--output=out', '--set=scaling=nan'],
            'scaling must be finite',
        ),
        (
            ['--method=ties', '--output=out', '--set=density'],
            '--set=density is not of the form NUMBER=VALUE',
        ),
        (
            [
                '--method=ties',
                '--output=out',
                '--set=density=0.1',
                '--set=density=0.2',
            ],
            'density twice',
        ),
        (['--method=ties', '--output=out', 'stray'], "'stray' is no flag"),
        (['--method=ties', '--outputs=out'], "flag 'outputs'"),
        (['--verify=out'], '--verify goes without --base'),
        (['--base=', '--verify=out'], '--verify goes without --finetuned'),
    ],
)
def test_a_wrong_call_gets_one_sentence(
    tmp_path, models, call, monkeypatch, arguments, said
):
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.iterdir())
  status, out, err = call(*models, *arguments)
  assert (status, out) == (2, '')
  (line,) = err.splitlines()
  assert line.startswith('taskvec_jax: ')
  assert said in line
  assert sorted(tmp_path.iterdir()) == before


def test_missing_and_damaged_checkpoints_are_named(tmp_path, models, call):
  rest = ['--method=average', f'--output={tmp_path}/out']
  status, _, err = call(models[0], *rest)
  assert status == 2
  assert 'no finetuned model to merge' in err
  status, _, err = call(*models, '--finetuned=nowhere', *rest)
  assert status == 2
  assert 'there is no nowhere' in err
  cut = tmp_path / 'C.safetensors'
  os.truncate(cut, cut.stat().st_size - 3)
  status, _, err = call(*models, *rest)
  assert status == 2
  assert f'{cut} was cut short' in err
  assert not (tmp_path / 'out').exists()


def test_an_output_that_exists_is_refused_and_kept(tmp_path, models, call):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').write_text('kept')
  status, _, err = call(*models, '--method=ties', f'--output={tmp_path}/out')
  assert status == 2
  assert f'{tmp_path}/out exists and is not overwritten' in err
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']


def test_a_merge_that_fails_in_the_middle_has_status_1(tmp_path, models, call):
  status, _, err = call(
      *models,
      '--method=average',
      '--set=scaling=1e39',
      f'--output={tmp_path}/out',
  )
  assert status == 1
  assert "merged values of tensor 'b' are too large for float32" in err
  assert not (tmp_path / 'out').exists()


def test_an_output_without_room_is_named(tmp_path, models, call):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
  try:
    status, out, err = call(
        *models, '--method=average', f'--output={tmp_path}/out'
    )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert (status, out) == (1, '')
  assert f'{tmp_path}/out cannot be written (File too large); make room' in err
  assert not list(tmp_path.glob('*out*'))


@pytest.mark.parametrize(
    ('file', 'change', 'said'),
    [
        ('out/A.safetensors', 'flip', 'has SHA-256'),
        ('B.safetensors', 'flip', 'has SHA-256'),
        ('C.safetensors', 'cut', 'has 275 bytes, not 276'),
        ('out/config.json', 'remove', 'is missing'),
    ],
)
def test_verifying_names_the_file_that_differs(
    tmp_path, models, call, file, change, said
):
  call(*models, '--method=magmax', f'--output={tmp_path}/out')
  path = tmp_path / file
  data = bytearray(path.read_bytes())
  if change == 'remove':
    path.unlink()
  else:
    data[-1] ^= 1
    path.write_bytes(data if change == 'flip' else data[:-1])
  status, _, err = call(f'--verify={tmp_path}/out')
  assert status == 1
  assert '1 of 5 files differ' in err
  assert f'{path} {said}' in err


@pytest.mark.parametrize(
    'flag', ['--finetuned=B', '--set=scaling=9', '--dry-run', '--output=x']
)
def test_verifying_takes_no_other_flag(tmp_path, models, call, flag):
  folder = tmp_path / 'out'
  call(*models, '--method=average', f'--output={folder}')
  status, out, err = call(f'--verify={folder}', flag)
  assert (status, out) == (2, '')
  name = flag.split('=')[0].replace('dry-', 'dry_')
  assert f'--verify goes without {name}, since the recipe says' in err


def test_verifying_names_a_file_that_the_merge_did_not_write(
    tmp_path, models, call
):
  folder = tmp_path / 'out'
  call(*models, '--method=average', f'--output={folder}')
  zeros = {'w': np.zeros((6, 5), np.float32), 'b': np.zeros(7, np.float32)}
  file_writing.save(folder / 'model.safetensors', zeros)
  status, _, err = call(f'--verify={folder}')
  assert status == 1
  assert '1 of 6 files differ' in err
  assert f'{folder}/model.safetensors is no output of the merge' in err


@pytest.mark.parametrize('change', ['struck', 'hashed', 'removed'])
def test_verifying_knows_the_index_of_shards_whatever_the_recipe_says(
    tmp_path, models, call, change
):
  name = 'model.safetensors.index.json'
  weight_map = dict.fromkeys('bw', 'A.safetensors')
  (tmp_path / name).write_text(json.dumps({'weight_map': weight_map}))
  folder = tmp_path / 'out'
  base = f'--base={tmp_path}/{name}'
  call(base, *models[1:], '--method=average', f'--output={folder}')
  assert call(f'--verify={folder}')[0] == 0
  path = folder / 'recipe.json'
  told = json.loads(path.read_text())
  told['outputs'] = [one for one in told['outputs'] if one['file'] != name]
  if change == 'removed':
    (folder / name).unlink()
  else:
    (folder / name).write_text('{}')
  if change == 'hashed':
    digest = hashlib.sha256(b'{}').hexdigest()
    told['outputs'].append({'file': name, 'num_bytes': 2, 'sha256': digest})
  path.write_text(json.dumps(told))
  status, out, err = call(f'--verify={folder}')
  assert (status, out) == (1, '')
  assert f'{folder}/{name} ' in err


@pytest.mark.parametrize('method', ['ties', 'dare', 'tsv_m', 'average'])
def test_verifying_merges_again(tmp_path, models, call, method):
  folder = tmp_path / 'out'
  call(*models, f'--method={method}', '--set=scaling=0.7', f'--output={folder}')
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  status, out, err = call(f'--verify={folder}')
  assert (status, err) == (0, '')
  assert out.endswith('merged again, the same\n')
  assert before == {
      p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()
  }


def test_a_recipe_that_does_not_make_its_files_is_caught(
    tmp_path, models, call
):
  folder = tmp_path / 'out'
  call(*models, '--method=dare', '--set=seed=1', f'--output={folder}')
  path = folder / 'recipe.json'
  told = json.loads(path.read_text())
  told['numbers']['seed'] = 2
  told['versions']['numpy'] = '0.1'
  path.write_text(json.dumps(told))
  status, out, err = call(f'--verify={folder}')
  assert (status, out) == (1, '')
  assert f'merged again as {path} says, {folder}/A.safetensors comes out' in err
  assert f'numpy {np.__version__}, then 0.1' in err


@pytest.mark.parametrize(
    ('method', 'processor', 'told_so'),
    [
        ('iso_c', 'other', True),
        ('iso_c', None, True),  # as recipes were before they said
        ('iso_c', 'this', False),
        ('average', 'other', False),
    ],
)
def test_bytes_of_another_processor_are_said_to_be_that(
    tmp_path, models, call, method, processor, told_so
):
  folder = tmp_path / 'out'
  call(*models, f'--method={method}', f'--output={folder}')
  path = folder / 'recipe.json'
  told = json.loads(path.read_text())
  assert told['versions']['scipy'] == scipy.__version__
  assert told['versions']['processor'].startswith(platform.machine())
  if processor == 'other':
    told['versions']['processor'] = 'abacus'
  elif processor is None:
    del told['versions']['processor'], told['versions']['blas']
  path.write_text(json.dumps(told))
  assert call(f'--verify={folder}')[0] == 0
  # Another last bit, as the code for another processor gives it.
  file = folder / 'A.safetensors'
  data = bytearray(file.read_bytes())
  data[-4] ^= 1
  file.write_bytes(data)
  for entry in told['outputs']:
    if entry['file'] == file.name:
      entry['sha256'] = hashlib.sha256(data).hexdigest()
  path.write_text(json.dumps(told))
  status, _, err = call(f'--verify={folder}')
  assert status == 1
  assert 'comes out with SHA-256' in err
  assert ('on one type of processor only' in err) == told_so
  assert ('then abacus' in err) == (processor == 'other')


def test_a_folder_without_a_whole_recipe_cannot_be_verified(tmp_path, call):
  status, _, err = call(f'--verify={tmp_path}')
  assert status == 2
  assert f'there is no {tmp_path}/recipe.json' in err
  for text in ('{', '[]', '{"inputs": [{}], "outputs": []}'):
    (tmp_path / 'recipe.json').write_text(text)
    status, _, err = call(f'--verify={tmp_path}')
    assert status == 2
    assert 'is no recipe of a merge' in err
