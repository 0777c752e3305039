import dataclasses

import pytest

from taskvec_jax.experiments.studies.provable_editing import config
from taskvec_jax.experiments.studies.provable_editing import study
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import study_page
from taskvec_jax.report import verdicts


def tiny(**changes):
  settings = {
      'name': 'tiny',
      'seeds': (0, 1),
      'num_patterns': 12,
      'width': 16,
      'num_train': 32,
      'num_test': 32,
      'learning_rate': 0.5,
      'num_epochs': 60,
      'alphas': (-0.8, -0.4, 0.0, 0.4, 0.8),
      'addition_scalings': (0.0, 0.5, 1.0, 1.5, 2.0),
      'negation_scalings': (-3.0, -2.0, -1.0, 0.0, 1.0),
      'transfer_scalings': (-3.0, -1.5, 0.0, 1.5, 3.0),
      'ranks': (1,),
      'densities': (1.0, 0.05),
      'pruned_shares': (0.0, 0.5),
      'digit_widths': (16,),
      'rednesses': (0.05, 0.95),
      'digit_base_epochs': 10,
      'digit_epochs': 30,
      'digit_scalings': (-1.0, 0.0, 1.0),
  }
  return config.ProvableEditingStudyConfig(**{**settings, **changes})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished') / 'run'
  return folder, study.run(tiny(), folder, command='make it')


def verdict(results, title, where):
  (found,) = (
      finding.verdict
      for section in results.sections
      if section.title == title
      for finding in section.findings
      if finding.where == where
  )
  return found


def test_the_run_is_written_and_read_back(finished):
  folder, results = finished
  assert results_lib.read(folder / 'results.json', type(results)) == results
  page = (folder / 'report.html').read_text()
  assert page.count('data:image/png') == 10
  table = study.summary(results)
  assert 'Negation' in table


def test_a_finished_run_goes_on_without_training(finished, monkeypatch):
  folder, results = finished
  monkeypatch.setattr(study.experts, 'train', None)
  monkeypatch.setattr(study.coloured, 'train', None)
  monkeypatch.setattr(study_page, 'write_page', lambda *_: None)
  again = study.run(tiny(), folder, command='make it')
  assert dataclasses.replace(again, seconds=results.seconds) == results


@pytest.mark.parametrize(
    ('title', 'where'),
    [
        ('One task vector, scaled', 'all experts'),
        ('One task vector, scaled', 'margin law'),
        ('Addition', 'margin law'),
        ('Negation', 'margin law'),
        ('Negation', 'values alone'),
        ('Negation', 'contradictory, λ = 0'),
    ],
)
def test_small_experts_follow_the_margin_law(finished, title, where):
  assert verdict(finished[1], title, where) == verdicts.HOLDS


def test_what_comes_back_below_zero_contradicts_the_theorem(finished):
  found = verdict(finished[1], 'Negation', 'irrelevant, all λ ≤ 0')
  assert found == verdicts.DOES_NOT_HOLD


def test_a_step_that_diverges_ends_in_a_sentence_and_not_in_a_page():
  # Losses stay finite in float32: hinge and saturated layers hide it.
  with pytest.raises(FloatingPointError, match='token patterns.* epoch'):
    study.experts.train(tiny(learning_rate=1e30))
  with pytest.raises(FloatingPointError, match='digits .* seed 3: .* epoch'):
    study.coloured.digits.train(tiny(digit_learning_rate=1e30), 3)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'seeds': ()}, 'one seed or more'),
        ({'num_confusing': 5}, 'they are 5 and 5'),
        ({'width': 7}, 'width must be even and at least 2 but is 7'),
        ({'alphas': (-1.0, 1.0)}, r'must hold 0 .* are \(-1.0, 1.0\)'),
        ({'addition_scalings': (1.0, 0.0)}, r'must rise.* is \(1.0, 0.0\)'),
        ({'negation_scalings': (-1.0, 1.0)}, r'must hold 0, .*\(-1.0, 1.0\)'),
        ({'gammas': (0.9, 0.9)}, r'at most 1, but are \(0.9, 0.9\)'),
        ({'tolerance': 0.5}, r'in \(0, 0.5\), but is 0.5'),
        ({'beta': 0.0}, 'beta must be positive and finite but is 0.0'),
        ({'margin': 0}, 'margin must be at least 1 but is 0'),
        ({'rednesses': (0.85,)}, r'other tasks than .* 0.85, but are'),
        ({'digit_scalings': (0.0, 2.0)}, 'must hold 0 and 1'),
        ({'gammas': (0.5,)}, r'config.gammas must be two .* is \(0.5,\)'),
        ({'transfer_redness': ()}, r'transfer_redness must be two .* is \(\)'),
        ({'transfer_redness': (0.05, 1.2)}, r'transfer_redness .* 1.2\)'),
        ({'redness': -0.1}, r'config.redness must lie in \[0, 1\].*is -0.1'),
        ({'rednesses': ()}, r'config.rednesses must hold one .* is \(\)'),
        ({'bar': 0.0}, r'config.bar must lie in \(0, 1\], but is 0.0'),
        ({'small_alpha': 2.0}, r'config.small_alpha .* but is 2.0'),
        ({'init_scale': -1.0}, 'config.init_scale must be positive .* -1.0'),
        ({'noise': 0.5}, r'config.noise must lie in \[0, 0.5\), .* 0.5'),
        ({'digit_margin': 0.6}, 'config.digit_margin .* but is 0.6'),
        ({'digit_widths': (16, 0)}, r'config.digit_widths .* \(16, 0\)'),
        ({'ranks': (0,)}, r'config.ranks must hold .* is \(0,\)'),
        ({'ranks': (1, 16, 17)}, r'all in \[1, 15\], but is \(1, 16, 17\)'),
        ({'densities': (0.0,)}, r'config.densities .* is \(0.0,\)'),
        ({'pruned_shares': (0.5, 1.0)}, r'config.pruned_shares .* 1.0\)'),
        ({'digits': 'digts'}, "config.digits names the unknown task 'digts'"),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(
    changes, said, tmp_path
):
  with pytest.raises(ValueError, match=said):
    study.run(tiny(**changes), tmp_path / 'run', command='')
  assert not (tmp_path / 'run').exists()
