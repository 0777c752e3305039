"""Bad input gets one sentence, a non-zero exit, no traceback."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import config_values
from tests.experiments import tiny

_ROOT = pathlib.Path(__file__).parents[1]
_TINY = f'--config={_ROOT / "tests" / "experiments" / "tiny.py"}'


def call(*arguments, cwd=_ROOT):
  """Returns what the command answers; it must not be a traceback."""
  done = subprocess.run(
      [sys.executable, '-m', 'taskvec_jax.main', *arguments],
      env={**os.environ, 'PYTHONPATH': str(_ROOT)},
      cwd=cwd,
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode != 0
  assert 'Traceback' not in done.stderr
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('taskvec_jax')]
  return line


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'name a config'),
        (['--config=configs/nope.py'], "no config file 'configs/nope.py'"),
        ([_TINY, '--config.nope=3'], "no field 'nope'; Config has name, tasks"),
        ([_TINY, '--config.heads.nope=3'], "no field 'nope'; Heads has"),
        ([_TINY, '--config.num_epochs=many'], '--config.num_epochs=many'),
        (
            [_TINY, "--config.alphas=(0.5, 'a')"],
            "each entry of config.alphas must be a finite number but is 'a'",
        ),
        (['--config', 'configs/nope.py'], "no config file 'configs/nope.py'"),
        (
            ['--config=configs/vit_b32.py:foo'],
            "the config file failed: ValueError: vit_b32 has the variant 'pack",
        ),
        (['--config=configs/ffn.py:foo'], 'the config file has no variants'),
        (['--config=tests/problems.py'], 'has no function get_config'),
        ([_TINY, 'stray'], "'stray' is no flag"),
        ([_TINY, '--confg=3'], "flag 'confg'"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(arguments, said):
  assert said in call(*arguments)


def test_an_unknown_task_lists_those_known(tmp_path):
  line = call(
      _TINY, "--config.tasks=('digits', 'cats')", f'--workdir={tmp_path}'
  )
  assert "unknown task 'cats'" in line and 'mnist5k' in line
  assert 'folder:PATH' in line
  assert not list(tmp_path.iterdir())  # before any work


def test_an_unreadable_image_is_named(tmp_path):
  for split in ('train', 'test'):
    for label in ('a', 'b'):
      folder = tmp_path / 'photos' / split / label
      folder.mkdir(parents=True)
      for i in range(12):
        pixels = np.full((8, 8, 3), i + 20 * (label == 'b'), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
  broken = tmp_path / 'photos' / 'train' / 'b' / '3.png'
  broken.write_bytes(broken.read_bytes()[:20])
  line = call(
      _TINY,
      f"--config.tasks=('folder:{tmp_path}/photos',)",
      f'--workdir={tmp_path}/run',
  )
  assert str(broken) in line


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  line = call(_TINY, f'--workdir={tmp_path}/file/run')
  assert f'{tmp_path}/file/run cannot be written' in line


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'learning_rate': 0.0}, r'learning_rate must be positive .* is 0\.0'),
        ({'learning_rate': float('nan')}, 'learning_rate must be positive'),
        ({'num_epochs': 0}, 'num_epochs must be positive .* is 0'),
        ({'alpha': -1.0}, r'alpha must lie in \[0, inf\), but is -1\.0'),
        ({'num_channels': 2}, 'grey.*but is 2'),
        ({'tasks': ()}, 'at least one task'),
        ({'tasks': ('digits', 'digits')}, 'none twice'),
        ({'tasks': ('digits,faces',)}, r"write several.*'digits', 'faces'"),
        ({'seeds': (1, 1)}, 'one seed or more, each once'),
        ({'merge_epochs': (2, 3)}, 'rise from 1'),
        ({'merge_epochs': (1, 9)}, 'up to 9 but training is capped at 4'),
        ({'alphas': (0.0, 1.0)}, r'all in \(0, inf\)'),
        (
            {'model': config_lib.FFNModel(activation='relu')},
            'second derivative',
        ),
        ({'model': config_lib.ViTModel(width=30)}, '30 cannot be divided'),
        (
            {'empirical': config_lib.Empirical(optimizer='lion', max_epochs=4)},
            "'lion'; known: sgd",
        ),
        (
            {
                'empirical': config_lib.Empirical(
                    matmul_precision='float8', max_epochs=4
                )
            },
            "must be 'highest', 'tensorfloat32' or 'bfloat16' but is 'float8'",
        ),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(changes, said):
  with pytest.raises(ValueError, match=said):
    config_lib.check(tiny.config(**changes))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'num_examples': -1}, r'analysis.num_examples must lie in \[0, inf'),
        ({'equality_examples': -5}, 'equality_examples must lie in .* is -5'),
        ({'rates_batch_size': 0}, 'rates_batch_size must be positive'),
        ({'rates_epochs': (1,)}, r'rates_epochs .* at least 2 but is \(1,\)'),
        ({'ladder_epochs': (0,)}, r'ladder_epochs .* at least 2 but is \(0,\)'),
        ({'map_sharpness': (-1.0,)}, 'map_sharpness must be positive'),
        ({'rates_sharpness': (1e-3,)}, 'rates_sharpness .* a slope needs'),
        ({'lanczos_iterations': 1}, 'lanczos_iterations must be at least 2'),
    ],
)
def test_an_analysis_without_sense_is_refused_before_any_work(changes, said):
  config = tiny.config()
  analysis = dataclasses.replace(config.analysis, **changes)
  with pytest.raises(ValueError, match=said):
    config_lib.check(dataclasses.replace(config, analysis=analysis))


def test_the_shipped_configs_make_sense():
  for path in sorted((_ROOT / 'configs').glob('*.py')):
    space = {}
    exec(compile(path.read_text(), path, 'exec'), space)  # pylint: disable=exec-used
    config = space['get_config']()
    config_values.check(config)
    # The module of an experiment's Config checks it.
    sys.modules[type(config).__module__].check(config)
    assert config.name == path.stem
    assert '--config=configs/' + path.name in space['__doc__']


@pytest.mark.parametrize('name', ['vit_b32', 'vit_b16', 'vit_l14'])
def test_a_packaged_variant_has_the_architecture_and_no_weights(name):
  space = {}
  path = _ROOT / 'configs' / f'{name}.py'
  exec(compile(path.read_text(), path, 'exec'), space)  # pylint: disable=exec-used
  published, small = (space['get_config'](v) for v in ('', 'packaged'))
  config_lib.check(small)
  assert small.model == published.model
  assert published.published.weights and not small.published.weights
  with pytest.raises(ValueError, match="'packaged' but none called 'tiny'"):
    space['get_config']('tiny')
