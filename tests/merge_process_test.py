"""What holds of the process of a merge: memory, and being killed."""

import math
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from taskvec_jax.merging import file_job
from taskvec_jax.merging import recipe
from taskvec_jax.task_vectors import file_writing

_ROOT = pathlib.Path(__file__).parents[1]


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


def peak_memory(folder, num_tasks, method, *numbers):
  """Returns the bytes a merge needs, and those that a dry run announces."""
  models = [f'{folder}/{index}.safetensors' for index in range(num_tasks + 1)]
  line = run_python(
      _PEAK,
      f'--base={models[0]}',
      *(f'--finetuned={file}' for file in models[1:]),
      f'--method={method}',
      *(f'--set={number}' for number in numbers),
      f'--output={folder}/{method}',
  ).splitlines()[-1]
  job = file_job.prepare(
      base=models[0],
      finetuned=tuple(models[1:]),
      method=method,
      numbers=dict(number.split('=') for number in numbers),
      output=f'{folder}/again',
  )
  return int(line), file_job.memory(job)


@pytest.mark.parametrize(
    ('method', 'num_tasks', 'num_tensors', 'shape'),
    [
        ('task_arithmetic', 1, 320, (256, 256)),
        ('ties', 1, 320, (256, 256)),
        # Of all methods the most, at sizes that count beside the 64 MB.
        ('tsv_m', 2, 1, (1536, 1536)),
        ('iso_cts', 2, 1, (1536, 1536)),
        ('iso_cts', 2, 3, (768, 3072)),
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
  peak, announced = peak_memory(tmp_path, num_tasks, method)
  allowed = 1.2 * (num_tasks + 2) * 4 * math.prod(shape) + 64e6
  if num_tensors > 3:
    assert num_tensors * 4 * math.prod(shape) > 1.2 * allowed  # of one model
  assert 0 < peak <= min(allowed, announced)


@pytest.mark.parametrize(
    ('dtype', 'size', 'method', 'numbers'),
    [
        # Eigenvectors of the Gram matrix are as many bytes as four copies.
        (ml_dtypes.bfloat16, 3072, 'iso_c', []),
        (np.float16, 4096, 'tsv_m', []),
        # What it is merged in is four copies, and so is half a Gram matrix.
        (ml_dtypes.float8_e4m3fn, 4096, 'iso_cts', []),
        # LAPACK's singular value decomposition alone would take more.
        (np.float64, 2048, 'iso_c', []),
        (np.float32, 3072, 'iso_c', ['rank_tolerance=1e-6']),
    ],
)
def test_memory_of_a_large_matrix_whatever_its_dtype(
    tmp_path, dtype, size, method, numbers
):
  rng = np.random.default_rng(0)
  for index in range(2):
    matrix = rng.standard_normal((size, size), np.float32).astype(dtype)
    file_writing.save(tmp_path / f'{index}.safetensors', {'w': matrix})
  peak, announced = peak_memory(tmp_path, 1, method, *numbers)
  assert 0 < peak <= min(1.2 * 3 * matrix.nbytes + 64e6, announced)


def test_memory_of_small_dtypes_is_counted_in_their_bytes(tmp_path):
  rng = np.random.default_rng(0)
  base = rng.standard_normal((3072, 3072), np.float32)
  for index in range(9):
    # Most are as in the base: so many magnitudes that no threshold tells apart.
    tuned = base.copy()
    tuned[::16] *= 1 + index
    tensors = {'w': tuned.astype(ml_dtypes.bfloat16)}
    file_writing.save(tmp_path / f'{index}.safetensors', tensors)
  allowed = 1.2 * 10 * 2 * base.size + 64e6
  for method, *numbers in (['breadcrumbs'], ['ties', 'scope=per_tensor']):
    peak, announced = peak_memory(tmp_path, 8, method, *numbers)
    assert 0 < peak <= min(allowed, announced)
