import numpy as np
import pytest

from taskvec_jax.merging import magmax
from tests.merging import cases


@pytest.mark.parametrize('kind', cases.KINDS)
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
def test_each_coordinate_comes_from_the_task_that_moved_it_furthest(
    num_tasks, kind
):
  vectors = cases.task_vectors(num_tasks, kind)
  # max() keeps the first of equals, as the method promises.
  expected = [
      max(column, key=abs) for column in zip(*cases.flats(vectors), strict=True)
  ]
  np.testing.assert_array_equal(cases.flat(magmax.magmax(vectors)), expected)


def test_of_equal_magnitudes_the_first_task_wins():
  up, down = np.array([1.0, -2.0]), np.array([-1.0, 2.0])
  merged = magmax.magmax({'b': {'x': down}, 'a': {'x': up}})
  np.testing.assert_array_equal(merged['x'], down)
