"""The study of sparse predictors, end to end and tiny."""

import dataclasses

import pytest

from taskvec_jax.experiments import config as main_config_lib
from taskvec_jax.experiments.studies.sparse_predictors import config
from taskvec_jax.experiments.studies.sparse_predictors import study
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts


def tiny(**changes):
  parts = {
      'gradient': config.Gradient(num_problems=1),
      'samples': config.Samples(
          num_features=12,
          num_useful=(2, 10),
          num_examples=(10, 15),
          num_problems=1,
          l1_shares=(0.3, 0.05),
          l2_shares=(0.3, 0.01),
      ),
      'features': config.Features(
          num_factors=3,
          correlations=(0.0,),
          widths=(4,),
          num_tasks=2,
          num_examples=8,
          l1_shares=(0.2,),
          l2_shares=(1e-2,),
          num_steps=3,
          num_test=50,
      ),
      'coefficients': config.Coefficients(
          tasks=('digits', 'faces'),
          num_parts=2,
          image_size=8,
          widths=(8,),
          max_train=20,
          max_test=10,
          num_epochs=2,
          shots=2,
          num_steps=2,
          pretraining=main_config_lib.Pretraining(num_epochs=0),
      ),
  }
  return config.SparsePredictorsStudyConfig(
      **{'name': 'tiny', 'seeds': (0, 1), **parts, **changes}
  )


def test_the_study_runs_and_its_page_says_what_it_found(tmp_path):
  results = study.run(tiny(), tmp_path, command='make it')
  assert results_lib.read(tmp_path / 'results.json', type(results)) == results
  gradient, samples, features, coefficients = results.sections
  # What is an identity holds at any size.
  by_part = {one.where: one for one in gradient.findings}
  for where in ('features', 'penalty', 'an unfinished solver'):
    assert by_part[where].verdict == verdicts.HOLDS
  by_part = {one.where: one for one in samples.findings}
  assert by_part['Ridge under the rotation'].verdict == verdicts.HOLDS
  by_part = {one.where: one for one in coefficients.findings}
  assert by_part['derivative in the penalty'].verdict == verdicts.HOLDS
  (figure,) = features.curves
  assert len(figure.panels[0].series) == 3  # lasso, ridge and chance
  (drawn,) = coefficients.maps
  for panel in drawn.panels:  # four sources, shares of one
    for row in panel.values:
      assert sum(value or 0.0 for value in row) <= 1 + 1e-6
  page = (tmp_path / 'report.html').read_text()
  assert 'not public' in page
  assert page.count('data:image/png') == 4
  table = study.summary(results)
  assert table.isascii()


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'seeds': (1, 1)}, r'one seed or more, each once, but is \(1, 1\)'),
        ({'gradient': {'step': 0.0}}, r'gradient.step must lie in .* 0\.0'),
        ({'samples': {'num_examples': (12,)}}, '12.*num_folds = 5 equal folds'),
        ({'samples': {'num_useful': (13,)}}, r'1 to 12.*but is \(13,\)'),
        ({'samples': {'l1_shares': (0.1, 0.3)}}, 'l1_shares must fall'),
        ({'features': {'correlations': (1.0,)}}, r'in \[0, 1\), .*1\.0'),
        ({'features': {'l2_shares': ()}}, 'l2_shares must hold one number'),
        ({'coefficients': {'shots': 3}}, 'shots must be even.*but is 3'),
        (
            {'coefficients': {'num_parts': 1}},
            'three sources or more, but has 2 tasks in 1 parts',
        ),
        ({'gradient': {'correlation': 1.0}}, 'gradient.correlation .* is 1.0'),
        ({'gradient': {'share': 1.5}}, 'config.gradient.share .* is 1.5'),
        ({'features': {'density': 1.1}}, 'config.features.density .* is 1.1'),
        ({'coefficients': {'share': 1.0}}, 'coefficients.share .* is 1.0'),
        (
            {'coefficients': {'tasks': ('digits', 'face')}},
            "config.coefficients.tasks names the unknown task 'face'",
        ),
        (
            {
                'coefficients': {
                    'pretraining': main_config_lib.Pretraining(num_epochs=-1)
                }
            },
            'coefficients.pretraining.num_epochs must be at least 0 but is -1',
        ),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(
    changes, said, tmp_path
):
  changed = tiny()
  for name, value in changes.items():
    if isinstance(value, dict):
      value = dataclasses.replace(getattr(changed, name), **value)
    changed = dataclasses.replace(changed, **{name: value})
  with pytest.raises(ValueError, match=said):
    study.run(changed, tmp_path / 'run', command='make it')
  assert not (tmp_path / 'run').exists()
