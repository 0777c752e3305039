"""Batches hold every example once, whatever they are cut into."""

import numpy as np
import pytest

from taskvec_jax.tasks import batching


def _data(num):
  inputs = np.arange(1, num * 6 + 1, dtype=np.float32).reshape((num, 2, 3))
  return inputs, np.arange(1, num + 1, dtype=np.int32)


@pytest.mark.parametrize('num_shards', [1, 2, 4])
@pytest.mark.parametrize('batch_size', [1, 3, 10, 64])
@pytest.mark.parametrize('num', [1, 10, 13])
def test_masked_examples_are_the_inputs_in_order(num, batch_size, num_shards):
  inputs, labels = _data(num)
  batch = batching.make_batches(
      inputs, labels, batch_size=batch_size, num_shards=num_shards
  )
  num_batches = -(-num // (batch_size * num_shards))
  assert batch.mask.shape == (num_shards, num_batches, batch_size)
  assert batch.inputs.shape == batch.mask.shape + (2, 3)
  assert (batch.inputs.dtype, batch.labels.dtype, batch.mask.dtype) == (
      np.float32,
      np.int32,
      bool,
  )
  np.testing.assert_array_equal(batch.inputs[batch.mask], inputs)
  np.testing.assert_array_equal(batch.labels[batch.mask], labels)


@pytest.mark.parametrize('max_bytes', [1, 24 * 3 * 2 * 2, 10**6])
@pytest.mark.parametrize('num_shards', [1, 2])
@pytest.mark.parametrize('num', [1, 10, 13])
def test_pieces_of_a_stream_are_the_batches_cut_at_once(
    num, num_shards, max_bytes
):
  numbers = dict(batch_size=3, num_shards=num_shards, capacity=num + 2)
  whole = batching.make_batches(*_data(num), **numbers)
  stream = batching.stream(*_data(num), **numbers, max_bytes=max_bytes)
  for _ in range(2):  # anew each time
    pieces = list(stream())
    assert len({piece.mask.shape for piece in pieces}) == 1
    for field in batching.Batch._fields:
      joined = np.concatenate([getattr(p, field) for p in pieces], axis=1)
      expected = getattr(whole, field)
      np.testing.assert_array_equal(joined[:, : expected.shape[1]], expected)
      assert not joined[:, expected.shape[1] :].any()  # padding
  if max_bytes == 1:
    assert len(pieces) == whole.mask.shape[1]


def test_padding_is_zero_and_masked():
  batch = batching.make_batches(*_data(5), batch_size=4)
  assert batch.mask.tolist() == [[[True] * 4, [True] + [False] * 3]]
  assert not batch.inputs[~batch.mask].any()
  assert not batch.labels[~batch.mask].any()


def test_slices_of_two_processes_get_the_same_number_of_batches():
  inputs, labels = _data(17)
  cuts = [
      batching.make_batches(
          inputs[i::2], labels[i::2], batch_size=4, num_shards=2, capacity=9
      )
      for i in (0, 1)
  ]
  assert cuts[0].mask.shape == cuts[1].mask.shape == (2, 2, 4)
  assert [cut.mask.sum() for cut in cuts] == [9, 8]
  empty = batching.make_batches(
      inputs[:0], labels[:0], batch_size=4, capacity=9
  )
  assert empty.inputs.shape == (1, 3, 4, 2, 3)
  assert not empty.mask.any()


@pytest.mark.parametrize(
    'num, kwargs, message',
    [
        (3, dict(batch_size=0), 'batch_size is 0'),
        (3, dict(batch_size=2, num_shards=0), 'num_shards is 0'),
        (3, dict(batch_size=2, capacity=2), 'room for 2 examples, but 3'),
        (0, dict(batch_size=2), 'room for 0 examples, but 0'),
    ],
)
def test_numbers_that_make_no_sense_are_refused(num, kwargs, message):
  with pytest.raises(ValueError, match=message):
    batching.make_batches(*_data(num), **kwargs)


def test_labels_that_do_not_fit_the_inputs_are_refused():
  inputs, labels = _data(4)
  for wrong in (labels[:3], labels.astype(np.int64)):
    with pytest.raises(ValueError, match=r'int32 \[4\] is needed'):
      batching.make_batches(inputs, wrong, batch_size=2)


def test_batches_that_are_added_hold_no_example():
  inputs, labels = _data(5)
  batch = batching.make_batches(inputs, labels, batch_size=2, num_shards=2)
  padded = batching.pad_batches(batch, 4)
  assert padded.mask.shape == (2, 4, 2)
  assert padded.inputs.shape == (2, 4, 2, 2, 3)
  np.testing.assert_array_equal(padded.inputs[padded.mask], inputs)
  np.testing.assert_array_equal(padded.labels[padded.mask], labels)
  with pytest.raises(ValueError, match='2 batches, more than the 1'):
    batching.pad_batches(batch, 1)
