"""The study of linear teachers, end to end on tiny problems."""

import json

import pytest

from taskvec_jax.experiments.studies.linear_teachers import config as config_lib
from taskvec_jax.experiments.studies.linear_teachers import study
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts


def config(**changes):
  # Twelve problems of two examples wherever it can be: one compiled program.
  settings = {
      'name': 'tiny_linear_teachers',
      'seeds': (0, 1),
      'dimension': 16,
      'num_examples': 2,
      'width': 2,
      'depths': (1, 2),
      'num_draws': 2,
      'risk_examples': (2, 4),
      'risk_band': 4,
      'num_test': 500,
      'teacher_sizes': (0.5, 1.5),
      'teacher_cosines': (-0.5, 0.5, 1.0),
      'step_sizes': (0.4, 0.2),
      'curve_sizes': (0.5, 1.0, 2.0),
      'curve_cosines': (0.5,),
      'map_sizes': (0.5, 1.0, 2.0),
      'map_cosines': (0.0, 1.0),
      'map_draws': 1,
      'num_tasks': (3,),
      'merge_cosines': (0.5,),
      'merge_scalings': (0.0, 0.5, 1.0),
      'map_tasks': 3,
      'map_coverages': (0.125, 0.25),
      'merge_map_cosines': (0.0, 1.0),
      'deep_tasks': 6,
      'deep_cosines': (0.5,),
  }
  return config_lib.LinearTeachersStudyConfig(**{**settings, **changes})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, study.run(config(), folder, command='make it')


def verdict(results, section, where):
  (found,) = (
      finding
      for finding in results.sections[section].findings
      if finding.where == where
  )
  return found.verdict


def test_what_holds_at_every_size_holds_here(finished):
  _, results = finished
  for section, where in (
      (0, 'risk after training, by (S2.1)'),
      (1, 'L = 1'),
      (1, 'L = 2'),
      (1, 'labels all zero, L = 2'),
      (1, 'd = 1, θ_S = −θ_T, L = 2'),
      (1, 'out of balance, L = 2'),
      (2, 'L = 1'),
      (2, 'L = 2: rate of what the prediction leaves'),
      (3, 'every trained network, by (S2.4)'),
      (4, 'risk of every merge, by (S2.7)'),
      (4, 'RegMean and multitask training'),
      (5, 'L = 1'),
      (5, 'L = 2'),
  ):
    assert verdict(results, section, where) == verdicts.HOLDS, where


def test_the_page_has_overlaps_predicted_and_measured(finished):
  _, results = finished
  (row,) = results.sections[4].tables[1].rows
  # n/d = 2/16; three tasks of cosine 0.5: 6 pairs of 0.5 / 64.
  assert row[:2] == ['T = 3, cosine 0.5', '0.1250']
  assert row[3] == f'{6 * 0.5 / 64:.3f}'
  places = [one.where for one in results.sections[4].findings]
  assert 'inner products of projections, by (S2.14)' in places


def test_the_folder_has_the_results_the_page_and_its_figures(finished):
  folder, results = finished
  assert results_lib.read(folder / 'results.json', type(results)) == results
  page = (folder / 'report.html').read_text()
  assert 'Linear teachers' in page
  for section in results.sections:
    for figure in (*section.curves, *section.maps):
      assert (folder / 'figures' / f'{figure.name}.png').stat().st_size > 0
  assert 'holds' in study.summary(results)
  assert json.loads((folder / 'config.json').read_text())['dimension'] == 16


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'seeds': ()}, 'config.seeds must be one seed or more'),
        ({'num_examples': 16}, 'config.num_examples must be from 1 to 15'),
        ({'risk_examples': (2, 16)}, 'config.risk_examples must be from 1'),
        ({'risk_examples': (0, 4)}, 'config.risk_examples must be from 1'),
        ({'width': 0}, 'config.width must be at least 1 but is 0'),
        ({'risk_band': 6}, 'three bands must fit'),
        ({'num_test': 1}, 'config.num_test must be at least 2'),
        ({'depths': (2, 3)}, 'config.depths must rise from 1'),
        ({'depths': (1,)}, 'config.depths must rise from 1'),
        ({'teacher_cosines': (1.5,)}, r'teacher_cosines must .* in \[-1, 1\]'),
        ({'curve_sizes': (0.0,)}, r'curve_sizes must .* in \(0, inf\)'),
        ({'map_coverages': (0.01,)}, 'times config.dimension must be from 1'),
        ({'merge_scalings': (0.0, 1.0)}, 'three numbers at least'),
        ({'map_margin': -1.0}, 'config.map_margin must be at least 0'),
        ({'covariance_power': float('nan')}, 'covariance_power must lie'),
        ({'step_sizes': (0.4,)}, 'config.step_sizes must hold two at least'),
        ({'step_sizes': (0.4, 0.3)}, 'each half of the one before'),
        ({'depth_step_size': 1.0}, r'must lie in \(0, 1\), .* 1.0'),
        ({'map_tasks': 1}, r'config.map_tasks must lie in \[2, 16\), .* is 1'),
        ({'num_tasks': ()}, r'config.num_tasks must hold one .* is \(\)'),
        ({'num_tasks': (2, 16)}, r'config.num_tasks .* is \(2, 16\)'),
        ({'depths': (1, 2.5)}, r'in whole numbers .* are \(1, 2.5\)'),
    ],
)
def test_settings_without_sense_are_refused_in_a_sentence(
    changes, sentence, tmp_path
):
  with pytest.raises(ValueError, match=sentence):
    study.run(config(**changes), tmp_path / 'no', command='')
  assert not (tmp_path / 'no').exists()
