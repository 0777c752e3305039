"""CLIP ViT-L/14 on the eight sets of the task-arithmetic literature.

Reproduces: what configs/vit_b32.py does, with the largest of the three towers.

  python -m taskvec_jax.main --config=configs/vit_l14.py --config.data_dir=DIR
  python -m taskvec_jax.main --config=configs/vit_l14.py:packaged

The first needs the sets, 64 GB of memory for their images and 55 GB for the
models that are merged, about 220 GB of disk for checkpoints and one device of
80 GB. It was never run. By counting operations, about 7e18, an H100 at the
40 TFLOP/s measured with ViT-B/32 needs two days, and so does a TPU v4-8 at
23 TFLOP/s a chip, with mini-batches on one chip, if the model fits its 32 GB:
these are estimates.
The second was not run to its end: finetuning and accuracies took about 12 GiB,
the response map was stopped at 19 GiB. It wants a machine of 32 GB.

No published numbers for this tower are at hand to compare with.
"""

from taskvec_jax.experiments import clip
from taskvec_jax.experiments import config as config_lib


def get_config(variant: str = '') -> config_lib.Config:
  """Returns the settings, or with ':packaged' those of the packaged images."""
  config = clip.published(
      'vit_l14',
      weights='openai/clip-vit-large-patch14',
      patch_size=14,
      width=1024,
      depth=24,
      projection=768,
      batch_size=32,
  )
  return clip.variant(config, variant)
