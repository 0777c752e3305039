"""The command line, and what holds of its process: memory, and being killed."""

import json
import math
import os
import pathlib
import subprocess
import sys

from absl import flags
import numpy as np
import pytest

from taskvec_jax import merge
from taskvec_jax.merging import file_merge
from taskvec_jax.merging import recipe
from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import files as files_lib

_ROOT = pathlib.Path(__file__).parents[1]


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


def test_a_folder_without_a_whole_recipe_cannot_be_verified(tmp_path, call):
  status, _, err = call(f'--verify={tmp_path}')
  assert status == 2
  assert f'there is no {tmp_path}/recipe.json' in err
  for text in ('{', '[]', '{"inputs": [{}], "outputs": []}'):
    (tmp_path / 'recipe.json').write_text(text)
    status, _, err = call(f'--verify={tmp_path}')
    assert status == 2
    assert 'is no recipe of a merge' in err


def run_python(script, *arguments):
  """Returns what a script prints in a process of its own."""
  done = subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', script, *map(str, arguments)],
      cwd=_ROOT,
      check=True,
      stdout=subprocess.PIPE,
      text=True,
  )
  return done.stdout


# Children are forks, since imports take seconds; a fork has one thread, and
# nothing before it has started another.
_KILL = """
import os, signal, sys, time
from taskvec_jax import merge

folder, *arguments = sys.argv[1:]
def start(number):
  child = os.fork()
  if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    merge.parse(['merge', *arguments, f'--output={folder}/out{number}'])
    merge.main([])
    os._exit(0)
  return child

begin = time.monotonic()
os.waitpid(start('_whole'), 0)
whole = time.monotonic() - begin
for number in range(24):
  child = start(number)
  time.sleep(whole * number / 16)
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
"""


def test_killed_at_any_moment_the_output_is_absent_or_whole(tmp_path):
  rng = np.random.default_rng(0)
  for index in range(3):
    tensors = {
        f'{i}': rng.normal(size=(100, 300)).astype(np.float32)
        for i in range(20)
    }
    file_writing.save(tmp_path / f'{index}.safetensors', tensors)
  run_python(
      _KILL,
      tmp_path,
      f'--base={tmp_path}/0.safetensors',
      f'--finetuned={tmp_path}/1.safetensors',
      f'--finetuned={tmp_path}/2.safetensors',
      '--method=ties',
  )
  there = sorted(tmp_path.glob('out*'))
  assert tmp_path / 'out_whole' in there
  assert tmp_path / 'out0' not in there  # killed at once
  assert len(there) > 1
  for folder in there:
    assert {path.name for path in folder.iterdir()} == {
        '0.safetensors',
        'recipe.json',
    }
    assert all(found.problem is None for found in recipe.verify(folder))
  # Some were killed in the midst of it: what they had made stays hidden.
  assert list(tmp_path.glob('.out*'))


_PEAK = """
import pathlib, sys
from taskvec_jax import merge

def memory(field):
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(field + ':'):
      return 1024 * int(line.split()[1])

pathlib.Path('/proc/self/clear_refs').write_text('5')
before = memory('VmRSS')
merge.parse(['merge', *sys.argv[1:]])
merge.main([])
print(memory('VmHWM') - before)
"""


@pytest.mark.parametrize(
    ('method', 'num_tasks', 'num_tensors', 'shape'),
    [
        ('task_arithmetic', 1, 320, (256, 256)),
        ('ties', 1, 320, (256, 256)),
        # Of all methods the most, at a size at which it counts beside 64 MB.
        ('iso_cts', 2, 3, (768, 768)),
    ],
)
def test_memory_does_not_grow_with_the_number_of_tensors(
    tmp_path, method, num_tasks, num_tensors, shape
):
  rng = np.random.default_rng(0)
  for index in range(num_tasks + 1):
    tensors = {
        f'{i}': rng.standard_normal(shape, np.float32)
        for i in range(num_tensors)
    }
    file_writing.save(tmp_path / f'{index}.safetensors', tensors)
  line = run_python(
      _PEAK,
      f'--base={tmp_path}/0.safetensors',
      *(
          f'--finetuned={tmp_path}/{t + 1}.safetensors'
          for t in range(num_tasks)
      ),
      f'--method={method}',
      f'--output={tmp_path}/out',
  ).splitlines()[-1]
  allowed = 1.2 * (num_tasks + 2) * 4 * math.prod(shape) + 64e6
  if num_tensors > 3:
    assert num_tensors * 4 * math.prod(shape) > 1.2 * allowed  # of one model
  assert 0 < int(line) <= allowed
