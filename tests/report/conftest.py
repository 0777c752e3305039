"""Results to report on, without a run."""

import importlib.util
import pathlib

import pytest

from taskvec_jax.report import pictures

# pytest imports test modules by path, so that they cannot import each other.
_PATH = pathlib.Path(__file__).with_name('fake_results.py')
_SPEC = importlib.util.spec_from_file_location('fake_results', _PATH)
_FAKE_RESULTS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FAKE_RESULTS)


@pytest.fixture(scope='session')
def make_results():
  return _FAKE_RESULTS.make_results


@pytest.fixture
def results():
  """A full run: 3 seeds, 6 tasks, both regimes; every claim measured."""
  return _FAKE_RESULTS.make_results(num_seeds=3)


@pytest.fixture
def one_seed_results():
  return _FAKE_RESULTS.make_results(num_seeds=1)


@pytest.fixture
def bare_results():
  """What a run leaves that measured nothing but its base model."""
  return _FAKE_RESULTS.make_bare_results()


@pytest.fixture
def text_of(monkeypatch, tmp_path):
  """A function from a page module and results to the HTML without figures."""
  monkeypatch.setattr(pictures, 'write', lambda *_: [])
  return lambda page, results: page.write_page(results, tmp_path).read_text()
