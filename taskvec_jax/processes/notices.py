"""Notices of a death, from the parent of a process to the parents of others.

Parents know a death at once and with its cause. Without a notice the others
would wait for JAX's verdict, and might never have it: a failed exchange can
abort the process that would give it (gloo on CPUs does so now and then).
"""

from collections.abc import Sequence
from concurrent import futures
import hmac
import ipaddress
import json
import queue
import secrets
import socket
import threading
from typing import NamedTuple

_SECONDS = 5  # to connect, and to send or receive a few bytes
_MOST_BYTES = 1024


class Death(NamedTuple):
  """A process that ended before the run did."""

  index: int  # among the processes of the run
  status: int  # as of subprocess: -9 for killed by signal 9


class Parent(NamedTuple):
  """Where the parent of a process is told of deaths."""

  host: str  # its name, for people
  address: str
  port: int
  key: str  # a notice without it is not believed


class Listener(NamedTuple):
  """Hears notices in a thread of its own until `close`."""

  server: socket.socket
  key: str
  heard: queue.SimpleQueue[Death]

  @property
  def port(self) -> int:
    """Returns where it listens."""
    return self.server.getsockname()[1]


def listen() -> Listener:
  """Returns a listener at a free port of this host."""
  both = socket.has_dualstack_ipv6()
  server = socket.create_server(
      ('', 0),
      family=socket.AF_INET6 if both else socket.AF_INET,
      dualstack_ipv6=both,
  )
  listener = Listener(server, secrets.token_hex(16), queue.SimpleQueue())
  threading.Thread(target=_receive, args=(listener,), daemon=True).start()
  return listener


def close(listener: Listener) -> None:
  """Hears no more."""
  # Closing alone would leave the thread in accept().
  try:
    listener.server.shutdown(socket.SHUT_RDWR)
  except OSError:
    pass  # macOS has nothing to shut down: the socket was never connected
  listener.server.close()


def own_address(coordinator: str | None) -> str:
  """Returns the address at which the others of a run reach this host.

  Args:
    coordinator: HOST:PORT of process 0; None: JAX found it by itself.
  """
  if coordinator is None:
    return socket.gethostname()
  host, _, port = coordinator.rpartition(':')
  host = host.strip('[]')
  family, kind, _, _, target = socket.getaddrinfo(
      host, int(port), type=socket.SOCK_DGRAM
  )[0]
  with socket.socket(family, kind) as probe:
    probe.connect(target)  # sends nothing, but chooses the interface
    address = probe.getsockname()[0]
  # Then the coordinator is here. Debian gives a host's own name the address
  # 127.0.1.1, which leads the others to themselves; the name leads them here.
  return host if ipaddress.ip_address(address).is_loopback else address


def send(death: Death, parents: Sequence[Parent]) -> None:
  """Tells other parents of a death; those that are gone are left out."""
  if parents:
    with futures.ThreadPoolExecutor(min(len(parents), 32)) as pool:
      for parent in parents:
        pool.submit(_send, death, parent)


def _send(death: Death, parent: Parent) -> None:
  notice = json.dumps({'key': parent.key, **death._asdict()})
  try:
    with socket.create_connection((parent.address, parent.port), _SECONDS) as s:
      s.sendall(notice.encode())
  except OSError:
    pass  # gone, or behind a firewall: JAX's verdict reaches its child


def _receive(listener: Listener) -> None:
  while True:
    try:
      connection, _ = listener.server.accept()
    except OSError:
      return  # closed
    with connection:
      death = _notice(connection, listener.key)
    if death is not None:
      listener.heard.put(death)


def _notice(connection: socket.socket, key: str) -> Death | None:
  """Returns the death that a connection tells of; None for anything else."""
  connection.settimeout(_SECONDS)
  text = b''
  try:
    while len(text) <= _MOST_BYTES and (part := connection.recv(_MOST_BYTES)):
      text += part
    said = json.loads(text)
    is_known = hmac.compare_digest(said['key'].encode(), key.encode())
    return Death(int(said['index']), int(said['status'])) if is_known else None
  except (OSError, ValueError, LookupError, TypeError, AttributeError):
    return None  # whatever a port scanner says
