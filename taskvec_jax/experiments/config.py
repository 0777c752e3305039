"""The settings of the main job, every one of them, checked before any work.

A config file returns a `Config`; each field can be overridden on the command
line, `--config.num_epochs=3`, `--config.model.widths="(64, 32)"`.
"""

import dataclasses
import functools

from flax import linen as nn

from taskvec_jax.experiments import checks
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
  normalize: bool = False  # features of length 1, as a zero-shot head needs
  pixel_mean: tuple[float, ...] = (0.5,)  # of pixels in 0 .. 1, by channel
  pixel_std: tuple[float, ...] = (0.5,)


@dataclasses.dataclass
class Published:
  """CLIP weights in place of pretraining, their text tower in place of probes.

  Weights are a folder, a file or a name on the Hugging Face hub; the layouts
  are those of `models.pretrained`.
  """

  weights: str = ''  # of the base model; '' to pretrain on glyphs instead
  # Where the text tower and the tokenizer lie; '': with the weights.
  text_weights: str = ''
  # TASK=WEIGHTS, one a task: finetuned elsewhere, so that nothing is trained
  # here and all that needs parameters alone is computed.
  finetuned: tuple[str, ...] = ()
  # Whether the first seed's merge of converged models, with the coefficient
  # that validation chose, is written to WORKDIR/merged/REGIME, in the layout of
  # the weights.
  write_merged: bool = False


@dataclasses.dataclass
class Pretraining:
  """Training of the base model on rendered glyphs."""

  num_images: int = 8_000
  num_epochs: int = 6  # 0: random parameters, as they were initialised
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
  # The same for single tasks where it differs, TASK=EPOCHS.
  task_epochs: tuple[str, ...] = ()
  warmup_steps: int = 0
  cosine: bool = False  # decay over max_epochs
  weight_decay: float = 0.0
  clip_norm: float = 0.0  # 0: gradients are not clipped
  # Of float32 products on GPUs and TPUs: highest, tensorfloat32 or bfloat16.
  # Exact gradients, and all else, are always of the highest.
  matmul_precision: str = 'highest'


@dataclasses.dataclass
class Analysis:
  """Sizes of what the first seed alone is used for."""

  num_examples: int = 0  # training images a task; 0: all of the run's
  equality_examples: int = 0  # the same for the equality, all seeds
  equality_float64: bool = True  # measured in float64 too, at twice the memory
  rates_epochs: tuple[int, ...] = (2, 3, 5)  # (): no rates
  # eta lambda_max of the rates: small, so that the expansion's order shows.
  rates_sharpness: tuple[float, ...] = (2e-3, 1e-3, 5e-4)
  rates_batch_size: int = 20  # of the mini-batch rates
  map_sharpness: tuple[float, ...] = (0.1, 0.3, 1.0, 1.9)  # (): no map
  map_float64: bool = True
  ladder_epochs: tuple[int, ...] = (2, 3)
  lanczos_iterations: int = 15  # 2 or more where there is a ladder


MULTITASK = 'multitask'  # the run on all tasks; no task may be called so


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
  regimes: tuple[str, ...] = ('exact', 'empirical')  # of finetuning
  batch_size: int = 250  # examples a device and batch of the exact gradient
  # Images of a split that stay on the devices; more of them visit in pieces.
  resident_megabytes: int = 1024
  learning_rate: float = 0.05  # eta of the exact regime
  num_epochs: int = 20  # k of the second-order analysis
  alpha: float = 0.0  # coefficient of every task; 0: 1/T
  max_epochs: int = 60  # cap of the exact regime's epochs to convergence
  # Epochs without a better validation loss: converged. 0: a run always has
  # max_epochs, and its last model is the converged one.
  patience: int = 10
  merge_epochs: tuple[int, ...] = (1, 2, 5, 10, 20)  # merged after each
  # Coefficients that the validation data choose from, 1/T always among them.
  alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)
  checkpoint_seconds: float = 5.0  # at least so long between two checkpoints
  published: Published = dataclasses.field(default_factory=Published)
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
  checks.seeds(config.seeds)
  checks.positive(
      config,
      'learning_rate',
      'num_epochs',
      'max_epochs',
      'batch_size',
      'resident_megabytes',
      'image_size',
      'heads.examples_per_class',
      'heads.regularization',
      'empirical.learning_rate',
      'empirical.batch_size',
      'empirical.max_epochs',
      'analysis.lanczos_iterations',
      'analysis.rates_batch_size',
      'analysis.rates_sharpness',
      'analysis.map_sharpness',
  )
  checks.within(
      config,
      '[0, inf)',
      'alpha',
      'patience',
      'max_train',
      'max_validation',
      'max_test',
      'empirical.clip_norm',
      'pretraining.num_epochs',
      'checkpoint_seconds',
      'analysis.num_examples',
      'analysis.equality_examples',
  )
  checks.within(config, '(0, inf)', 'alphas')
  # After one epoch there is no gap whose rate or bounds could be looked at.
  checks.at_least(config, 2, 'analysis.rates_epochs', 'analysis.ladder_epochs')
  if config.num_channels not in (1, 3):
    raise ValueError(
        f'config.num_channels must be 1 (grey) or 3 (colour) but is'
        f' {config.num_channels}.'
    )
  _check_tuples(config)
  _check_regimes(config)
  analysis = config.analysis
  if analysis.ladder_epochs:
    # In one the estimate R3 would lie below what it is to bound.
    checks.at_least(config, 2, 'analysis.lanczos_iterations')
  if analysis.rates_epochs and len(set(analysis.rates_sharpness)) < 2:
    raise ValueError(
        'config.analysis.rates_sharpness must hold two numbers or more, which a'
        f' slope needs, but is {analysis.rates_sharpness}.'
    )
  # Both refuse their own arguments with a sentence of their own.
  module(config)
  empirical_optimizer(config.empirical, num_steps=1)


