"""Splits of a task: disjoint, stratified, deterministic."""

import numpy as np
import pytest

from taskvec_jax.tasks import task as task_lib


def _examples(num, num_classes=3, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (num, 4, 5, 1), dtype=np.uint8)
  labels = rng.integers(0, num_classes, num).astype(np.int32)
  return task_lib.Examples(images, labels)


def _task(num_train=40, num_test=20):
  return task_lib.Task(
      'toy', _examples(num_train), _examples(num_test, seed=1), 3, tuple('abc')
  )


def _keys(examples):
  return [image.tobytes() for image in examples.images]


def test_a_well_formed_task_is_returned_as_it_is():
  task = _task()
  assert task_lib.check_task(task) is task


@pytest.mark.parametrize(
    'change, values',
    [
        (dict(num_classes=1), ('1 classes', 'at least 2')),
        (dict(class_names=('a',)), ('3 classes', '1 class names')),
        (
            dict(train=_examples(4)._replace(labels=np.int32([0, 1, 3, 0]))),
            ('train', 'labels run from 0 to 3', '0 .. 2'),
        ),
        (
            dict(test=_examples(4)._replace(labels=np.int32([0, -1, 2, 0]))),
            ('test', 'labels run from -1 to 2'),
        ),
        (
            dict(test=_examples(4)._replace(labels=np.zeros(4))),
            ('test', 'float64[4]', 'int32 [4]'),
        ),
        (
            dict(test=_examples(4)._replace(labels=np.zeros(3, np.int32))),
            ('test', 'int32[3]', 'int32 [4]'),
        ),
        (
            dict(train=_examples(4)._replace(images=np.zeros((4, 4, 5, 1)))),
            ('train', 'float64[4, 4, 5, 1]', 'uint8'),
        ),
        (
            dict(
                train=_examples(2)._replace(
                    images=np.zeros((2, 4, 5, 2), np.uint8)
                )
            ),
            ('train', '2 channels'),
        ),
        (
            dict(
                test=_examples(2)._replace(
                    images=np.zeros((2, 4, 4, 1), np.uint8)
                )
            ),
            ('test', '[4, 4, 1]', '[4, 5, 1]'),
        ),
        (dict(validation=_examples(0)), ('validation', 'no examples')),
    ],
)
def test_a_malformed_task_is_refused_with_its_name_and_both_values(
    change, values
):
  with pytest.raises(ValueError, match="'toy'") as error:
    task_lib.check_task(_task()._replace(**change))
  for value in values:
    assert value in str(error.value)


def test_validation_and_the_rest_of_train_are_train_and_share_no_image():
  task = _task(num_train=57)
  held = task_lib.hold_out_validation(task)
  assert len(held.validation.labels) == 5
  assert not set(_keys(held.train)) & set(_keys(held.validation))
  assert sorted(_keys(held.train) + _keys(held.validation)) == sorted(
      _keys(task.train)
  )
  label_of = dict(zip(_keys(task.train), task.train.labels, strict=True))
  for split in (held.train, held.validation):
    assert [label_of[key] for key in _keys(split)] == split.labels.tolist()


def test_held_out_validation_depends_on_the_seed_alone():
  first = task_lib.hold_out_validation(_task(), seed=3)
  again = task_lib.hold_out_validation(_task(), seed=3)
  other = task_lib.hold_out_validation(_task(), seed=4)
  assert _keys(first.validation) == _keys(again.validation)
  assert _keys(first.validation) != _keys(other.validation)


def test_validation_is_at_most_maximum_and_at_least_one_image():
  task = _task()
  few = task_lib.hold_out_validation(task, fraction=0.5, maximum=7)
  assert len(few.validation.labels) == 7
  one = task_lib.hold_out_validation(task, fraction=0.001)
  assert len(one.validation.labels) == 1
  assert len(one.train.labels) == 39


def test_a_validation_split_that_is_there_is_kept():
  task = _task()._replace(validation=_examples(3, seed=5))
  assert task_lib.hold_out_validation(task) is task


@pytest.mark.parametrize(
    'numbers, message',
    [
        (dict(fraction=0.0), 'fraction is 0.0'),
        (dict(fraction=1.0), 'fraction is 1.0'),
        (dict(maximum=0), 'maximum is 0'),
    ],
)
def test_a_validation_share_that_makes_no_sense_is_refused(numbers, message):
  with pytest.raises(ValueError, match=message):
    task_lib.hold_out_validation(_task(), **numbers)


def test_copies_inside_train_never_end_on_both_sides_of_validation():
  train = _examples(30)
  twice = task_lib.Examples(
      np.concatenate([train.images, train.images]),
      np.concatenate([train.labels, train.labels]),
  )
  held = task_lib.hold_out_validation(_task()._replace(train=twice))
  assert not set(_keys(held.train)) & set(_keys(held.validation))
  assert len(held.validation.labels) == 6
  assert len(held.train.labels) < 54


