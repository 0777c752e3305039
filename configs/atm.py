"""Alternating tuning and merging, against trainings of the same budget.

Reproduces the budget experiment of arXiv:2411.03055 in small: ten epochs a
task, split into rounds of tuning and merging. Beside it stand multitask
training that reads as many images, multitask descent that also sends as little,
and FedAvg; rounds with the mean ARE FedAvg with weights 1/T, so that row has
weights by number of images. Six packaged tasks, all training images, Adam.

  python -m taskvec_jax.main --config=configs/atm.py

Hardware and time: 2 CPU cores, 190 s of processor time with empty caches.
Expect, over seeds 0 to 2 (mean and standard deviation, per cent, mean over the
tasks): base 57.3 (1.2); each task's own model 85.6 (0.3).
  rounds x epochs  10x1 71.0 (0.5)  5x2 68.2 (1.6)  2x5 64.8 (1.2)
                   1x10 62.4 (1.3), which is plain averaging
  10 rounds        TIES as merge step 68.1 (1.3), FedAvg 63.8 (1.9)
  multitask        as many images 83.0 (0.1), as little sent 61.2 (1.6)
  post hoc         62.4 to 67.5 (2.0) on validation images; multitask training
                   on the same images, from the same merge, 72.5 (1.0)
  identity         full-batch rounds and multitask descent 0.5 ulps apart
The authors' evaluation files (CLIP ViT-B/16, eight tasks, one seed) have 88.1,
85.3, 79.1 and 72.2 for the same splits, zero-shot 55.1, experts 93.2. The order
is the same; heights of other checkpoints cannot be compared.
"""

from taskvec_jax.experiments import atm_config
from taskvec_jax.experiments import config as config_lib


def get_config() -> atm_config.ATMConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return atm_config.ATMConfig(
      name='atm',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(widths=(256, 128), activation='tanh'),
      max_train=0,
  )
