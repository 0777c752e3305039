"""What a seed changes, and what stays."""

import dataclasses

import jax
import numpy as np
from PIL import Image
import pytest

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import regimes
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.experiments import splits
from taskvec_jax.experiments import task_losses
from tests.experiments import tiny


@pytest.fixture(scope='module')
def made():
  """The settings of seeds 0, 0 and 1."""
  config = tiny.config()
  tasks = setting_lib.load_tasks(config)
  settings = [setting_lib.build(config, tasks, seed=seed) for seed in (0, 0, 1)]
  return config, tasks, settings


def test_a_seed_gives_the_same_setting_every_time(made):
  _, _, (first, again, _) = made
  for part in ('base_params', 'heads', 'data'):
    a, b = getattr(first, part), getattr(again, part)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_array_equal(x, y)


def test_another_seed_changes_the_base_and_the_heads_but_not_the_splits(made):
  _, _, (first, _, other) = made
  for part in ('base_params', 'heads'):
    leaf, another = (
        jax.tree.leaves(getattr(setting, part))[0] for setting in (first, other)
    )
    assert not np.array_equal(leaf, another)
  for name, data in first.data.items():
    for split in ('train', 'validation', 'test'):
      np.testing.assert_array_equal(
          getattr(data, split).inputs, getattr(other.data[name], split).inputs
      )


def test_scaling_is_one_over_the_number_of_tasks_unless_alpha_is_set(made):
  config, tasks, (first, _, _) = made
  assert first.scaling == {'digits': 0.5, 'faces': 0.5}
  chosen = dataclasses.replace(config, alpha=0.3)
  assert setting_lib.build(chosen, tasks, seed=0).scaling['digits'] == 0.3


@pytest.mark.parametrize(
    ('name', 'max_train', 'said'),
    [
        ('multitask', 0, "called 'multitask'.*rename"),
        ('mine', 1, r"Task 'mine' has no training image of 1 of its 2"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    name, max_train, said, tmp_path
):
  rng = np.random.default_rng(0)
  for split, kind, number in (
      ('train', 'cat', 4),
      ('train', 'dog', 6),
      ('test', 'cat', 2),
      ('test', 'dog', 2),
  ):
    folder = tmp_path / name / split / kind
    folder.mkdir(parents=True)
    for index in range(number):
      pixels = rng.integers(0, 256, (8, 8), np.uint8)
      Image.fromarray(pixels).save(folder / f'{index}.png')
  config = tiny.config(
      tasks=(f'folder:{tmp_path / name}', 'digits'),
      max_train=max_train,
  )
  with pytest.raises(ValueError, match=said):
    setting_lib.load_tasks(config)


def test_only_the_named_tasks_are_placed_and_large_splits_unpadded(made):
  setting = made[2][0]._replace(batch_size=1)
  both = evaluation.place(setting, 'validation')
  (one,) = evaluation.place(setting, 'validation', ['faces']).batches.values()
  assert one.inputs.shape == both.batches['digits'].inputs.shape
  total = sum(data.validation.inputs.nbytes for data in setting.data.values())
  tight = setting._replace(resident_bytes=total)
  own = evaluation.place(tight, 'validation').batches
  assert own['faces'].inputs.size < one.inputs.size


def test_fewer_examples_are_a_part_of_all_of_them(made):
  config, tasks, (first, _, _) = made
  fewer = setting_lib.limited(first, config, tasks, num_examples=15)
  rows = {row.tobytes() for row in first.data['digits'].train.inputs}
  few = fewer.data['digits'].train
  assert few.num_examples == len(few.inputs) == 15
  assert {row.tobytes() for row in few.inputs} <= rows


def test_classes_added_to_a_head_change_neither_loss_nor_gradient(made):
  _, _, (first, _, _) = made
  value_and_grad_fn = task_losses.value_and_grad_fns(first)['faces']
  loss, gradient = value_and_grad_fn(first.base_params)  # two of ten classes
  alone = first._replace(
      data={'faces': first.data['faces']},
      heads={'faces': first.heads['faces']},
      scaling={'faces': 1.0},
  )
  same_loss, same_gradient = task_losses.value_and_grad_fns(alone)['faces'](
      first.base_params
  )
  assert float(loss) == pytest.approx(float(same_loss), rel=1e-6)
  for a, b in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(same_gradient), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_images_that_do_not_fit_on_the_device_change_nothing(made):
  _, _, (first, _, _) = made
  streamed = first._replace(resident_bytes=64 * 21)
  assert callable(splits.batches(streamed, first.data['digits'].train))
  resident, found = (
      task_losses.value_and_grad_fns(setting)['digits'](first.base_params)
      for setting in (first, streamed)
  )
  for a, b in zip(
      jax.tree.leaves(resident), jax.tree.leaves(found), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  empirical = config_lib.Empirical(batch_size=10, max_epochs=2)
  runs = [
      list(
          regimes.empirical_steps(
              setting, config_lib.MULTITASK, empirical, max_epochs=2, seed=0
          )(None, 0)
      )
      for setting in (first, streamed)
  ]
  assert [step.loss for step in runs[0]] == [step.loss for step in runs[1]]


def test_two_folders_of_one_name_are_refused(made, monkeypatch):
  config, tasks, _ = made
  monkeypatch.setattr(
      setting_lib.load, 'load_task', lambda spec, **_: tasks['digits']
  )
  with pytest.raises(ValueError, match="called 'digits'"):
    setting_lib.load_tasks(config)
