"""Every config of a study leads the main command to that study."""

import importlib
import pathlib
import runpy

import pytest

from taskvec_jax import main

_CONFIGS = pathlib.Path(__file__).parents[3] / 'configs' / 'studies'


@pytest.mark.parametrize(
    'path', sorted(_CONFIGS.glob('*.py')), ids=lambda path: path.stem
)
def test_the_main_command_finds_the_study_and_its_settings_make_sense(path):
  config = runpy.run_path(str(path))['get_config']()
  experiment = importlib.import_module(
      f'taskvec_jax.experiments.{main._EXPERIMENTS[type(config).__name__]}'
  )
  assert experiment.__name__.endswith(f'.{path.stem}.study')
  assert callable(experiment.run) and callable(experiment.summary)
  importlib.import_module(type(config).__module__).check(config)
