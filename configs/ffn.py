"""placeholder"""
from taskvec_jax.experiments import config as config_lib

def get_config() -> config_lib.Config:
  return config_lib.Config(
      name='ffn',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(),
  )
