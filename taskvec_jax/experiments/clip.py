"""Configs of the paper's own setting: CLIP on eight image tasks.

`published` is the setting itself: published weights, zero-shot heads, the sets
and the hyper-parameters of the task-arithmetic literature. `packaged` keeps an
architecture and takes all else from what ships in packages, a few images a
task, so that the whole path runs at its true size on a laptop.

Source: Ilharco et al., "Editing Models with Task Arithmetic", arXiv:2212.04089,
for tasks and heads; the epochs to convergence are those committed with the code
of Zhou et al., "ATM: Improving Model Merging by Alternating Tuning and
Merging", arXiv:2411.03055.
"""

import dataclasses

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.models import clip_configs
from taskvec_jax.tasks import benchmarks

_CONVERGENCE_EPOCHS = (
    'cars=35',
    'dtd=76',
    'eurosat=12',
    'gtsrb=11',
    'mnist=5',
    'resisc45=15',
    'svhn=4',
    'sun397=14',
    'cifar100=6',
)


def published(
    name: str,
    *,
    weights: str,
    patch_size: int,
    width: int,
    depth: int,
    projection: int,
    batch_size: int,
) -> config_lib.Config:
  """Returns the paper's setting for one of CLIP's vision transformers.

  Args:
    name: of the config.
    weights: folder, file or hub name.
    patch_size: in pixels; images have 224.
    width: of the tower; a head is 64 wide, an MLP four times as wide as this.
    depth: number of blocks.
    projection: size of the embeddings.
    batch_size: images a device and batch of the exact regime.
  """
  return config_lib.Config(
      name=name,
      tasks=benchmarks.NAMES[:-1],  # all but cifar100
      model=config_lib.ViTModel(
          patch_size=patch_size,
          width=width,
          depth=depth,
          num_heads=width // 64,
          mlp_width=4 * width,
          projection=projection,
          normalize=True,
          pixel_mean=clip_configs.PIXEL_MEAN,
          pixel_std=clip_configs.PIXEL_STD,
      ),
      published=config_lib.Published(weights=weights),
      image_size=224,
      num_channels=3,
      max_train=0,
      max_validation=0,
      max_test=0,
      seeds=(0,),
      batch_size=batch_size,
      learning_rate=1e-4,
      num_epochs=3,
      max_epochs=10,
      patience=0,  # published runs have a stated length
      merge_epochs=(1, 2, 3, 4),
      alphas=tuple(round(0.05 * step, 2) for step in range(1, 21)),
      checkpoint_seconds=300.0,
      empirical=config_lib.Empirical(
          optimizer='adam',
          learning_rate=1e-5,
          batch_size=32,
          max_epochs=10,
          task_epochs=_CONVERGENCE_EPOCHS,
      ),
      analysis=config_lib.Analysis(
          num_examples=64,
          equality_examples=32,
          rates_epochs=(2,),
          map_sharpness=(0.3, 1.0),
          map_float64=False,
          ladder_epochs=(2, 3),
          lanczos_iterations=12,
      ),
  )


def packaged(config: config_lib.Config) -> config_lib.Config:
  """Returns the same architecture on packaged images, from random parameters.

  Heads are linear probes of one image a class. Accuracies mean nothing; that
  every part runs at the true size, and what it needs, is what this is for.
  """
  return dataclasses.replace(
      config,
      name=f'{config.name}_packaged',
      tasks=('digits', 'textures'),
      published=config_lib.Published(),
      pretraining=config_lib.Pretraining(num_epochs=0),
      heads=config_lib.Heads(examples_per_class=1),
      max_train=16,
      max_validation=8,
      max_test=16,
      batch_size=8,
      learning_rate=1e-3,
      num_epochs=2,
      max_epochs=2,
      merge_epochs=(1,),
      alphas=(0.3, 1.0),
      # One checkpoint a run, at its end: each is hundreds of megabytes.
      checkpoint_seconds=1e6,
      empirical=dataclasses.replace(
          config.empirical,
          batch_size=8,
          max_epochs=2,
          task_epochs=(),
      ),
      analysis=config_lib.Analysis(
          num_examples=8,
          equality_examples=2,
          equality_float64=False,
          rates_epochs=(),
          map_sharpness=(),
          ladder_epochs=(2,),
          lanczos_iterations=4,
      ),
  )


def variant(config: config_lib.Config, name: str) -> config_lib.Config:
  """Returns the config itself, or its variant 'packaged'.

  Raises:
    ValueError: there is no such variant.
  """
  if name not in ('', 'packaged'):
    raise ValueError(
        f"{config.name} has the variant 'packaged' but none called {name!r}."
    )
  return packaged(config) if name else config
