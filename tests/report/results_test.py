import dataclasses
import json

import pytest

from taskvec_jax.report import results as results_lib


def test_what_is_read_equals_what_was_written(results, tmp_path):
  path = tmp_path / 'results.json'
  results_lib.write(path, results)
  assert results_lib.read(path) == results


def test_the_file_holds_every_field_under_its_own_name(results, tmp_path):
  path = tmp_path / 'results.json'
  results_lib.write(path, results)
  assert json.loads(path.read_text()) == dataclasses.asdict(results)


def test_nan_is_refused_and_the_file_before_it_stays(results, tmp_path):
  path = tmp_path / 'results.json'
  results_lib.write(path, results)
  broken = dataclasses.replace(results, seconds={'page': float('nan')})
  with pytest.raises(ValueError):
    results_lib.write(path, broken)
  assert results_lib.read(path) == results


def test_nothing_but_the_file_is_left_beside_it(results, tmp_path):
  results_lib.write(tmp_path / 'results.json', results)
  assert [path.name for path in tmp_path.iterdir()] == ['results.json']
