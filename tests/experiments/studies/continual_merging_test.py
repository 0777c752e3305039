"""The study of Perturb-and-Merge, end to end, and what it refuses."""

import dataclasses
import math

import numpy as np
import pytest

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments.studies.continual_merging import (
    config as study_config,
)
from taskvec_jax.experiments.studies.continual_merging import quadratic
from taskvec_jax.experiments.studies.continual_merging import records
from taskvec_jax.experiments.studies.continual_merging import runs
from taskvec_jax.experiments.studies.continual_merging import study
from taskvec_jax.experiments.studies.continual_merging import tasks as tasks_lib
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts
from taskvec_jax.tasks import packaged


def config(**changes):
  return dataclasses.replace(
      study_config.ContinualMergingStudyConfig(
          name='tiny',
          seeds=(0,),
          tasks=('digits', 'faces'),
          permuted_task='digits',
          num_permutations=2,
          model=config_lib.FFNModel(widths=(6,)),
          max_train=40,
          max_test=40,
          pretraining=config_lib.Pretraining(num_epochs=0),
          empirical=config_lib.Empirical(max_epochs=2, batch_size=10),
          fisher_examples=20,
          noise_draws=2,
          epsilons=(0.5, 0.25, 0.125),
      ),
      **changes,
  )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, study.run(config(), folder, command='make it')


def test_the_run_ends_in_results_and_a_page(finished):
  folder, results = finished
  assert results_lib.read(folder / 'results.json', type(results)) == results
  page = (folder / 'report.html').read_text()
  for section in results.sections:
    assert section.title in page
    for curves in section.curves:
      assert (folder / 'figures' / f'{curves.name}.png').stat().st_size > 0
  assert 'NaN' not in (folder / 'results.json').read_text()
  assert 'Perturb-and-Merge' in page
  assert len(study.summary(results).splitlines()) > 30


def test_the_first_claim_holds_to_rounding(finished):
  _, results = finished
  first = results.sections[0]
  assert [f.verdict for f in first.findings[:3]] == [verdicts.HOLDS] * 3


def test_a_stored_sequence_is_not_trained_again(finished, monkeypatch):
  folder, results = finished
  for part in ('coefficient', 'accuracy'):
    (folder / 'parts' / f'{part}.json').unlink()
  # Whatever would train ends the test.
  monkeypatch.setattr(runs, 'run', None)
  again = study.run(config(), folder, command='make it')
  assert again.sections == results.sections


def test_every_method_has_its_walk_and_every_rule_its_coefficient(finished):
  _, results = finished
  table = results.sections[3].tables[0]
  assert len(table.rows) == 4 + len(records.METHODS)
  for curves in results.sections[2].curves:
    for panel in curves.panels:
      assert [s.label for s in panel.series] == list(
          dict.fromkeys(s.label for s in panel.series)
      )
      assert {s.label for s in panel.series} == set(records.RULES)
      for series in panel.series:
        assert all(0 <= y <= 1 for y in series.y if y is not None)


def test_a_training_that_diverges_names_task_method_and_seed():
  diverging = config(
      empirical=config_lib.Empirical(
          max_epochs=2, batch_size=10, learning_rate=1e38
      )
  )
  with pytest.raises(
      FloatingPointError,
      match="packaged tasks, task 'digits', a model for each task, seed 4: .*"
      ' epoch',
  ):
    runs.run(diverging, records.PACKAGED, 4)


def test_permuted_tasks_are_one_another_with_shuffled_pixels():
  task = packaged.load_digits()
  tasks = tasks_lib.permuted(task, 3, seed=0)
  first, second, third = tasks.values()
  np.testing.assert_array_equal(first.train.images, task.train.images)
  for other in (second, third):
    for split in ('train', 'test'):
      a, b = (getattr(t, split).images.reshape(-1, 64) for t in (task, other))
      assert (a != b).any()
      np.testing.assert_array_equal(np.sort(a), np.sort(b))
    # The same pixel goes to the same place in every split.
    sums = [
        np.sort(t.test.images.sum(0, dtype=int).ravel()) for t in (task, other)
    ]
    np.testing.assert_array_equal(sums[0], sums[1])
  assert (second.train.images != third.train.images).any()
  again = tasks_lib.permuted(task, 3, seed=0)
  np.testing.assert_array_equal(
      again['permutation 3'].train.images, third.train.images
  )


def test_perturbing_a_quadratic_is_undone_by_a_line_search():
  found = quadratic.measure(
      1, num_tasks=2, epsilon=1.0, probability=0.5, ridge=0.1
  )
  assert found.refitted < 1e-6 and found.stationarity < 1e-10
  assert max(found.differences) < 1e-6
  assert found.excess[quadratic.HESSIAN] == pytest.approx(
      found.excess[quadratic.SEARCHED], rel=1e-9
  )
  assert found.joint == min(found.joint, *found.excess.values())
  assert math.isfinite(sum(found.excess.values()))


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'num_permutations': 1}, 'num_permutations must be at least 2'),
        ({'tasks': ('digits',)}, "at least two tasks.*'digits'"),
        ({'epsilon': 0.0}, 'epsilon must be positive .* is 0.0'),
        ({'probability': 0.7}, r'in \(0, 0.5\]'),
        (
            {'ewc_strength': -1.0},
            'ewc_strength must be positive and finite but is -1',
        ),
        (
            {'ridge': float('nan')},
            'ridge must be positive and finite but is nan',
        ),
        ({'epsilons': (0.1, 0.2, 0.3)}, 'epsilons .* that fall'),
        ({'noise_draws': 1}, 'noise_draws must be at least 2 but is 1'),
        ({'fisher_examples': 0}, 'fisher_examples must be at least 1'),
        ({'tasks': ('digits', 'face')}, "tasks names the unknown task 'face'"),
        ({'permuted_task': 'mnst'}, "permuted_task names the unknown.*'mnst'"),
        (
            {'empirical': config_lib.Empirical(cosine=True)},
            'have no meaning here',
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, sentence, tmp_path):
  with pytest.raises(ValueError, match=sentence):
    study.run(config(**changes), tmp_path / 'x', command='make it')
  assert not (tmp_path / 'x').exists()
