"""The process that runs, watched by its parent."""

from collections.abc import Mapping
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any
from typing import NoReturn

import jax
import numpy as np

from taskvec_jax.gradients import full_batch
from taskvec_jax.processes import notices

# A process without a sign of life for so long counts as dead.
HEARTBEAT_SECONDS = 20
# For all to have been started.
JOIN_SECONDS = 300
# Environment of a child: its part in the cluster, its pipes, and where its
# parent listens.
VARIABLE = 'TASKVEC_JAX_CHILD'
_ROW_BYTES = 512  # of a parent; its name in the DNS alone may have 253


def is_child(environ: Mapping[str, str] = os.environ) -> bool:
  """Returns whether a parent started this process and watches it."""
  return VARIABLE in environ


def join(environ: Mapping[str, str] = os.environ) -> None:
  """Joins the cluster; before any use of a device.

  Raises:
    RuntimeError: the others were not there in time, of JAX.
  """
  part = json.loads(environ[VARIABLE])
  threading.Thread(target=_end_with, args=(part['alive'],), daemon=True).start()
  sys.excepthook = _end_on_error
  # Its handler would swallow a SIGTERM.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
      part['coordinator'],
      part['num_processes'],
      part['process_id'],
      initialization_timeout=JOIN_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  index, count = full_batch.process()
  parent = notices.Parent(
      socket.gethostname()[:64],
      notices.own_address(part['coordinator']),
      part['port'],
      part['key'],
  )
  rows = np.zeros((count, _ROW_BYTES), np.uint8)
  mine = json.dumps(parent).encode()
  rows[index, : len(mine)] = np.frombuffer(mine, np.uint8)
  parents = [
      json.loads(row.tobytes().rstrip(b'\0')) for row in full_batch.joined(rows)
  ]
  tell(index=index, parents=parents)


def tell(environ: Mapping[str, str] = os.environ, **facts: Any) -> None:
  """Tells the parent, if there is one, what it may have to say later."""
  if is_child(environ):
    pipe = json.loads(environ[VARIABLE])['facts']
    os.write(pipe, (json.dumps(facts) + '\n').encode())


def is_of_a_peer(error: BaseException) -> bool:
  """Returns whether a collective failed, as when another process dies."""
  # 'UNKNOWN: Gloo all-reduce failed ...': JAX raises it as one of two kinds.
  kinds = (jax.errors.JaxRuntimeError, ValueError)
  status = re.match(r'[A-Z_]+: ', str(error))
  return is_child() and isinstance(error, kinds) and bool(status)


def leave(status: int) -> NoReturn:
  """Ends this process; one of several does not wait for the others."""
  if not is_child():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)  # pylint: disable=protected-access


def _end_with(pipe: int) -> None:
  """Ends this process when its parent has gone."""
  os.read(pipe, 1)  # returns at the end of the pipe
  os._exit(1)  # pylint: disable=protected-access


def _end_on_error(kind, error, trace) -> None:
  traceback.print_exception(kind, error, trace)
  sys.stderr.flush()
  if is_of_a_peer(error):
    # JAX's verdict on who it was comes later, and ends this process.
    time.sleep(HEARTBEAT_SECONDS + 5)
  leave(1)
