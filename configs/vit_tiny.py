"""A small vision transformer on all images of the six packaged tasks.

Reproduces what configs/ffn.py does, with an architecture of CLIP's shape and
all training images; bounds that are proven for feed-forward networks alone are
left out.

  python -m taskvec_jax.main --config=configs/vit_tiny.py

Hardware and time: 2 CPU cores, 9 to 19 minutes with empty caches.
Expect, over seeds 0 to 2 (mean and standard deviation, per cent): base 39.8
(3.0); finetuned, best 51.6 (2.7) exact and 82.7 (0.3) by Adam; merged at 1/T
after one epoch 39.9 (3.1) and 40.2 (2.2), converged 39.8 (4.0) and 42.3 (3.1).
With six tasks and so weak a base, merging gains next to nothing here.
The equality of one epoch holds: 1.6 units of rounding in float32, 1.0 in
float64, of 4 allowed.
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
      batch_size=100,
      learning_rate=0.018,
      num_epochs=10,
      max_epochs=40,
      pretraining=config_lib.Pretraining(
          num_images=16_000, num_epochs=8, batch_size=64, learning_rate=3e-3
      ),
      # One image a class: a weaker start, from which 40 full-batch epochs rise
      # by more than ten points.
      heads=config_lib.Heads(examples_per_class=1, regularization=1.0),
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
