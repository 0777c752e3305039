import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from taskvec_jax import checkpoints


def tree(seed):
  rng = np.random.default_rng(seed)
  return {
      'params': {'kernel': rng.normal(size=(64, 32)).astype(np.float32)},
      'opt_state': {'0': np.int32(seed), '1': rng.normal(size=3)},
  }


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(x, y)


def test_what_comes_back_is_bitwise_what_was_saved(tmp_path):
  record = {'losses': [0.1, 1 / 3], 'none': None}
  checkpoints.save(tmp_path / 'run', 7, tree(7), record)
  restored = checkpoints.restore_latest(tmp_path / 'run')
  assert restored.step == 7
  assert restored.record == record
  assert_same(restored.tree, tree(7))


def test_a_folder_without_checkpoints_has_none(tmp_path):
  assert checkpoints.restore_latest(tmp_path / 'absent') is None


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
  for step in (1, 2, 3):
    checkpoints.save(tmp_path, step, tree(step), {})
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['000002', '000002.sha256', '000003', '000003.sha256']
  assert checkpoints.restore_latest(tmp_path).step == 3


def data_files(folder):
  files = [p for p in folder.rglob('*') if p.is_file() and p.stat().st_size]
  return [p for p in files if p.name != 'commit_success.txt']


@pytest.mark.parametrize('how', ['truncate', 'flip', 'remove'])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(
    tmp_path, caplog, how
):
  checkpoints.save(tmp_path, 1, tree(1), {'epoch': 1})
  checkpoints.save(tmp_path, 2, tree(2), {'epoch': 2})
  largest = max(data_files(tmp_path / '000002'), key=lambda p: p.stat().st_size)
  content = largest.read_bytes()
  if how == 'truncate':
    largest.write_bytes(content[: len(content) // 2])
  elif how == 'flip':
    middle = len(content) // 2
    largest.write_bytes(
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )
  else:
    largest.unlink()
  with caplog.at_level(logging.WARNING):
    restored = checkpoints.restore_latest(tmp_path)
  assert restored.step == 1
  assert_same(restored.tree, tree(1))
  assert '000002 is damaged' in caplog.text


def test_a_record_that_was_changed_is_noticed(tmp_path, caplog):
  checkpoints.save(tmp_path, 1, tree(1), {'loss': 0.25})
  (metadata,) = (tmp_path / '000001' / 'record').glob('metadata')
  metadata.write_text(metadata.read_text().replace('0.25', '0.24'))
  with caplog.at_level(logging.WARNING):
    assert checkpoints.restore_latest(tmp_path) is None
  assert 'SHA-256' in caplog.text


def test_a_checkpoint_without_its_digest_was_never_finished(tmp_path):
  checkpoints.save(tmp_path, 1, tree(1), {})
  checkpoints.save(tmp_path, 2, tree(2), {})
  (tmp_path / '000002.sha256').unlink()
  assert checkpoints.restore_latest(tmp_path).step == 1
  checkpoints.save(tmp_path, 2, tree(2), {})  # the run repeats that step
  assert checkpoints.restore_latest(tmp_path).step == 2


def test_a_process_killed_while_it_saves_leaves_whole_checkpoints(tmp_path):
  program = (
      'import sys, numpy as np\n'
      'from taskvec_jax import checkpoints\n'
      'for step in range(1, 10_000):\n'
      '  tree = {"x": np.full((512, 512), step, np.float32)}\n'
      '  checkpoints.save(sys.argv[1], step, tree, {"epoch": step})\n'
      '  print(step, flush=True)\n'
  )
  root = pathlib.Path(checkpoints.__file__).parents[1]
  with subprocess.Popen(
      [sys.executable, '-c', program, str(tmp_path)],
      stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': str(root)},
      text=True,
  ) as process:
    last = 0
    for line in process.stdout:
      last = int(line)
      if last == 5:
        process.kill()
        break
  restored = checkpoints.restore_latest(tmp_path)
  assert restored.step >= last
  assert restored.record == {'epoch': restored.step}
  assert np.all(restored.tree['x'] == restored.step)
