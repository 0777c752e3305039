"""CLIP ViT-B/16 on the eight sets of the task-arithmetic literature.

Reproduces: what configs/vit_b32.py does, with smaller patches.

  python -m taskvec_jax.main --config=configs/vit_b16.py --config.data_dir=DIR
  python -m taskvec_jax.main --config=configs/vit_b16.py:packaged

The first needs the sets, 64 GB of memory for their images and 16 GB for the
models that are merged, about 60 GB of disk for checkpoints and one device of
24 GB. It was never run. By counting operations, about 1.6e18, an H100 at the
40 TFLOP/s measured with ViT-B/32 needs 11 hours, a TPU v4-8 12 at 23 TFLOP/s a
chip, with mini-batches on one chip: these are estimates.
The second was run on 10 training images a task in place of 16: 16 minutes of
processor time, 10.4 GiB of memory.

Published, per cent, one seed, alpha = 1/T, seven sets (these without cars and
sun397 but with cifar100): Adam at 1e-5 in batches of 32, dtd 48.9, gtsrb 61.0,
eurosat 79.3, resisc45 71.9, cifar100 73.0, mnist 95.9, svhn 80.2 after one
epoch, and 46.6, 63.1, 79.0, 66.4, 60.4, 96.4, 79.6 converged; zero-shot 45.7,
43.2, 53.8, 66.2, 66.4, 52.4, 52.3. They are committed with the code of ATM
(arXiv:2411.03055); that they are the figures of arXiv:2508.16082 is inferred.
For these seven: --config.tasks="('dtd', 'gtsrb', 'eurosat', 'resisc45',
'cifar100', 'mnist', 'svhn')".
"""

from taskvec_jax.experiments import clip
from taskvec_jax.experiments import config as config_lib


def get_config(variant: str = '') -> config_lib.Config:
  """Returns the settings, or with ':packaged' those of the packaged images."""
  config = clip.published(
      'vit_b16',
      weights='openai/clip-vit-base-patch16',
      patch_size=16,
      width=768,
      depth=12,
      projection=512,
      batch_size=64,
  )
  return clip.variant(config, variant)
