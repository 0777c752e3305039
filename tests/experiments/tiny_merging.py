"""A config that compares all merging methods in seconds."""

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import merging_config
from taskvec_jax.experiments import merging_inputs
from tests.experiments import tiny


def config(**changes) -> merging_config.MergingConfig:
  settings = {
      **tiny.shared(),
      'name': 'tiny_merging',
      'regimes': ('exact',),
      'learning_rate': 0.1,
      'num_epochs': 2,
      'checkpoint_seconds': 60.0,
      'scalings': (0.5,),  # 1/T
      'numbers': merging_inputs.Numbers(
          adamerging_steps=3, atlas_steps=3, fisher_inputs=4, sign_examples=2
      ),
      'empirical': config_lib.Empirical(batch_size=10, max_epochs=2),
      'analysis': config_lib.Analysis(
          rates_epochs=(2,),
          rates_sharpness=(2e-3, 1e-3),
          lanczos_iterations=5,
      ),
  }
  return merging_config.MergingConfig(**{**settings, **changes})


def get_config() -> merging_config.MergingConfig:
  """Makes this file a config of the command line, too."""
  return config()
