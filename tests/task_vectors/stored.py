"""Checkpoints that tests of files write: all dtypes, shards, raw headers."""

import json

import numpy as np

from taskvec_jax.task_vectors import file_writing
from taskvec_jax.task_vectors import headers


def tensors_of_all_dtypes():
  rng = np.random.default_rng(0)
  found = {
      f'x.{dtype}': rng.integers(0, 2, (3, 5)).astype(dtype)
      for dtype in headers.DTYPES.values()
  }
  found['scalar'] = np.float32(2.5).reshape(())
  found['empty'] = np.zeros((0, 4), np.float16)
  found['ümlaut'] = np.arange(7, dtype=np.int16)
  return found


def assert_same_bytes(a, b):
  assert a.dtype == b.dtype
  assert a.shape == b.shape
  assert a.tobytes() == b.tobytes()


def write_shards(folder, shards, *, index_name='model.safetensors.index.json'):
  folder.mkdir()
  weight_map = {}
  for number, tensors in enumerate(shards, 1):
    name = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
    file_writing.save(folder / name, tensors, {'format': 'pt'})
    weight_map |= dict.fromkeys(tensors, name)
  index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
  (folder / index_name).write_text(json.dumps(index))
  return folder


def raw_file(path, header, num_bytes):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + bytes(num_bytes))
  return path


def entry(start, stop, dtype='F32', shape=(2,)):
  return {'dtype': dtype, 'shape': shape, 'data_offsets': [start, stop]}
