"""Four virtual CPU devices for every test: one process, as a small pod.

On a GPU the suite runs on what is there, and precision is that of a run.
"""

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_default_matmul_precision', 'highest')


@pytest.fixture(scope='session', autouse=True)
def _compiled_programs(tmp_path_factory):
  """Keeps compiled programs, as a run does: tests share many of them."""
  folder = tmp_path_factory.mktemp('compiled')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


@pytest.fixture
def x64():
  """Float64 for one test; the suite itself runs in float32."""
  with jax.enable_x64(True):
    yield
