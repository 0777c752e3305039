"""What every test of an experiment needs."""

import pytest


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  """Pretraining and compiled programs of one file's runs."""
  folder = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TASKVEC_JAX_CACHE', str(folder))
    yield folder
