import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.experiments import pretraining
from taskvec_jax.models import encoders
from taskvec_jax.models import ffn
from taskvec_jax.models import heads
from taskvec_jax.tasks import glyphs
from taskvec_jax.tasks import load
from taskvec_jax.tasks import preprocessing
from taskvec_jax.tasks import task as task_lib

_MODULE = ffn.FFN(widths=(32, 16))
_NUMBERS = dict(
    seed=0, num_images=512, num_epochs=2, batch_size=64, learning_rate=3e-3
)


def _equal(first, second):
  return jax.tree.all(
      jax.tree.map(lambda a, b: np.array_equal(a, b), first, second)
  )


def test_the_same_seed_trains_the_same_parameters_and_another_does_not(
    tmp_path,
):
  first = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path / 'a')
  again = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path / 'b')
  other = pretraining.pretrain(
      _MODULE, **{**_NUMBERS, 'seed': 1}, cache_dir=tmp_path / 'a'
  )
  assert _equal(first, again)
  assert not _equal(first, other)
  assert type(first) is dict and 'head' not in first


def test_a_second_call_reads_the_file_and_trains_nothing(tmp_path, monkeypatch):
  first = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  assert len(list(tmp_path.iterdir())) == 1  # nothing half-written is left

  def draw(*args, **kwargs):
    raise AssertionError('drew glyphs although the parameters were cached')

  monkeypatch.setattr(glyphs, 'glyphs', draw)
  assert _equal(
      first, pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  )


@pytest.mark.parametrize(
    'change',
    [
        {'seed': 1},
        {'num_images': 256},
        {'num_epochs': 1},
        {'batch_size': 32},
        {'learning_rate': 1e-3},
        {'image_size': 14},
        {'num_channels': 3},
        {'module': ffn.FFN(widths=(32, 16), activation='gelu')},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_the_parameters_depend_on_changes_the_file(
    tmp_path, monkeypatch, change
):
  trained = []

  def train(module, **numbers):
    trained.append((module, numbers))
    return {'layer_0': {'kernel': np.zeros((1, 1), np.float32)}}

  monkeypatch.setattr(pretraining, '_train', train)
  before = {'module': _MODULE, **_NUMBERS}
  for arguments in (before, {**before, **change}, before):
    pretraining.pretrain(**arguments, cache_dir=tmp_path)
  assert len(trained) == len(list(tmp_path.iterdir())) == 2


def test_the_default_folder_is_named_by_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv('TASKVEC_JAX_CACHE', str(tmp_path / 'cache'))
  pretraining.pretrain(_MODULE, **_NUMBERS)
  assert len(list((tmp_path / 'cache').glob('pretrained_*.npz'))) == 1


@pytest.mark.parametrize('kept', [0, 10, 0.5])
def test_a_damaged_file_is_noticed_said_and_made_again(tmp_path, caplog, kept):
  first = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  (path,) = tmp_path.iterdir()
  content = path.read_bytes()
  size = int(kept * len(content)) if isinstance(kept, float) else kept
  path.write_bytes(content[:size])
  with caplog.at_level(logging.WARNING):
    again = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  assert f'{path} cannot be read' in caplog.text
  assert _equal(first, again)
  # Zip archives carry the time of day, so the arrays are compared.
  with np.load(path, allow_pickle=False) as archive:
    assert archive.files


def test_a_changed_byte_inside_the_file_is_noticed(tmp_path, caplog):
  first = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  (path,) = tmp_path.iterdir()
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)
  again = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  assert 'cannot be read' in caplog.text
  assert _equal(first, again)


def test_a_folder_that_cannot_be_written_costs_the_cache_not_the_run(
    tmp_path, caplog
):
  (tmp_path / 'file').write_text('in the way')
  params = pretraining.pretrain(
      _MODULE, **_NUMBERS, cache_dir=tmp_path / 'file' / 'cache'
  )
  assert 'not kept' in caplog.text
  assert params['layer_1']['kernel'].shape == (32, 16)


def test_pretrained_features_know_printed_letters_better_than_fresh_ones(
    tmp_path,
):
  module = ffn.FFN(widths=(128, 64))
  letters = load.load_task('letters')
  few = task_lib.subsample(letters.train, 5 * letters.num_classes, seed=0)
  inputs, few_inputs = (
      jnp.asarray(
          preprocessing.preprocess(images, image_size=28, num_channels=1)
      )
      for images in (letters.test.images, few.images)
  )
  trained = pretraining.pretrain(
      module,
      seed=0,
      num_images=12_000,
      num_epochs=5,
      batch_size=64,
      learning_rate=2e-3,
      cache_dir=tmp_path,
  )
  accuracies = []
  for params in (encoders.init(module, jax.random.key(0), inputs), trained):
    head = heads.linear_probe(
        np.asarray(encoders.encode(module, params, few_inputs)),
        few.labels,
        num_classes=letters.num_classes,
    )
    logits = heads.logits(head, encoders.encode(module, params, inputs))
    accuracies.append(np.mean(np.argmax(logits, axis=1) == letters.test.labels))
  assert accuracies[1] > accuracies[0] + 0.05, accuracies


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
  with pytest.raises(FloatingPointError, match='epoch 1.*1e\\+30'):
    pretraining.pretrain(
        ffn.FFN(widths=(8,), activation='identity'),
        **{**_NUMBERS, 'learning_rate': 1e30},
        cache_dir=tmp_path,
    )
  assert not list(tmp_path.iterdir())


def test_numbers_that_make_no_sense_are_refused(tmp_path):
  with pytest.raises(ValueError, match='num_images = 512.*batch_size is 513'):
    pretraining.pretrain(
        _MODULE, **{**_NUMBERS, 'batch_size': 513}, cache_dir=tmp_path
    )
  with pytest.raises(ValueError, match='needs a number of epochs.*has -1'):
    pretraining.pretrain(
        _MODULE, **{**_NUMBERS, 'num_epochs': -1}, cache_dir=tmp_path
    )


def test_no_epochs_give_the_initial_parameters_which_are_kept(tmp_path):
  untrained, again = (
      pretraining.pretrain(
          _MODULE, **{**_NUMBERS, 'num_epochs': 0}, cache_dir=tmp_path
      )
      for _ in range(2)
  )
  assert len(list(tmp_path.iterdir())) == 1
  jax.tree.map(np.testing.assert_array_equal, untrained, again)
  trained = pretraining.pretrain(_MODULE, **_NUMBERS, cache_dir=tmp_path)
  shapes = [jax.tree.map(np.shape, tree) for tree in (untrained, trained)]
  assert shapes[0] == shapes[1]
  assert not np.array_equal(
      jax.tree.leaves(untrained)[-1], jax.tree.leaves(trained)[-1]
  )
