"""launch/colab.ipynb, executed cell by cell in a kernel of its own.

Everything but the cell that installs is run, with the main job shortened by
the cell of parameters. The kernel begins in launch/, as Jupyter would. The cell
that installs is run by itself, with a pip that installs nothing but a record.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import re
import sys

import nbclient
import nbformat
import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PATH = _ROOT / 'launch' / 'colab.ipynb'

# One seed and one regime of two small tasks; gap, prediction and figures stay.
_OVERRIDES = [
    "--config.tasks=('digits', 'faces')",
    '--config.seeds=(0,)',
    "--config.regimes=('exact',)",
    '--config.model.widths=(12,)',
    '--config.max_train=40',
    '--config.max_validation=20',
    '--config.max_test=50',
    '--config.num_epochs=3',
    '--config.max_epochs=4',
    '--config.empirical.max_epochs=4',
    '--config.merge_epochs=(1, 3)',
    '--config.alphas=(0.3, 1.0)',
    '--config.pretraining.num_images=200',
    '--config.pretraining.num_epochs=1',
    '--config.analysis.equality_float64=False',
    '--config.analysis.rates_epochs=()',
    '--config.analysis.map_sharpness=()',
    '--config.analysis.ladder_epochs=()',
    '--config.analysis.lanczos_iterations=5',
]


def notebook():
  return nbformat.read(_PATH, as_version=4)


def cell(nb, name):
  (found,) = [cell for cell in nb.cells if cell.id == name]
  return found


def printed(cell, widgets=None):
  """Returns the text and the number of figures of a cell and its widgets."""
  outputs = list(cell.outputs)
  for kind in (widgets or {}).values():
    for widget in kind['state'].values():
      outputs += widget['state'].get('outputs', [])
  text = ''.join(o['text'] for o in outputs if o['output_type'] == 'stream')
  figures = [o for o in outputs if 'image/png' in o.get('data', {})]
  return text, len(figures)


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
  """The notebook after a run of all its cells."""
  folder = tmp_path_factory.mktemp('colab')
  nb = notebook()
  cell(nb, 'parameters').source = '\n'.join(
      [
          "REPOSITORY = ''",
          f'WORKDIR = {str(folder / "run")!r}',
          f'OVERRIDES = {_OVERRIDES!r}',
          'WIDTHS = (24,)',
          "PRETRAINING = {'num_images': 400, 'num_epochs': 2}",
      ]
  )
  nb.cells = [
      c for c in nb.cells if 'install' not in c.metadata.get('tags', ())
  ]
  environment = {
      'TASKVEC_JAX_CACHE': str(folder / 'cache'),
      'IPYTHONDIR': str(folder / 'ipython'),
      'JUPYTER_RUNTIME_DIR': str(folder / 'runtime'),
      'PYTHONPATH': str(_ROOT),
  }
  client = nbclient.NotebookClient(
      nb,
      timeout=500,
      kernel_name='python3',
      resources={'metadata': {'path': str(_PATH.parent)}},
  )
  client.execute(env={**os.environ, **environment})
  return nb, folder / 'run'


def test_the_run_ends_with_its_page_and_every_figure_is_shown(executed):
  nb, folder = executed
  text, _ = printed(cell(nb, 'run'))
  assert 'The page with the results' in text
  assert (folder / 'report.html').exists()
  names = sorted(path.stem for path in folder.glob('figures/*.png'))
  text, num_figures = printed(cell(nb, 'figures'))
  assert names and text.split() == names and num_figures == len(names)


def test_the_merge_is_multitask_training_at_first_and_predicted_later(executed):
  nb, _ = executed
  text, num_figures = printed(cell(nb, 'play'), nb.metadata.widgets)
  share = {
      said: float(number) / (100 if unit else 1)
      for said, number, unit in re.findall(
          r'^(.*?) (?:is|leaves) ([-\d.e]+)(%?) of', text, re.M
      )
  }
  assert share['after epoch 1 the gap'] < np.finfo(np.float32).eps
  assert 0.05 < share['after epoch 20 the gap'] < 1
  assert share['linear response'] < 0.3 < share['eta^2 C_k']
  assert (
      len(re.findall(r'^(base|merged|corrected|multitask) ', text, re.M)) == 4
  )
  assert num_figures == 1


def test_alpha_and_epochs_are_chosen_by_sliders(executed):
  nb, _ = executed
  (widgets,) = nb.metadata.widgets.values()
  sliders = {
      state['state']['description']: state['state']['value']
      for state in widgets['state'].values()
      if state['model_name'].endswith('SliderModel')
  }
  assert sliders == {'alpha': 0.5, 'num_epochs': 20, 'eta_lambda': 0.5}


@pytest.mark.parametrize(
    ('loaded', 'installed', 'is_refused'),
    [
        (np, np.__version__, False),
        (np, '99.0', True),
        (None, '99.0', False),  # not loaded yet
    ],
)
def test_an_install_that_replaces_a_loaded_numpy_asks_for_a_restart(
    tmp_path, monkeypatch, loaded, installed, is_refused
):
  monkeypatch.setitem(sys.modules, 'numpy', loaded)
  monkeypatch.syspath_prepend(tmp_path)
  assert importlib.metadata.version('numpy') == np.__version__

  def call(*words):
    assert words[1:4] == ('-m', 'pip', 'install')
    folder = tmp_path / f'numpy-{installed}.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(f'Name: numpy\nVersion: {installed}\n')

  expected = contextlib.nullcontext()
  if is_refused:
    expected = pytest.raises(SystemExit, match='Runtime > Restart session')
  names = {'call': call, 'importlib': importlib, 'sys': sys}
  with expected:
    exec(cell(notebook(), 'install').source, names)  # pylint: disable=exec-used


def test_the_notebook_is_kept_without_outputs_and_with_ids():
  nb = notebook()
  nbformat.validate(nb)
  assert (nb.nbformat, nb.nbformat_minor) == (4, 5)
  ids = [cell.id for cell in nb.cells]
  assert len(set(ids)) == len(ids)
  code = [cell for cell in nb.cells if cell.cell_type == 'code']
  assert all(not c.outputs and c.execution_count is None for c in code)
  # One cell is run apart from the others, and one is replaced.
  tags = [tag for c in code for tag in c.metadata.get('tags', ())]
  assert sorted(tags) == ['install', 'parameters']