def has_gap(config: Config) -> bool:
  """Returns whether merging differs from multitask training at all.

  One task with the coefficient 1 is its own merge and its own multitask model.
  """
  return len(config.tasks) > 1 or config.alpha not in (0, 1)


def max_epochs(config: Config, regime: str, task: str) -> int:
  """Returns the cap on a run's epochs; of 'multitask' that of all tasks."""
  if regime == 'exact':
    return config.max_epochs
  own = pairs('empirical.task_epochs', config.empirical.task_epochs)
  return int(own.get(task, config.empirical.max_epochs))


def pairs(name: str, entries: tuple[str, ...]) -> dict[str, str]:
  """Returns the mapping that entries KEY=VALUE of a field say."""
  found = {}
  for entry in entries:
    key, equals, value = entry.partition('=')
    if not (key and equals and value) or key in found:
      raise ValueError(
          f'config.{name} must hold TASK=VALUE, each task once, but has'
          f' {entry!r}.'
      )
    found[key] = value
  return found


def empirical_optimizer(empirical: Empirical, *, num_steps: int):
  """Returns the Optax update rule of the empirical regime.

  The same object for the same rule: compiled epochs are looked up by it.

  Args:
    empirical: the settings.
    num_steps: of the whole run; only a cosine needs to know.
  """
  return _optimizer(
      *dataclasses.astuple(empirical),
      num_steps=num_steps if empirical.cosine else 1,
  )


@functools.cache
def _optimizer(*fields, num_steps: int):
  empirical = Empirical(*fields)
  return minibatch.optimizer(
      empirical.optimizer,
      learning_rate=empirical.learning_rate,
      num_steps=num_steps,
      warmup_steps=empirical.warmup_steps,
      cosine=empirical.cosine,
      weight_decay=empirical.weight_decay,
      clip_norm=empirical.clip_norm or None,
  )


def _check_regimes(config: Config) -> None:
  precision = config.empirical.matmul_precision
  if precision not in ('highest', 'tensorfloat32', 'bfloat16'):
    raise ValueError(
        "config.empirical.matmul_precision must be 'highest', 'tensorfloat32'"
        f" or 'bfloat16' but is {precision!r}."
    )
  if set(config.regimes) - {'exact', 'empirical'} or len(
      set(config.regimes)
  ) != len(config.regimes):
    raise ValueError(
        "config.regimes may hold 'exact' and 'empirical', each once, but is"
        f' {config.regimes}.'
    )
  if isinstance(config.model, ViTModel):
    for name in ('pixel_mean', 'pixel_std'):
      value = getattr(config.model, name)
      if len(value) not in (1, config.num_channels):
        raise ValueError(
            f'config.model.{name} must be 1 or {config.num_channels} numbers,'
            f' one a channel, but is {value}.'
        )
  elif config.published.weights:
    raise ValueError(
        f'config.published.weights is {config.published.weights!r}, but'
        ' config.model is a feed-forward encoder; published weights are for'
        ' vision transformers.'
    )
  for task, epochs in pairs(
      'empirical.task_epochs', config.empirical.task_epochs
  ).items():
    if not epochs.isdecimal() or int(epochs) < config.merge_epochs[-1]:
      raise ValueError(
          f'config.empirical.task_epochs gives {task} {epochs!r} epochs, but'
          ' needs a whole number not below the last of merge_epochs,'
          f' {config.merge_epochs[-1]}.'
      )
  finetuned = pairs('published.finetuned', config.published.finetuned)
  if finetuned and not config.published.weights:
    raise ValueError(
        'config.published.finetuned names finetuned weights, but'
        ' config.published.weights, the base that they started from, is empty.'
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
