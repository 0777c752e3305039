"""Processes as threads, for tests of tasks that several of them read."""

import threading

import numpy as np

from taskvec_jax.tasks import task as task_lib


def in_processes(count, fn):
  """Returns `fn(share)` of every process of a run of `count`."""
  barrier = threading.Barrier(count, timeout=60)
  parts, found = [None] * count, [None] * count

  def run(index):
    def joined(array):
      parts[index] = array
      barrier.wait()
      # Each element must come from one process: bits that meet would be lost.
      total = np.sum(parts, axis=0, dtype=np.int64)
      assert (np.count_nonzero(parts, axis=0) <= 1).all()
      barrier.wait()
      return total.astype(array.dtype)

    try:
      found[index] = fn(task_lib.Share(index, count, joined))
    except BaseException:
      barrier.abort()
      raise

  threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found


def together(parts, split):
  """Returns one split's images in order, put together of the processes'."""
  splits = [getattr(task, split) for task in parts]
  images = np.zeros(
      (len(splits[0].labels), *splits[0].images.shape[1:]), np.uint8
  )
  times = np.zeros(len(images), int)
  for index, one in enumerate(splits):
    np.testing.assert_array_equal(one.labels, splits[0].labels)
    # `holders` counts from the process that asks.
    np.testing.assert_array_equal(
        (one.holders + index) % len(parts), splits[0].holders
    )
    images[one.holders == 0] = one.images
    times += one.holders == 0
  assert (times == 1).all()
  return images


def assert_the_same(parts, whole):
  for split in ('train', 'validation', 'test'):
    np.testing.assert_array_equal(
        together(parts, split), getattr(whole, split).images
    )
    np.testing.assert_array_equal(
        getattr(parts[0], split).labels, getattr(whole, split).labels
    )
