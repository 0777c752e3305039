"""A config that runs the whole main job in seconds, for the tests of it."""

from taskvec_jax.experiments import config as config_lib


def shared():
  """Returns the settings that tiny runs of all experiments have in common."""
  return {
      'tasks': ('digits', 'faces'),
      'model': config_lib.FFNModel(widths=(12, 8)),
      'image_size': 8,
      'max_train': 40,
      'max_validation': 20,
      'max_test': 50,
      'seeds': (0,),
      'batch_size': 20,
      'pretraining': config_lib.Pretraining(
          num_images=200, num_epochs=1, batch_size=50
      ),
      'empirical': config_lib.Empirical(batch_size=10, max_epochs=4),
  }


def config(**changes) -> config_lib.Config:
  settings = {
      **shared(),
      'name': 'tiny',
      'seeds': (0, 1),
      'learning_rate': 0.1,
      'num_epochs': 3,
      'max_epochs': 4,
      'patience': 2,
      'merge_epochs': (1, 3),
      'alphas': (0.3, 1.0),
      'checkpoint_seconds': 0.0,
      'analysis': config_lib.Analysis(
          rates_epochs=(2,),
          rates_batch_size=5,
          map_sharpness=(0.5, 1.9),
          ladder_epochs=(2,),
          lanczos_iterations=5,
      ),
  }
  return config_lib.Config(**{**settings, **changes})


def get_config(variant: str = '') -> config_lib.Config:
  """Makes this file a config of the command line, too."""
  if variant == 'shortest':  # as few programs as can be
    return config(
        seeds=(0,),
        num_epochs=2,
        max_epochs=2,
        merge_epochs=(1,),
        pretraining=config_lib.Pretraining(num_epochs=0),
        empirical=config_lib.Empirical(batch_size=10, max_epochs=2),
        analysis=config_lib.Analysis(
            equality_float64=False,
            rates_epochs=(),  # float64: its programs are compiled anew
            map_sharpness=(0.5,),
            map_float64=False,
            ladder_epochs=(2,),
            lanczos_iterations=3,
        ),
    )
  return config(seeds=(0,)) if variant == 'one_seed' else config()
