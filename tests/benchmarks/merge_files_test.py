import json
import math

from benchmarks import merge_files
from taskvec_jax.task_vectors import files as files_lib


def test_the_models_are_of_the_size_of_vit_b_32():
  sizes = [
      math.prod(s) for s in merge_files.shapes(merge_files.VIT_B32).values()
  ]
  assert sum(sizes) == 87_849_216  # CLIP's vision tower
  assert 350e6 < 4 * sum(sizes) < 352e6


def test_finetuned_models_are_near_the_base(tmp_path):
  base, tuned = merge_files.write_models(tmp_path, merge_files.SMALL, 1)
  a, b = files_lib.open_tensors(base), files_lib.open_tensors(tuned)
  assert {n: t.shape for n, t in a.tensors.items()} == merge_files.shapes(
      merge_files.SMALL
  )
  for name in ('proj', 'ln_pre.bias'):
    difference = files_lib.read(b, name) - files_lib.read(a, name)
    assert 0 < abs(difference).max() < 1e-3


def test_a_trial_measures_every_command(tmp_path, monkeypatch, capsys):
  path = tmp_path / 'figures.json'
  arguments = ['--small', '--num_turns=1', '--num_tasks=2', f'--output={path}']
  monkeypatch.setattr('sys.argv', ['merge_files', *arguments])
  monkeypatch.setattr(
      merge_files, '_SETTINGS', {'ties': ['--method=ties']}  # imports: 2 s
  )
  status = merge_files.main()
  (turns,) = json.loads(path.read_text())['commands']
  assert turns['ratio'] == turns['seconds'][0] / turns['floor_seconds'][0]
  # Imports take longer than reading a few MB does.
  assert status == 1
  assert 'ABOVE' in capsys.readouterr().out
