import json

from benchmarks import figures


def test_a_missed_goal_is_printed_written_and_fails(tmp_path, capsys):
  path = tmp_path / 'found.json'
  missed = ['2 of 3']
  status = figures.conclude(
      path, {'found': 2}, goals={'least': 3}, missed=missed
  )
  assert status == 1
  assert capsys.readouterr().out == 'missed: 2 of 3\n'
  report = json.loads(path.read_text())
  assert (report['found'], report['goals']) == (2, {'least': 3})
  assert report['missed'] == missed


def test_goals_that_are_met_end_well_without_a_file(capsys):
  assert figures.conclude(None, {'found': 3}, goals={'least': 3}) == 0
  assert not capsys.readouterr().out
