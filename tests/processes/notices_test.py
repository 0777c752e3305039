"""Notices of a death."""

import json
import socket

import pytest

from taskvec_jax.processes import notices


def parent_of(listener):
  return notices.Parent('ant', '127.0.0.1', listener.port, listener.key)


def test_a_notice_arrives_and_parents_that_are_gone_are_left_out(listener):
  other = notices.listen()
  gone = parent_of(other)
  notices.close(other)
  notices.send(notices.Death(3, -9), [gone, parent_of(listener)])
  assert listener.heard.get(timeout=10) == notices.Death(3, -9)


def test_a_closed_listener_is_at_no_port():
  listener = notices.listen()
  port = listener.port
  notices.close(listener)
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(('127.0.0.1', port), 5).close()


@pytest.mark.parametrize(
    'said',
    [
        b'',
        b'GET / HTTP/1.1\r\n\r\n',
        b'[]',
        b'{"index": 1, "status": -9}',
        b'{"key": "", "index": 1, "status": -9}',
        b'{"key": 7, "index": 1, "status": -9}',
        b'\xff\xfe',
        b' ' * 5000,
    ],
)
def test_what_is_no_notice_is_passed_over(listener, said):
  address = ('127.0.0.1', listener.port)
  with socket.create_connection(address, 5) as connection:
    connection.sendall(said)
  notices.send(notices.Death(0, 1), [parent_of(listener)])
  assert listener.heard.get(timeout=10) == notices.Death(0, 1)
  assert listener.heard.empty()


def test_a_notice_without_an_index_is_passed_over(listener):
  address = ('127.0.0.1', listener.port)
  with socket.create_connection(address, 5) as connection:
    connection.sendall(json.dumps({'key': listener.key}).encode())
  notices.send(notices.Death(0, 1), [parent_of(listener)])
  assert listener.heard.get(timeout=10) == notices.Death(0, 1)


def test_the_own_address_is_the_one_towards_the_coordinator():
  assert notices.own_address('127.0.0.1:80') == '127.0.0.1'
  assert notices.own_address(None) == socket.gethostname()


@pytest.mark.parametrize(
    ('coordinator', 'resolved', 'expected'),
    [
        ('ant:80', '127.0.1.1', 'ant'),  # in Debian's /etc/hosts
        ('localhost:80', '127.0.0.1', 'localhost'),
    ],
)
def test_the_host_of_the_coordinator_is_reached_as_the_coordinator_is(
    monkeypatch, coordinator, resolved, expected
):

  def resolve(host, port, **_):
    assert (host, port) == (expected, 80)
    return [(socket.AF_INET, socket.SOCK_DGRAM, 0, '', (resolved, port))]

  monkeypatch.setattr(socket, 'getaddrinfo', resolve)
  assert notices.own_address(coordinator) == expected
