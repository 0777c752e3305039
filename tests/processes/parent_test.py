"""Parents of toy children: who is said to have died, and who is ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from taskvec_jax.processes import cluster
from taskvec_jax.processes import notices
from taskvec_jax.processes import parent

_BEFORE = """
import json, os, signal, sys, time
part = json.loads(os.environ['TASKVEC_JAX_CHILD'])
index = part['process_id']
def tell(**facts):
  os.write(part['facts'], (json.dumps(facts) + '\\n').encode())
def joined(port=1, key=''):
  parents = [['ant', '127.0.0.1', port, key], ['bee', '127.0.0.1', port, key]]
  parents[index][2:] = part['port'], part['key']
  tell(index=index, parents=parents)
  tell(workdir='w')
"""
_GLOO = """
sys.stderr.write("terminate called ... 'gloo::EnforceNotMet'\\n")
sys.stderr.flush()
os.abort()
"""


def supervised(asked, program, capfd):
  """Returns the status and the last words of a parent of such children."""
  command = [sys.executable, '-c', _BEFORE + program]
  status = parent.supervise(asked, command)
  return status, capfd.readouterr().err.splitlines()


@pytest.fixture
def nothing_awaited(monkeypatch):
  """For deaths after which no clearer sign of one will come."""
  monkeypatch.setattr(parent, '_SETTLE_SECONDS', 0.1)


def test_a_killed_child_is_named_and_the_others_are_ended(capfd):
  start = time.monotonic()
  status, lines = supervised(
      cluster.Cluster(None, 2, None, True),
      'joined()\nif index: os.kill(os.getpid(), 9)\ntime.sleep(50)',
      capfd,
  )
  assert status == 1
  assert lines == [
      'taskvec_jax: process 1 of 2 (host bee) was killed by signal 9; start the'
      ' same command, with --workdir=w, to go on'
  ]
  assert time.monotonic() - start < 20


@pytest.mark.usefixtures('nothing_awaited')
@pytest.mark.parametrize(
    ('index', 'words', 'dead', 'ended'),
    [
        (
            0,
            'UNAVAILABLE: The following tasks are unhealthy (stopped sending'
            ' heartbeats):\\n1\\nThe tasks have crashed.\\n',
            'process 1 of 2 (host bee)',
            'process 0 of 2 (host ant)',
        ),
        (
            1,
            'Either the leader task was preempted/died/restarted\\n',
            'process 0 of 2 (host ant)',
            'process 1 of 2 (host bee)',
        ),
    ],
)
def test_a_peer_that_died_on_another_host_is_named(
    capfd, index, words, dead, ended
):
  status, lines = supervised(
      cluster.Cluster('ant:1', 2, index),
      f"joined()\nsys.stderr.write('{words}')\nsys.stderr.flush()\nos.abort()",
      capfd,
  )
  assert status == 1
  assert lines[-1] == (
      f'taskvec_jax: {dead} died (no sign of life for 20 s), and {ended} was'
      ' ended; start the same command on every host, with --workdir=w, to go on'
  )


def test_a_child_that_has_said_why_is_not_talked_over(capfd):
  program = "sys.exit(sys.stderr.write('taskvec_jax: no\\n') and 2)"
  asked = cluster.Cluster('ant:1', 2, 0)
  assert supervised(asked, program, capfd) == (2, ['taskvec_jax: no'])


@pytest.mark.usefixtures('nothing_awaited')
def test_a_run_that_not_all_join_says_where_they_were_awaited(capfd):
  status, lines = supervised(
      cluster.Cluster('ant:1', 3, 0), 'os.abort()', capfd
  )
  assert status == 1
  assert (
      'process 0 was killed by signal 6 before it had joined the other 2 of 3'
      ' at ant:1, which it awaits for 300 s'
  ) in lines[-1]


def joined_with(listener):
  return f'joined({listener.port}, {listener.key!r})\n'


def test_others_are_told_of_a_death(capfd, listener):
  program = joined_with(listener) + 'os.kill(os.getpid(), 9)'
  status, _ = supervised(cluster.Cluster('ant:1', 2, 1), program, capfd)
  assert status == 1
  assert listener.heard.get(timeout=10) == notices.Death(1, -signal.SIGKILL)


def test_others_are_told_of_an_error_that_one_process_alone_has(
    capfd, listener
):
  program = "sys.exit(sys.stderr.write('taskvec_jax: disk full\\n') and 2)"
  status, lines = supervised(
      cluster.Cluster('ant:1', 2, 1), joined_with(listener) + program, capfd
  )
  assert (status, lines) == (2, ['taskvec_jax: disk full'])
  assert listener.heard.get(timeout=10) == notices.Death(1, 2)


def signals_its_parent(number):
  return f'os.kill({os.getpid()}, {int(number)})\ntime.sleep(50)'


def test_others_are_told_when_a_parent_is_asked_to_end(capfd, listener):
  program = joined_with(listener) + signals_its_parent(signal.SIGTERM)
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit, match='143'):
    supervised(cluster.Cluster('ant:1', 2, 0), program, capfd)
  assert signal.getsignal(signal.SIGTERM) is before
  assert listener.heard.get(timeout=10) == notices.Death(0, -signal.SIGTERM)


def test_others_are_told_of_ctrl_c_and_the_user_how_to_go_on(capfd, listener):
  program = joined_with(listener) + signals_its_parent(signal.SIGINT)
  before = signal.getsignal(signal.SIGINT)
  status, lines = supervised(cluster.Cluster('ant:1', 2, 0), program, capfd)
  assert status == 130
  assert lines == [
      'taskvec_jax: stopped; the same command on every host with --workdir=w'
      ' goes on from there'
  ]
  assert signal.getsignal(signal.SIGINT) is before
  assert listener.heard.get(timeout=10) == notices.Death(0, -signal.SIGTERM)


def test_ctrl_c_before_the_run_has_a_folder_names_none(capfd):
  status, lines = supervised(
      cluster.Cluster(None, 2, None, True),
      f'if index == 0: {signals_its_parent(signal.SIGINT)}',
      capfd,
  )
  assert status == 130
  assert lines == ['taskvec_jax: stopped before the run had begun']


def test_no_child_is_left_if_a_signal_comes_while_they_are_started(
    capfd, monkeypatch
):
  started = []

  def start(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    started.append(subprocess_popen(*args, **kwargs))
    return started[-1]

  subprocess_popen = subprocess.Popen
  monkeypatch.setattr(subprocess, 'Popen', start)
  with pytest.raises(SystemExit, match='143'):
    supervised(cluster.Cluster(None, 2, None, True), 'time.sleep(50)', capfd)
  assert [child.returncode for child in started] == [-signal.SIGKILL] * 2


_SENDER = """
import json, os, sys, time
from taskvec_jax.processes import notices
part = json.loads(os.environ['TASKVEC_JAX_CHILD'])
time.sleep(float(sys.argv[1]))
key = part['key'] if sys.argv[2] == 'right' else ''
parent = notices.Parent('ant', '127.0.0.1', part['port'], key)
notices.send(notices.Death(1, -9), [parent])
"""


def joined_and_told(seconds, key='right'):
  """Returns the program of a child whose parent gets a notice later on."""
  command = f'[sys.executable, "-c", {_SENDER!r}, "{seconds}", "{key}"]'
  return (
      f'joined()\nimport subprocess\nsubprocess.Popen({command},'
      ' stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n'
  )


@pytest.mark.parametrize('then', ['time.sleep(50)', _GLOO])
def test_a_death_that_is_told_of_ends_the_child_and_is_named(capfd, then):
  begin = time.monotonic()
  status, lines = supervised(
      cluster.Cluster('ant:1', 2, 0),
      joined_and_told(0.3) + then,
      capfd,
  )
  assert status == 1
  assert lines[-1] == (
      'taskvec_jax: process 1 of 2 (host bee) was killed by signal 9, and'
      ' process 0 of 2 (host ant) was ended; start the same command on every'
      ' host, with --workdir=w, to go on'
  )
  assert time.monotonic() - begin < 20


def test_a_child_that_was_told_of_a_death_may_still_say_its_own_error(capfd):
  program = (
      "time.sleep(0.5)\nsys.exit(sys.stderr.write('taskvec_jax: no\\n') and 2)"
  )
  asked = cluster.Cluster('ant:1', 2, 0)
  status, lines = supervised(asked, joined_and_told(0) + program, capfd)
  assert (status, lines) == (2, ['taskvec_jax: no'])


def test_a_notice_without_the_key_is_not_believed(capfd):
  asked = cluster.Cluster('ant:1', 2, 0)
  program = joined_and_told(0, 'wrong') + 'time.sleep(4)'
  assert supervised(asked, program, capfd) == (0, [])


@pytest.mark.usefixtures('nothing_awaited')
def test_an_abort_by_a_failed_exchange_is_not_called_a_death_of_its_own(
    capfd, listener
):
  status, lines = supervised(
      cluster.Cluster('ant:1', 2, 0), joined_with(listener) + _GLOO, capfd
  )
  assert status == 1
  assert lines[-1].startswith(
      'taskvec_jax: process 0 of 2 (host ant) was ended by a failed exchange'
      ' with another process, which must have died without a notice; start'
  )
  assert listener.heard.empty()


@pytest.mark.usefixtures('nothing_awaited')
def test_an_abort_of_its_own_is_told(capfd, listener):
  status, lines = supervised(
      cluster.Cluster('ant:1', 2, 0),
      joined_with(listener) + 'os.abort()',
      capfd,
  )
  assert status == 1
  assert 'process 0 of 2 (host ant) was killed by signal 6' in lines[-1]
  assert listener.heard.get(timeout=10) == notices.Death(0, -signal.SIGABRT)


def test_of_two_that_died_together_the_aborted_one_is_not_blamed(capfd):
  program = (
      f'joined()\nif index: time.sleep(0.3); os.kill(os.getpid(), 9)\n{_GLOO}'
  )
  _, lines = supervised(cluster.Cluster(None, 2, None, True), program, capfd)
  assert 'process 1 of 2 (host bee) was killed by signal 9' in lines[-1]
