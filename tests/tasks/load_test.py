"""Names of tasks that mean nothing."""

import pytest

from taskvec_jax.tasks import load


@pytest.mark.parametrize(
    'spec', ['minst', '', 'folder:', 'idx', 'zip:/data', 'tfds:']
)
def test_an_unknown_task_lists_those_known_and_the_prefixes(spec):
  with pytest.raises(ValueError, match='unknown task') as error:
    load.load_task(spec)
  message = str(error.value)
  assert repr(spec) in message
  for known in ('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'):
    assert known in message
  for known in ('fashion_mnist', 'idx:', 'folder:', 'tfds:'):
    assert known in message
  assert '\n' not in message


def test_an_image_size_below_one_is_refused():
  with pytest.raises(ValueError, match='image_size is 0'):
    load.load_task('faces', image_size=0)
