"""Random bits that any slice of a tensor can draw by itself.

The bits of a coordinate depend on the seed, on names (of the method, the task,
the leaf) and on its index in the flat leaf, and on nothing else: not on the
order of the tasks, on how a leaf is cut into slices, or on the device. They
come from Philox, whose n-th block of bits is computed from n: a slice starts
where it starts, without what lies before it. NumPy promises the stream of a bit
generator to stay what it is.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
import json

import numpy as np

_BITS_A_BLOCK = 8  # one step of Philox4x64 in words of 32 bits


def bits(seed: int, *names: str, start: int, stop: int) -> np.ndarray:
  """Returns uint32 `[stop - start]`, of the flat coordinates start..stop."""
  if stop <= start:
    return np.zeros(0, np.uint32)
  text = json.dumps([int(seed), *names])
  key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'little')
  block, offset = divmod(start, _BITS_A_BLOCK)
  generator = np.random.Philox(key=key, counter=block)
  num_words = (offset + stop - start + 1) // 2  # of 64 bits
  words = generator.random_raw(num_words).astype('<u8', copy=False)
  return words.view('<u4')[offset : offset + stop - start]
