"""What tests of parents and of notices share."""

import pytest

from taskvec_jax.processes import notices


@pytest.fixture
def listener():
  """Hears notices, as the parent of another process does."""
  listener = notices.listen()
  yield listener
  notices.close(listener)