def test_an_image_in_two_splits_stays_in_the_later_of_train_val_test():
  train, validation, test = (
      _examples(9),
      _examples(6, seed=1),
      _examples(5, seed=2),
  )
  train.images[0] = test.images[4]
  train.images[8] = validation.images[2]
  validation.images[3] = test.images[0]
  task = _task()._replace(train=train, validation=validation, test=test)
  clean = task_lib.disjoint_splits(task)
  assert _keys(clean.test) == _keys(test)
  assert _keys(clean.validation) == [
      key for i, key in enumerate(_keys(validation)) if i != 3
  ]
  assert _keys(clean.train) == _keys(train)[1:8]
  assert clean.train.labels.tolist() == train.labels[1:8].tolist()


def test_training_images_that_are_all_in_test_are_refused():
  task = _task()
  with pytest.raises(ValueError, match="all 20 images of 'train'"):
    task_lib.disjoint_splits(task._replace(train=task.test))


def test_a_part_that_is_split_off_has_each_class_in_its_share():
  labels = np.repeat([0, 1, 2], [10, 40, 150]).astype(np.int32)
  images = np.arange(200, dtype=np.uint8).reshape((200, 1, 1, 1))
  rest, part = task_lib.split_off(task_lib.Examples(images, labels), 40, seed=0)
  assert np.bincount(part.labels).tolist() == [2, 8, 30]
  assert np.bincount(rest.labels).tolist() == [8, 32, 120]
  both = np.concatenate([rest.images, part.images]).ravel()
  assert sorted(both) == list(range(200))


@pytest.mark.parametrize('num', [0, 40])
def test_a_split_that_leaves_one_side_empty_is_refused(num):
  with pytest.raises(ValueError, match=f'split {num} examples off 40'):
    task_lib.split_off(_examples(40), num, seed=0)


def test_a_subsample_has_as_many_of_each_class_as_can_be():
  labels = np.repeat([0, 1, 2], [2, 40, 50]).astype(np.int32)
  images = np.arange(92, dtype=np.uint8).reshape((92, 1, 1, 1))
  part = task_lib.subsample(task_lib.Examples(images, labels), 13, seed=0)
  counts = np.bincount(part.labels)
  assert counts[0] == 2
  assert sorted(counts[1:]) == [5, 6]
  assert len(np.unique(part.images)) == 13
  assert (labels[part.images.ravel()] == part.labels).all()


def test_subsamples_of_one_seed_are_nested_and_of_two_seeds_differ():
  examples = _examples(60)
  small = task_lib.subsample(examples, 10, seed=0)
  large = task_lib.subsample(examples, 25, seed=0)
  other = task_lib.subsample(examples, 10, seed=1)
  assert set(_keys(small)) < set(_keys(large))
  assert _keys(small) == _keys(task_lib.subsample(examples, 10, seed=0))
  assert set(_keys(small)) != set(_keys(other))


def test_a_subsample_of_more_than_there_are_is_all_of_them():
  examples = _examples(6)
  assert task_lib.subsample(examples, 6, seed=0) is examples
  assert task_lib.subsample(examples, 7, seed=0) is examples


@pytest.mark.parametrize('num', [0, -3])
def test_an_empty_subsample_is_refused(num):
  with pytest.raises(ValueError, match=f'num_examples is {num}'):
    task_lib.subsample(_examples(6), num, seed=0)


def _share(index, count):
  return task_lib.Share(index, count, lambda array: array)


@pytest.mark.parametrize('num, count', [(10, 1), (10, 3), (2, 4), (12, 4)])
def test_slices_of_processes_are_disjoint_cover_all_and_first_is_largest(
    num, count
):
  examples = _examples(num)
  slices = [
      task_lib.process_slice(examples, _share(i, count)) for i in range(count)
  ]
  held = [
      one.labels if one.holders is None else one.labels[one.holders == 0]
      for one in slices
  ]
  keys = [
      _keys(task_lib.Examples(one.images, labels))
      for one, labels in zip(slices, held, strict=True)
  ]
  assert sorted(key for own in keys for key in own) == sorted(_keys(examples))
  sizes = [len(one.images) for one in slices]
  assert max(sizes) == sizes[0] == -(-num // count)
  assert max(sizes) - min(sizes) <= 1
  for one in slices:
    np.testing.assert_array_equal(one.labels, examples.labels)


@pytest.mark.parametrize('index', [-1, 2])
def test_a_process_that_does_not_exist_is_refused(index):
  with pytest.raises(ValueError, match=f'process is {index}, .*0 .. 1'):
    task_lib.process_slice(_examples(6), _share(index, 2))
