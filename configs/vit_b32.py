"""CLIP ViT-B/32 on the eight sets of the task-arithmetic literature.

Reproduces: arXiv:2508.16082 in its own setting: frozen zero-shot heads, each
task finetuned apart and all together, by full-batch descent and by Adam at
1e-5 in batches of 32 for the published epochs of each task, merged after every
epoch up to the fourth (svhn is done then) and converged, alpha at 1/T and
chosen on validation data.

  python -m taskvec_jax.main --config=configs/vit_b32.py --config.data_dir=DIR
  python -m taskvec_jax.main --config=configs/vit_b32.py:packaged

The first needs the sets, 64 GB of memory for their images and 16 GB for the
models that are merged, about 60 GB of disk for checkpoints and one device of
16 GB. It was never run. By counting operations, about 4e17, half of them of
mini-batches, an H100 at the 40 TFLOP/s measured for this tower's exact gradient
(1,632 images a second) needs 3 hours. A TPU v4-8 needs as long if a chip does
23 TFLOP/s in float32: mini-batches run on one of its four. These are estimates.
One seed, which changes nothing but the order of mini-batches; three with
--config.seeds="(0, 1, 2)". The step size of the exact regime is a guess: the
run prints eta lambda_max, which must stay below 2.
The hub's main branch has these weights as Flax's msgpack, not as safetensors,
and that is read; --config.published.weights with
openai/clip-vit-base-patch32@refs/pr/66 names a revision that has safetensors.
The second takes 6 to 13 minutes on 2 CPU cores, 7.3 GiB of memory and 4.1 GB of
disk, a tenth of it in the cache.

Published averages over these eight sets, per cent, of other checkpoints (two
families, not comparable with one another): zero-shot 48.0 and 48.3, averaging
65.8 and 66.3, task arithmetic 69.1 (alpha 0.3) and 70.8 (tuned), single-task
90.5 and 92.8, multitask 88.9 (first family).
"""

from taskvec_jax.experiments import clip
from taskvec_jax.experiments import config as config_lib


def get_config(variant: str = '') -> config_lib.Config:
  """Returns the settings, or with ':packaged' those of the packaged images."""
  config = clip.published(
      'vit_b32',
      weights='openai/clip-vit-base-patch32',
      patch_size=32,
      width=768,
      depth=12,
      projection=512,
      batch_size=128,
  )
  return clip.variant(config, variant)
