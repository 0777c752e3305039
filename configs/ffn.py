"""The whole paper on a feed-forward encoder and images that ship in packages.

Reproduces: arXiv:2508.16082 in small: equality after one epoch, the
second-order gap and its bounds, the first epoch's part, accuracy of merged
models by epochs of finetuning. Six tasks, no download.

  python -m taskvec_jax.main --config=configs/ffn.py

Hardware and time: 2 CPU cores, 108 to 114 s with empty caches.
Expect, over seeds 0 to 2 (mean and standard deviation, per cent): base 56.9
(1.3); finetuned, best 69.0 (0.4) exact and 73.3 (2.0) by Adam; merged at 1/T
after one epoch 57.1 (1.2) and 58.4 (0.7), converged 59.5 (1.0) and 61.0 (0.8).
Slopes 2.00 and 3.00; R2 about 73, R3 about 5 times |C_k|. All 18 exact runs
end at the cap, still improving: "converged" is the best epoch up to it.
"""

from taskvec_jax.experiments import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the settings; the fields are explained where they are declared."""
  return config_lib.Config(
      name='ffn',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(widths=(256, 128), activation='tanh'),
      # After one full-batch epoch the best coefficient is far above 1.
      alphas=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0, 8.0, 16.0),
      analysis=config_lib.Analysis(
          equality_examples=150, map_sharpness=(0.3, 1.0, 1.9)
      ),
  )
