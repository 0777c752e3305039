"""A run of several processes: who they are, and what happens if one dies.

The same command is started on every host. JAX finds the others on a TPU pod
and in a Slurm step; elsewhere flags name them (`Cluster`). Each command starts
itself once more as a child, which joins the cluster and runs; the parent waits.
That is because JAX ends a process that lost a peer without a word that Python
could catch:

  a child is killed -> its parent names it at once
                    -> the coordination service in process 0 misses its sign of
                       life for HEARTBEAT_SECONDS and says so to all children,
                       which JAX ends; their parents read which process it was
                       from their last words, and name it with its host
  a parent is killed -> its child sees the end of a pipe, and ends as well

so every process has ended, and every host has been told which one died, within
60 s. With a number of processes alone all are started here, and their one
parent ends the others at once. Whatever was finished is in the work folder.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import jax
import numpy as np

from taskvec_jax.gradients import full_batch

# A process without a sign of life for so long counts as dead.
HEARTBEAT_SECONDS = 20
_JOIN_SECONDS = 300  # for all to have been started
_CHILD = 'TASKVEC_JAX_CHILD'  # environment of a child: its part and its pipes
_HOST_BYTES = 64


class Cluster(NamedTuple):
  """How the processes of a run find each other."""

  coordinator: str | None  # HOST:PORT of process 0; None: JAX finds it
  num_processes: int | None  # None: JAX finds it
  process_id: int | None  # None: JAX finds it, or all are started here
  local: bool = False  # all processes are started here, by one command


def cluster(
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Cluster | None:
  """Returns what flags and environment say of a cluster; None: one process.

  Args:
    coordinator: HOST:PORT, or ''.
    num_processes: N, or None.
    process_id: 0 .. N - 1, or None.
    environ: of this process.

  Raises:
    ValueError: one sentence, for flags that do not fit together.
  """
  if num_processes is not None and num_processes < 1:
    raise ValueError(
        f'--num_processes is {num_processes}, but must be at least 1'
    )
  if not coordinator and process_id is None:
    if num_processes is None:
      return Cluster(None, None, None) if _is_in_cluster(environ) else None
    return (
        Cluster(None, num_processes, None, True) if num_processes > 1 else None
    )
  given = {
      '--coordinator': coordinator or None,
      '--num_processes': num_processes,
      '--process_id': process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing or num_processes is None or process_id is None:
    raise ValueError(
        f'{" and ".join(n for n in given if n not in missing)} needs'
        f' {" and ".join(missing)} too; a cluster is'
        ' --coordinator=HOST:PORT --num_processes=N --process_id=I, and'
        ' --num_processes=N alone starts all of them here'
    )
  if not 0 <= process_id < num_processes:
    raise ValueError(
        f'--process_id is {process_id}, but must lie in 0 ..'
        f' {num_processes - 1} for --num_processes={num_processes}'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(
        f'--coordinator is {coordinator!r}, but must be HOST:PORT, the host of'
        ' process 0 and a free port there'
    )
  return Cluster(coordinator, num_processes, process_id)


def _is_in_cluster(environ: Mapping[str, str]) -> bool:
  """Returns whether this is a Slurm step of several tasks, or a TPU host.

  Never true by accident: a Slurm batch script outside of `srun` is one process,
  and so is a machine without TPU chips, whatever is installed.
  """
  tasks = environ.get('SLURM_STEP_NUM_TASKS', '1')
  if tasks.isdecimal() and int(tasks) > 1:
    return True
  if 'tpu' not in environ.get('JAX_PLATFORMS', 'tpu'):
    return False
  if not importlib.util.find_spec('libtpu'):
    return False
  hosts = environ.get('TPU_WORKER_HOSTNAMES')
  if hosts is not None:
    return ',' in hosts
  # A TPU VM of Google Cloud, whose metadata server JAX asks for the others. JAX
  # sets TPU_SKIP_MDS_QUERY where there is no chip; others, where no server is.
  has_chips = any(map(os.path.exists, ('/dev/accel0', '/dev/vfio/0')))
  return has_chips and 'TPU_SKIP_MDS_QUERY' not in environ


def is_child(environ: Mapping[str, str] = os.environ) -> bool:
  """Returns whether a parent started this process and watches it."""
  return _CHILD in environ


# The child


def join(environ: Mapping[str, str] = os.environ) -> None:
  """Joins the cluster; before any use of a device.

  Raises:
    RuntimeError: the others were not there in time, of JAX.
  """
  part = json.loads(environ[_CHILD])
  threading.Thread(target=_end_with, args=(part['alive'],), daemon=True).start()
  sys.excepthook = _end_on_error
  # Its handler would swallow a SIGTERM.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
      part['coordinator'],
      part['num_processes'],
      part['process_id'],
      initialization_timeout=_JOIN_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  index, count = full_batch.process()
  names = np.zeros((count, _HOST_BYTES), np.uint8)
  mine = socket.gethostname().encode()[:_HOST_BYTES]
  names[index, : len(mine)] = np.frombuffer(mine, np.uint8)
  hosts = [
      row.tobytes().rstrip(b'\0').decode() for row in full_batch.joined(names)
  ]
  tell(index=index, hosts=hosts)


def tell(environ: Mapping[str, str] = os.environ, **facts: Any) -> None:
  """Tells the parent, if there is one, what it may have to say later."""
  if is_child(environ):
    pipe = json.loads(environ[_CHILD])['facts']
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


# The parent


class _Child(NamedTuple):
  """A process that runs, and its pipes."""

  process: subprocess.Popen
  facts: int  # read end
  alive: int  # write end, never written to
  readers: tuple[threading.Thread, ...]
  errors: list[str]  # the last lines of its standard error


def supervise(
    asked: Cluster,
    command: Sequence[str],
    *,
    environ: Mapping[str, str] = os.environ,
) -> int:
  """Runs this host's processes; returns the exit status of the command.

  Args:
    asked: of `cluster`.
    command: what a process runs, as this one was started.
    environ: of this process.
  """
  parts = [asked]
  if asked.local:
    coordinator = f'127.0.0.1:{_free_port()}'
    parts = [
        asked._replace(coordinator=coordinator, process_id=i)
        for i in range(asked.num_processes or 0)
    ]
  signal.signal(signal.SIGTERM, _raise_exit)
  children, facts = [], []
  try:
    for part in parts:
      children.append(_start(part, command, environ))
    dead = _first_to_fail(children)
  finally:
    # No child may be left: it would wait for the others on its own.
    for child in children:
      child.process.kill()
      child.process.wait()
      os.close(child.alive)
      for reader in child.readers:
        reader.join()
      facts.append(_facts(child))
  if dead is None:
    return 0
  sentence = _sentence(children[dead], facts[dead], parts[dead])
  if sentence:
    print(f'taskvec_jax: {sentence}', file=sys.stderr, flush=True)
  return max(children[dead].process.returncode, 1 if sentence else 0)


def _start(
    part: Cluster, command: Sequence[str], environ: Mapping[str, str]
) -> _Child:
  facts_read, facts_write = os.pipe()
  alive_read, alive_write = os.pipe()
  pipes = {'facts': facts_write, 'alive': alive_read}
  process = subprocess.Popen(
      command,
      env={**environ, _CHILD: json.dumps({**part._asdict(), **pipes})},
      pass_fds=tuple(pipes.values()),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,  # or Ctrl-C would reach it beside its parent
  )
  for pipe in pipes.values():
    os.close(pipe)
  errors = []
  readers = tuple(
      threading.Thread(target=_copy, args=arguments)
      for arguments in (
          (process.stdout, sys.stdout, []),
          (process.stderr, sys.stderr, errors),
      )
  )
  for reader in readers:
    reader.start()
  return _Child(process, facts_read, alive_write, readers, errors)


def _copy(source, target, last: list[str]) -> None:
  """Passes lines on, and keeps the last."""
  with source:
    for line in source:
      text = line.decode(errors='replace')
      if not text.startswith('[Gloo] '):  # which says that peers were found
        target.write(text)
        target.flush()
      last.append(text)
      del last[:-100]


def _first_to_fail(children: Sequence[_Child]) -> int | None:
  """Waits; returns which child failed first, None if all ended well."""
  while True:
    statuses = [child.process.poll() for child in children]
    for i, status in enumerate(statuses):
      if status:
        return i
    if all(status == 0 for status in statuses):
      return None
    time.sleep(0.05)


def _facts(child: _Child) -> dict[str, Any]:
  """Returns what the child told."""
  with os.fdopen(child.facts) as pipe:
    lines = [json.loads(line) for line in pipe]
  return {key: value for line in lines for key, value in line.items()}


def _sentence(child: _Child, facts: Mapping[str, Any], part: Cluster) -> str:
  """Returns who died and what to do; '' if the child has said it itself."""
  index, hosts = facts.get('index', part.process_id), facts.get('hosts')
  said = ''.join(child.errors)
  status = child.process.returncode
  if status > 0 and 'taskvec_jax: ' in said:
    return ''
  if hosts is None:
    others = 'the others'
    if part.num_processes is not None:
      others = f'the other {part.num_processes - 1} of {part.num_processes}'
    where = f' at {part.coordinator}' if part.coordinator else ''
    who = 'this process' if index is None else f'process {index}'
    return (
        f'{who} {_end(status)} before it had joined {others}{where}, which it'
        f' awaits for {_JOIN_SECONDS} s; start the same command on every host'
    )
  again = 'start the same command on every host'
  if part.local:
    again = 'start the same command'
  if 'workdir' in facts:
    again += f', with --workdir={facts["workdir"]},'
  lost = [i for i in _lost(said) if i != index and i < len(hosts)]
  if lost and status < 0:
    named = ' and '.join(_name(i, hosts) for i in lost)
    return (
        f'{named} died (no sign of life for {HEARTBEAT_SECONDS} s), and'
        f' {_name(index, hosts)} was ended; {again} to go on'
    )
  return f'{_name(index, hosts)} {_end(status)}; {again} to go on'


def _lost(said: str) -> list[int]:
  """Returns the processes that JAX's last words call dead."""
  found = re.search(r'stopped sending heartbeats\):\s*\n((?:\d+\s*\n)+)', said)
  if found:
    return [int(number) for number in found[1].split()]
  # Process 0 holds the service that would name it.
  return [0] if 'leader task was preempted/died' in said else []


def _name(index: int | None, hosts: Sequence[str]) -> str:
  assert index is not None  # the child told it with the hosts
  return f'process {index} of {len(hosts)} (host {hosts[index]})'


def _end(status: int) -> str:
  if status < 0:
    return f'was killed by signal {-status}'
  return f'ended with status {status}'


def _raise_exit(signum, frame) -> NoReturn:
  del frame
  raise SystemExit(128 + signum)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
