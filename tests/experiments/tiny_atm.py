"""A config that runs all of ATM in seconds, and what it shares with others."""

from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import config as config_lib
from tests.experiments import tiny

# Of the tiny main job, what every experiment reads.
_SHARED = (
    'tasks',
    'image_size',
    'max_train',
    'max_validation',
    'max_test',
    'batch_size',
    'pretraining',
    'empirical',
)


def shared():
  """Returns the settings that are the tiny main job's."""
  config = tiny.config()
  return {
      **{name: getattr(config, name) for name in _SHARED},
      # One leaf: what these runs cost is compiling, and that goes by leaf.
      'model': config_lib.FFNModel(widths=(12,), use_bias=False),
  }


def config(**changes) -> atm_config.ATMConfig:
  settings = {
      **shared(),
      'name': 'tiny_atm',
      'seeds': (0,),
      'learning_rate': 0.1,
      'splits': ('4x1', '2x2', '1x4'),
      'posthoc_rounds': 2,
      'descent_rates': (0.1,),
      'identity_rounds': 2,
      'identity_examples': 20,
      'empirical': config_lib.Empirical(batch_size=10),
  }
  return atm_config.ATMConfig(**{**settings, **changes})
