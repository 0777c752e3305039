import json

import jax
import numpy as np
import pytest

from benchmarks import merge_files
from benchmarks import tree_arithmetic
from taskvec_jax.task_vectors import arithmetic


@pytest.mark.parametrize('num_tasks', [2, 8])
def test_a_merge_moves_each_tree_once(num_tasks):
  seconds = {
      'copy': np.array([2.0, 4.0]),
      'merge': np.array([2.0 * num_tasks, 4.0 * num_tasks]),
  }
  copy, merge = tree_arithmetic.bandwidths(seconds, 10**9, num_tasks=num_tasks)
  # T task vectors and the base are read, the merge is written.
  assert merge.moved_bytes == (num_tasks + 1 + 1) * 10**9
  assert copy.moved_bytes == 2 * 10**9
  assert copy.gigabytes_per_second.high == pytest.approx(1 - 0.25 * 0.5)
  assert copy.share == (1.0, 1.0, 1.0)
  # T times the copy's time for (T + 2) / 2 times its bytes.
  assert merge.share.median == pytest.approx((num_tasks + 2) / 2 / num_tasks)


def test_the_peer_computes_the_same_merge():
  base, *vectors = tree_arithmetic._trees(merge_files.SMALL, 4)
  tasks = {f'{i}': vector for i, vector in enumerate(vectors)}
  ours = arithmetic.merge(base, tasks, dict.fromkeys(tasks, 0.3))
  theirs = tree_arithmetic.merge_by_optax(base, vectors)
  for one, other in zip(
      jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_trial_measures_every_operation(tmp_path, monkeypatch, capsys):
  path = tmp_path / 'tree.json'
  arguments = ['--size=small', '--num_tasks=2', '--num_turns=1']
  monkeypatch.setattr(tree_arithmetic.importlib.util, 'find_spec', lambda _: 0)
  monkeypatch.setattr('sys.argv', ['tree', *arguments, f'--output={path}'])
  assert tree_arithmetic.main() == 0
  report = json.loads(path.read_text())
  assert report['goals'] == {} and report['missed'] == []
  assert set(report['machine']) == {
      'cores',
      'processor',
      'devices',
      'jax',
      'python',
  }
  operations = [entry['operation'] for entry in report['bandwidths']]
  assert operations == ['copy', 'triad', 'task_vector', 'merge', 'merge, optax']
  assert all(e['seconds']['median'] > 0 for e in report['bandwidths'])
  assert 'share of the copy' in capsys.readouterr().out
