"""The whole paper on a feed-forward encoder and images that ship in packages.

Reproduces: arXiv:2508.16082 in small: equality after one epoch, the
second-order gap and its bounds, the first epoch's part, accuracy of merged
models by epochs of finetuning. Six tasks, no download.

  python -m taskvec_jax.main --config=configs/ffn.py
"""

from taskvec_jax.experiments import config as config_lib


def get_config() -> config_lib.Config:
  """Returns the settings; the fields are explained where they are declared."""
  return config_lib.Config(
      name='ffn',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(widths=(256, 128), activation='tanh'),
  )
