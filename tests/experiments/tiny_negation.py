"""A config that runs all of negation in seconds."""

from taskvec_jax.experiments import negation_config
from tests.experiments import tiny
from tests.experiments import tiny_atm


def config(**changes) -> negation_config.NegationConfig:
  settings = {
      **tiny.shared(),
      'name': 'tiny_negation',
      'model': tiny_atm.MODEL,
      'patience': 2,
      'alphas': (0.5, 1.0),
      'scalings': (0.0, 2.0, 5.0, 20.0),
      'map_scalings': (-1.0, 0.0, 1.0),
      'map_images': 40,
      'analogy': ('digits', 'faces'),
      'checkpoint_seconds': 60.0,
  }
  return negation_config.NegationConfig(**{**settings, **changes})
