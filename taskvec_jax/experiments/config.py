"""The settings of the main job, every one of them, checked before any work.

A config file returns a `Config`; each field can be overridden on the command
line, `--config.num_epochs=3`, `--config.model.widths="(64, 32)"`.
"""

import dataclasses
import math

from flax import linen as nn

from taskvec_jax.finetuning import minibatch
from taskvec_jax.models import ffn
from taskvec_jax.models import vit


@dataclasses.dataclass
class FFNModel:
  """A feed-forward encoder; the bounds of theory section 4 hold for it."""

  widths: tuple[int, ...] = (256, 128)  # of its layers; the last: features
  activation: str = 'tanh'
  use_bias: bool = True


@dataclasses.dataclass
class ViTModel:
  """A vision transformer of CLIP's shape."""

  patch_size: int = 7
  width: int = 64
  depth: int = 3
  num_heads: int = 4
  mlp_width: int = 256
  projection: int = 0  # features after the projection; 0: none, width features
  activation: str = 'quick_gelu'


@dataclasses.dataclass
class Pretraining:
  """Training of the base model on rendered glyphs."""

  num_images: int = 8_000
  num_epochs: int = 6
  batch_size: int = 64
  learning_rate: float = 2e-3


@dataclasses.dataclass
class Heads:
  """The frozen linear probes."""

  examples_per_class: int = 3  # labelled training images a class
  regularization: float = 0.1  # scikit-learn's C, the inverse of the penalty


@dataclasses.dataclass
class Empirical:
  """Mini-batch finetuning, as people do it."""

  optimizer: str = 'adam'  # sgd, momentum, adam or adamw
  learning_rate: float = 1e-3
  batch_size: int = 32
  max_epochs: int = 20  # cap on the epochs to convergence
  warmup_steps: int = 0
  cosine: bool = False  # decay over max_epochs
  weight_decay: float = 0.0
  clip_norm: float = 0.0  # 0: gradients are not clipped


@dataclasses.dataclass
class Analysis:
  """Sizes of what the first seed alone is used for."""

  num_examples: int = 0  # training images a task; 0: all of the run's
  equality_examples: int = 0  # the same for the equality, all seeds
  rates_epochs: tuple[int, ...] = (2, 3, 5)
  # eta lambda_max of the rates: small, so that the expansion's order shows.
  rates_sharpness: tuple[float, ...] = (2e-3, 1e-3, 5e-4)
  rates_batch_size: int = 20  # of the mini-batch rates
  map_sharpness: tuple[float, ...] = (0.1, 0.3, 1.0, 1.9)
  map_float64: bool = True
  ladder_epochs: tuple[int, ...] = (2, 3)
  lanczos_iterations: int = 15


@dataclasses.dataclass
class Config:
  """One run of the main job."""

  name: str
  # Packaged names, fashion_mnist, idx:PATH, folder:PATH or tfds:NAME. On the
  # command line: --config.tasks="('digits', 'faces')".
  tasks: tuple[str, ...]
  model: FFNModel | ViTModel
  data_dir: str = ''  # where TFDS and IDX sets lie; '' for their defaults
  image_size: int = 28  # every image is brought to this size ...
  num_channels: int = 1  # ... and to grey (1) or colour (3)
  max_train: int = 250  # training images a task, class-balanced; 0: all
  max_validation: int = 250  # validation images a task; 0: all
  max_test: int = 1_000  # test images a task; 0: all
  seeds: tuple[int, ...] = (0, 1, 2)  # of pretraining, heads and batch order
  batch_size: int = 250  # examples a device and batch of the exact gradient
  learning_rate: float = 0.05  # eta of the exact regime
  num_epochs: int = 20  # k of the second-order analysis
  alpha: float = 0.0  # coefficient of every task; 0: 1/T
  max_epochs: int = 60  # cap of the exact regime's epochs to convergence
  patience: int = 10  # epochs without a better validation loss: converged
  merge_epochs: tuple[int, ...] = (1, 2, 5, 10, 20)  # merged after each
  # Coefficients that the validation data choose from, 1/T always among them.
  alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)
  checkpoint_seconds: float = 5.0  # at least so long between two checkpoints
  pretraining: Pretraining = dataclasses.field(default_factory=Pretraining)
  heads: Heads = dataclasses.field(default_factory=Heads)
  empirical: Empirical = dataclasses.field(default_factory=Empirical)
  analysis: Analysis = dataclasses.field(default_factory=Analysis)


