"""A small vision transformer on all images of the six packaged tasks.

Reproduces what configs/ffn.py does, with an architecture of CLIP's shape and
all training images; bounds that are proven for feed-forward networks alone are
left out.

  python -m taskvec_jax.main --config=configs/vit_tiny.py
"""

from taskvec_jax.experiments import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the settings; the fields are explained where they are declared."""
  return config_lib.Config(
      name='vit_tiny',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.ViTModel(
          patch_size=7, width=32, depth=2, num_heads=2, mlp_width=64
      ),
      max_train=0,
      max_validation=0,
      max_test=0,
      learning_rate=0.015,
      num_epochs=10,
      max_epochs=40,
      pretraining=config_lib.Pretraining(
          num_images=16_000, num_epochs=8, batch_size=64, learning_rate=3e-3
      ),
      empirical=config_lib.Empirical(
          optimizer='adam', learning_rate=1e-3, batch_size=64, max_epochs=20
      ),
      analysis=config_lib.Analysis(
          num_examples=60,
          equality_examples=40,
          lanczos_iterations=15,
          map_sharpness=(0.3, 1.0, 1.9),
      ),
      checkpoint_seconds=20.0,
  )
