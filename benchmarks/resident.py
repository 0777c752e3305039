"""The memory of this process, as Linux counts it in /proc/self."""

import ctypes
import pathlib
import time


def now() -> int:
  """Returns the bytes that the process holds now (VmRSS)."""
  return _field('VmRSS')


def peak() -> int:
  """Returns the most bytes it held since `reset_peak`, or ever (VmHWM)."""
  return _field('VmHWM')


def reset_peak() -> None:
  """Makes what the process holds now its peak."""
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def settle() -> None:
  """Waits for buffers to be freed, and gives freed memory back, with glibc."""
  time.sleep(2)  # a device frees its buffers in threads of its own
  libc = ctypes.CDLL(None)
  if hasattr(libc, 'malloc_trim'):
    libc.malloc_trim(0)


def _field(field: str) -> int:
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    name, _, value = line.partition(':')
    if name == field:
      return 1024 * int(value.split()[0])
  raise ValueError(f'/proc/self/status has no {field}; this needs Linux.')
