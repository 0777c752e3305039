"""The parent of a process: starts it, waits for it, says which one died."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any
from typing import NamedTuple

from taskvec_jax.processes import child as child_lib
from taskvec_jax.processes import cluster
from taskvec_jax.processes import notices

# After the first sign of a death, for a clearer one: a child that was told of
# it says its own error first, a child that a failed exchange aborted waits for
# the notice of who is to blame.
_SETTLE_SECONDS = 3


class _Child(NamedTuple):
  """A process that runs, its pipes, and what it said on them."""

  process: subprocess.Popen
  alive: int  # write end, never written to
  readers: tuple[threading.Thread, ...]
  facts: dict[str, Any]  # what it told
  errors: list[str]  # the last lines of its standard error


def supervise(
    asked: cluster.Cluster,
    command: Sequence[str],
    *,
    environ: Mapping[str, str] = os.environ,
) -> int:
  """Runs this host's processes; returns the exit status of the command.

  Ctrl-C ends them, and is one of the ends that it has a sentence for.

  Args:
    asked: of `cluster.find`.
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
  listener = notices.listen()
  children = []
  try:
    with _signals() as signals:
      try:
        for part in parts:
          children.append(_start(part, command, listener, environ))
        failed, told = _first_death(children, listener.heard, signals)
      finally:
        # No child may be left: it would wait for the others on its own. All at
        # once: one that outlives another writes at length that it is lost.
        for child in children:
          child.process.kill()
        for child in children:
          _end(child)
        notices.close(listener)
  except (KeyboardInterrupt, SystemExit) as error:
    if children:
      _tell_others(children[0], -signal.SIGTERM, asked)
    if isinstance(error, SystemExit):
      raise
    _say(_stopped(children, asked))
    return 128 + signal.SIGINT  # as shells count it
  if failed is None and told is None:
    return 0
  which = failed or 0
  sentence, is_its_own = _verdict(
      children[which], failed is not None, told, parts[which]
  )
  status = children[which].process.returncode
  if is_its_own and told is None:
    _tell_others(children[which], status, asked)
  if sentence:
    _say(sentence)
  return max(status, 1 if sentence else 0)


def _start(
    part: cluster.Cluster,
    command: Sequence[str],
    listener: notices.Listener,
    environ: Mapping[str, str],
) -> _Child:
  facts_read, facts_write = os.pipe()
  alive_read, alive_write = os.pipe()
  pipes = {'facts': facts_write, 'alive': alive_read}
  mine = {'port': listener.port, 'key': listener.key}
  variable = json.dumps({**part._asdict(), **pipes, **mine})
  process = subprocess.Popen(
      command,
      env={**environ, child_lib.VARIABLE: variable},
      pass_fds=tuple(pipes.values()),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,  # or Ctrl-C would reach it beside its parent
  )
  for pipe in pipes.values():
    os.close(pipe)
  facts, errors = {}, []
  readers = (
      threading.Thread(target=_copy, args=(process.stdout, sys.stdout, [])),
      threading.Thread(target=_copy, args=(process.stderr, sys.stderr, errors)),
      threading.Thread(target=_gather, args=(facts_read, facts)),
  )
  for reader in readers:
    reader.start()
  return _Child(process, alive_write, readers, facts, errors)


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


