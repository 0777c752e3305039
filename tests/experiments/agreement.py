"""Runs on other devices or processes agree: what both tests of it assert."""

import jax

from taskvec_jax import checkpoints
from taskvec_jax.experiments import config as config_lib
from tests import problems


def assert_accuracies_agree(ours, theirs):
  """Within two of the 50 test images, wherever one coefficient was chosen."""
  num_compared = 0
  for a, b in zip(ours, theirs, strict=True):
    assert (a.model, a.epochs) == (b.model, b.epochs)
    if a.alpha_rule == 'validation' and a.alpha != b.alpha:
      continue  # two coefficients within an image of each other
    for task, share in a.accuracy.items():
      assert abs(share - b.accuracy[task]) * 50 <= 2 + 1e-6
    num_compared += 1
  assert num_compared > 0.8 * len(ours)


def assert_parameters_agree(folder, other):
  """To 1e-5 of their norm, of every regime and task of seed 0."""
  for regime in ('exact', 'empirical'):
    for task in ('digits', 'faces', config_lib.MULTITASK):
      a, b = (
          checkpoints.restore_latest(
              run / 'checkpoints' / 'seed0' / regime / task
          ).tree
          for run in (folder, other)
      )
      difference = jax.tree.map(lambda x, y: x - y, a, b)
      assert problems.norm(difference) < 1e-5 * problems.norm(b)