def module(config: Config) -> nn.Module:
  """Returns the encoder that `config.model` describes."""
  numbers = dataclasses.asdict(config.model)
  if isinstance(config.model, FFNModel):
    return ffn.FFN(**numbers)
  projection = numbers.pop('projection') or None
  return vit.ViT(**numbers, projection=projection)


def check(config: Config) -> None:
  """Raises a ValueError, one sentence, for numbers that make no sense."""
  positive = {
      'learning_rate': config.learning_rate,
      'num_epochs': config.num_epochs,
      'max_epochs': config.max_epochs,
      'patience': config.patience,
      'batch_size': config.batch_size,
      'image_size': config.image_size,
      'heads.examples_per_class': config.heads.examples_per_class,
      'heads.regularization': config.heads.regularization,
      'empirical.learning_rate': config.empirical.learning_rate,
      'empirical.batch_size': config.empirical.batch_size,
      'empirical.max_epochs': config.empirical.max_epochs,
      'analysis.lanczos_iterations': config.analysis.lanczos_iterations,
  }
  for name, value in positive.items():
    if not (value > 0 and math.isfinite(value)):
      raise ValueError(f'config.{name} must be positive but is {value}.')
  not_negative = {
      'alpha': config.alpha,
      'max_train': config.max_train,
      'max_validation': config.max_validation,
      'max_test': config.max_test,
      'empirical.clip_norm': config.empirical.clip_norm,
      'checkpoint_seconds': config.checkpoint_seconds,
  }
  for name, value in not_negative.items():
    if not (value >= 0 and math.isfinite(value)):
      raise ValueError(f'config.{name} must not be negative but is {value}.')
  if config.num_channels not in (1, 3):
    raise ValueError(
        f'config.num_channels must be 1 (grey) or 3 (colour) but is'
        f' {config.num_channels}.'
    )
  _check_tuples(config)
  # Both refuse their own arguments with a sentence of their own.
  module(config)
  empirical_optimizer(config.empirical, num_steps=1)


def empirical_optimizer(empirical: Empirical, *, num_steps: int):
  """Returns the Optax update rule of the empirical regime."""
  return minibatch.optimizer(
      empirical.optimizer,
      learning_rate=empirical.learning_rate,
      num_steps=num_steps,
      warmup_steps=empirical.warmup_steps,
      cosine=empirical.cosine,
      weight_decay=empirical.weight_decay,
      clip_norm=empirical.clip_norm or None,
  )


def _check_tuples(config: Config) -> None:
  if not config.tasks or len(set(config.tasks)) != len(config.tasks):
    raise ValueError(
        'config.tasks must name at least one task and none twice but is'
        f' {config.tasks}.'
    )
  for name in config.tasks:
    if ',' in name and ':' not in name:
      raise ValueError(
          f'config.tasks has the one name {name!r}; write several as'
          f' --config.tasks="{tuple(name.split(","))}".'
      )
  if not config.seeds or len(set(config.seeds)) != len(config.seeds):
    raise ValueError(
        f'config.seeds must hold different numbers but is {config.seeds}.'
    )
  epochs = config.merge_epochs
  largest = min(config.max_epochs, config.empirical.max_epochs)
  if not epochs or epochs[0] != 1 or sorted(set(epochs)) != list(epochs):
    raise ValueError(
        'config.merge_epochs must rise from 1, the first epoch, but is'
        f' {epochs}.'
    )
  if epochs[-1] > largest:
    raise ValueError(
        f'config.merge_epochs goes up to {epochs[-1]} but training is capped at'
        f' {largest} epochs; raise max_epochs or leave that epoch out.'
    )
  if not config.alphas or min(config.alphas) <= 0:
    raise ValueError(
        f'config.alphas must be positive coefficients but is {config.alphas}.'
    )