def _gather(pipe: int, facts: dict[str, Any]) -> None:
  with os.fdopen(pipe) as lines:
    for line in lines:
      facts.update(json.loads(line))


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue]:
  """Gathers SIGTERM and Ctrl-C, which else might strike between two lines.

  A child that was started but not yet noted would be left behind.
  """
  received = queue.SimpleQueue()
  before = {
      number: signal.signal(number, lambda number, _: received.put(number))
      for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _first_death(
    children: Sequence[_Child],
    heard: queue.SimpleQueue,
    signals: queue.SimpleQueue,
) -> tuple[int | None, notices.Death | None]:
  """Waits for the end of the run.

  Returns:
    Which child failed first, None if none; and the death elsewhere that was
    told of, if one was. Neither: all ended well.

  Raises:
    KeyboardInterrupt, SystemExit: a signal asks this process to end.
  """
  failed, told, until = None, None, float('inf')
  while time.monotonic() < until:
    if not signals.empty():
      number = signals.get()
      if number == signal.SIGINT:
        raise KeyboardInterrupt
      raise SystemExit(128 + number)
    statuses = [child.process.poll() for child in children]
    if not any(status is None or status for status in statuses):
      return None, None
    for i, status in enumerate(statuses):
      if status and (failed is None or _may_be_of_a_peer(statuses[failed])):
        failed = i
    if failed is not None and not _may_be_of_a_peer(statuses[failed]):
      break
    if failed is not None and told is not None:
      break
    if failed is not None or told is not None:
      until = min(until, time.monotonic() + _SETTLE_SECONDS)
    try:
      notice = heard.get(timeout=0.05)
      told = told or notice
    except queue.Empty:
      pass
  return failed, told


def _may_be_of_a_peer(status: int | None) -> bool:
  """Returns whether a child may have been aborted since it lost another."""
  return status == -signal.SIGABRT


def _end(child: _Child) -> None:
  """Sees a killed child off, and reads what it has said."""
  child.process.wait()
  os.close(child.alive)
  for reader in child.readers:
    reader.join()


def _say(sentence: str) -> None:
  print(f'taskvec_jax: {sentence}', file=sys.stderr, flush=True)


def _stopped(children: Sequence[_Child], asked: cluster.Cluster) -> str:
  """Says how a run that was stopped by Ctrl-C is gone on with."""
  workdir = children[0].facts.get('workdir') if children else None
  if workdir is None:
    return 'stopped before the run had begun'
  where = '' if asked.local else ' on every host'
  return (
      f'stopped; the same command{where} with --workdir={workdir} goes on from'
      ' there'
  )


def _verdict(
    child: _Child,
    has_failed: bool,
    told: notices.Death | None,
    part: cluster.Cluster,
) -> tuple[str, bool]:
  """Says who died.

  Returns:
    The sentence for the user, with what to do, '' if the child has said it
    itself; and whether it is this child's own death, of which others must hear.
  """
  status, said = child.process.returncode, ''.join(child.errors)
  parents = _parents(child)
  index = child.facts.get('index', part.process_id)

  def name(i: int | None) -> str:
    if i is not None and i < len(parents):
      return f'process {i} of {len(parents)} (host {parents[i].host})'
    return 'this process' if i is None else f'process {i}'

  again = 'start the same command'
  if not part.local:
    again += ' on every host'
  if 'workdir' in child.facts:
    again += f', with --workdir={child.facts["workdir"]},'
  if parents:
    again += ' to go on'

  if told and not (has_failed and not _may_be_of_a_peer(status)):
    return (
        f'{name(told.index)} {_how(told.status)}, and {name(index)} was ended;'
        f' {again}'
    ), False
  if status > 0 and 'taskvec_jax: ' in said:
    return '', True
  if not parents:
    others = 'the others'
    if part.num_processes is not None:
      others = f'the other {part.num_processes - 1} of {part.num_processes}'
    where = f' at {part.coordinator}' if part.coordinator else ''
    return (
        f'{name(index)} {_how(status)} before it had joined {others}{where},'
        f' which it awaits for {child_lib.JOIN_SECONDS} s; {again}'
    ), False
  lost = [i for i in _lost(said) if i != index and i < len(parents)]
  if lost and status < 0:
    return (
        f'{" and ".join(map(name, lost))} died (no sign of life for'
        f' {child_lib.HEARTBEAT_SECONDS} s), and {name(index)} was ended;'
        f' {again}'
    ), False
  if _may_be_of_a_peer(status) and 'gloo::' in said:
    return (
        f'{name(index)} was ended by a failed exchange with another process,'
        f' which must have died without a notice; {again}'
    ), False
  return f'{name(index)} {_how(status)}; {again}', True


def _parents(child: _Child) -> list[notices.Parent]:
  """Returns the parents of all processes; none before the child has joined."""
  return [notices.Parent(*one) for one in child.facts.get('parents', ())]


def _tell_others(child: _Child, status: int, asked: cluster.Cluster) -> None:
  index = child.facts.get('index')
  if index is None or asked.local:
    return  # nobody is known yet, or this is the parent of all
  others = [p for i, p in enumerate(_parents(child)) if i != index]
  notices.send(notices.Death(index, status), others)


def _lost(said: str) -> list[int]:
  """Returns the processes that JAX's last words call dead."""
  found = re.search(r'stopped sending heartbeats\):\s*\n((?:\d+\s*\n)+)', said)
  if found:
    return [int(number) for number in found[1].split()]
  # Process 0 holds the service that would name it.
  return [0] if 'leader task was preempted/died' in said else []


def _how(status: int) -> str:
  if status < 0:
    return f'was killed by signal {-status}'
  return f'ended with status {status}'


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
