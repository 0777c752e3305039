"""The study of forgetting, end to end in seconds, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from taskvec_jax.experiments import study as study_lib
from taskvec_jax.experiments.studies.forgetting import config as config_lib
from taskvec_jax.experiments.studies.forgetting import images
from taskvec_jax.experiments.studies.forgetting import regression
from taskvec_jax.experiments.studies.forgetting import study
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts


def config(**changes):
  settings = {
      'name': 'tiny',
      'seeds': (0, 1),
      'problem': config_lib.Sizes(60, 3, 2, 1.0),
      'features': (12, 60),
      'num_draws': 4000,
      'sweep_features': (20, 60),
      'sweep_examples': (2, 3, 20),
      'sweep_latent': (2, 4),
      'sweep_gammas': (0.01, 1.0),
      'sweep_draws': 5,
      'descent': config_lib.Sizes(24, 4, 2, 1.0),
      'arithmetic_draws': 100,
      'images': config_lib.Images(
          task='digits',
          image_size=8,
          num_tasks=2,
          max_train=40,
          max_test=30,
          widths=(3, 5),
          num_epochs=4,
          scalings=(0.5, 1.0),
      ),
  }
  return config_lib.ForgettingStudyConfig(**{**settings, **changes})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  return folder, study.run(config(), folder, command='make it')


def find(results, section, where):
  (found,) = (
      finding
      for finding in results.sections[section].findings
      if where in finding.where
  )
  return found


def test_results_come_back_from_the_file_and_the_page_shows_every_section(
    finished,
):
  folder, results = finished
  assert results_lib.read(folder / 'results.json', type(results)) == results
  page = (folder / 'report.html').read_text()
  assert len(results.sections) == 5
  for number, section in enumerate(results.sections, start=1):
    assert f'claim-{number}' in page
    for figure in section.curves:
      assert (folder / 'figures' / f'{figure.name}.png').stat().st_size
  assert 'least norm' in study.summary(results)


def test_exact_statements_hold_at_any_size(finished):
  _, results = finished
  # The means over rotations, of this run's own draws.
  for p in (12, 60):
    assert find(results, 0, f'p = {p}').verdict == verdicts.HOLDS
  assert find(results, 3, 'exact means').verdict == verdicts.HOLDS
  # Gradient descent.
  assert len(results.sections[2].findings) == 9
  for finding in results.sections[2].findings:
    assert finding.verdict == verdicts.HOLDS, finding
  # Task vectors that descent made, merged by the project's own arithmetic.
  for merge in ('sum τ(A)', 'average', 'negation −τ(A)', 'sequence − τ(A)'):
    assert find(results, 2, merge).predicted == 'at most 1e-06'
  # What subtracting a task vector from the sum leaves.
  assert 'R(B) off by' in find(results, 3, 'sum − τ(A)').measured


def test_the_bound_is_judged_only_where_its_conditions_hold(finished):
  _, results = finished
  inside = find(results, 1, 'where its conditions hold')
  # p = 60; n = 2, 3; d = 2; gamma = 1 of the four sweeps, two seeds, 5 draws.
  assert inside.measured.startswith('0 of 50;')
  assert inside.verdict == verdicts.HOLDS
  # p = 20; n = 20; d = 4 > n; 1/gamma = 100 > p.
  outside = find(results, 1, 'where they do not')
  assert 'of 40 above it' in outside.measured
  assert outside.verdict == verdicts.SAYS_NOTHING
  (sweeps,) = results.sections[1].curves
  bounds = [
      [one.y for one in panel.series if one.kind == study_results.BOUND]
      for panel in sweeps.panels
  ]
  missing = [[value is None for value in one] for (one,) in bounds]
  assert missing == [
      [True, False],
      [False, False, True],
      [False, True],
      [True, False],
  ]


def test_a_wrong_formula_would_not_hold(monkeypatch, finished):
  _, results = finished
  sizes = config_lib.Sizes(60, 3, 2, 1.0)
  right = regression.point(sizes, seed=0, num_draws=4000)
  # Half of what was measured cannot pass for the exact mean.
  low = right.draws.mean() * 0.5
  assert abs(right.z) < 3
  assert abs(regression.standard_errors(right.draws, low)) > 3
  finding = regression._exact_finding(60, [right._replace(z=3.1), right])
  assert finding.verdict == verdicts.DOES_NOT_HOLD


def test_images_are_compared_seed_by_seed_and_shown_by_width(finished):
  _, results = finished
  section = results.sections[4]
  (table,) = section.tables
  assert [row[0] for row in table.rows] == ['3', '5']
  words = {verdicts.HOLDS, verdicts.DOES_NOT_HOLD, verdicts.UNDECIDED}
  assert {finding.verdict for finding in section.findings} <= words
  values = {
      series.label: series.y
      for panel in section.curves[0].panels
      for series in panel.series
  }
  for y in values.values():
    assert np.all((np.array(y) <= 1) & (np.array(y) >= -1))
  # One step of merging is one of joint training, more are not: the mean merge
  # and joint training stand beside each other.
  assert len(values) == 6


def test_images_that_diverge_are_refused_with_task_and_epoch():
  # A saturated tanh hides it: loss and gradient stay finite in float32.
  settings = dataclasses.replace(config().images, learning_rate=1e30)
  with pytest.raises(
      FloatingPointError,
      match='digits, width 3, seed 1, in sequence, permutation 0: .* epoch 1',
  ):
    images.measure(settings, width=3, seed=1)


def test_a_run_whose_output_is_a_file_has_no_progress_bar(tmp_path, capfd):
  section = study_results.Section('t', 'c', 's', [], [], [])
  study_lib.run(
      config(),
      tmp_path,
      {'part': lambda: section},
      command='c',
      title='t',
      question='q',
      source='s',
      sizes={},
  )
  assert 'part' not in capfd.readouterr().err


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'seeds': (0, 0)}, 'config.seeds must be one seed or more, each once'),
        ({'features': (60, 12)}, 'config.features must rise'),
        ({'sweep_gammas': (0.0,)}, 'config.sweep_gammas must rise from above'),
        ({'num_draws': 1}, 'config.num_draws must be at least 2 but is 1'),
        ({'tolerance': 1e-15}, r'in \(1e-12, 1\), but is 1e-15'),
        (
            {'features': (4, 60)},
            'config.features does not fit: .* 4 features are fewer than'
            ' n [+] d = 3 [+] 2',
        ),
        (
            {'sweep_examples': (2, 59)},
            'config.sweep_examples does not fit: .* d = 59 [+] 2',
        ),
        (
            {'descent': config_lib.Sizes(5, 4, 2, 1.0)},
            'config.descent does not fit: .* 5 features',
        ),
    ],
)
def test_a_bad_config_is_refused_before_any_work(tmp_path, changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    study.run(config(**changes), tmp_path / 'x', command='c')
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'task': 'digit'}, "config.images.task names the unknown.*'digit'"),
        ({'activation': 'relu'}, 'no second derivative'),
        ({'widths': (5,)}, 'widths must rise from above 0, 2 or more'),
        ({'widths': (5, 3)}, 'config.images.widths must rise'),
        ({'scalings': ()}, 'config.images.scalings must rise'),
        ({'num_tasks': 1}, 'num_tasks must be at least 2'),
        ({'num_epochs': 0}, 'num_epochs must be at least 1 but is 0'),
        ({'max_train': -1}, 'max_train must be at least 0 but is -1'),
        ({'learning_rate': 0.0}, 'learning_rate must be positive and finite'),
    ],
)
def test_bad_settings_of_the_images_are_refused(changes, sentence):
  images = dataclasses.replace(config().images, **changes)
  with pytest.raises(ValueError, match=sentence):
    config_lib.check(config(images=images))
