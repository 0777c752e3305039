"""A config that runs all of ATM in seconds."""

from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import config as config_lib
from tests.experiments import tiny

# One leaf: what these runs cost is compiling, and that goes by leaf.
MODEL = config_lib.FFNModel(widths=(12,), use_bias=False)


def config(**changes) -> atm_config.ATMConfig:
  settings = {
      **tiny.shared(),
      'name': 'tiny_atm',
      'model': MODEL,
      'learning_rate': 0.1,
      'splits': ('4x1', '2x2', '1x4'),
      'posthoc_rounds': 2,
      'descent_rates': (0.1,),
      'identity_rounds': 2,
      'identity_examples': 20,
      'empirical': config_lib.Empirical(batch_size=10),
  }
  return atm_config.ATMConfig(**{**settings, **changes})
