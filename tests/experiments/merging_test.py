"""The comparison of merging methods, end to end and by identities."""

import dataclasses
import html
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import merging
from taskvec_jax.experiments import merging_data
from taskvec_jax.experiments import merging_gaps
from taskvec_jax.experiments import merging_inputs
from taskvec_jax.experiments import merging_methods
from taskvec_jax.experiments import merging_models
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import fisher
from taskvec_jax.merging import ties
from taskvec_jax.report import merging_table
from taskvec_jax.report import merging_words
from taskvec_jax.report import results as results_lib
from taskvec_jax.task_vectors import arithmetic
from tests.experiments import tiny_merging

_ROOT = pathlib.Path(__file__).parents[2]
_ROUNDING = 1e-5  # of a distance relative to the way that was gone


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One run of all methods: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, merging.run(tiny_merging.config(), folder, command='make it')


@pytest.fixture(scope='module')
def one_epoch(finished, tmp_path_factory):
  """A run of one epoch, of some methods; it compiles nothing new."""
  del finished
  config = tiny_merging.config(
      num_epochs=1, methods=('average', 'task_arithmetic', 'atm')
  )
  return merging.run(config, tmp_path_factory.mktemp('one'), command='')


@pytest.fixture(scope='module')
def empirical(finished, tmp_path_factory):
  """A run with Adam on mini-batches, of some methods."""
  del finished
  config = tiny_merging.config(
      regimes=('empirical',), methods=('average', 'atm', 'second_order')
  )
  return merging.run(config, tmp_path_factory.mktemp('adam'), command='')


@pytest.fixture(scope='module')
def models(finished):
  """The setting and the models of the run, read back from its folder."""
  folder, _ = finished
  config = tiny_merging.config()
  setting = setting_lib.build(config, setting_lib.load_tasks(config), seed=0)
  return setting, merging_models.models(config, setting, folder, 0, 'exact')


def row(results, method, rule=''):
  (found,) = (
      entry
      for entry in results.merges
      if (entry.method, entry.rule) == (method, rule)
  )
  return found


def plain(results):
  """Returns the results without times, which differ from run to run."""
  found = dataclasses.asdict(results)
  del found['seconds']
  for entry in found['merges']:
    del entry['seconds']
  return found


def test_every_method_has_a_row_for_each_way_to_scale_it(finished):
  _, results = finished
  expected = {(name, '') for name in merging_words.REFERENCES}
  for name, method in merging_methods.METHODS.items():
    if method.scaling is not None:
      expected.add((name, 'fixed'))
    if method.is_tuned:
      expected.add((name, 'validation'))
    if method.scaling is None and not method.is_tuned:
      expected.add((name, ''))
  assert {(entry.method, entry.rule) for entry in results.merges} == expected
  assert len(results.merges) == len(expected)


def test_the_fishers_images_are_a_random_choice(models, monkeypatch):
  setting, found = models
  vectors = {
      task: arithmetic.task_vector(params, setting.base_params)
      for task, params in found.finetuned.items()
  }
  seen = []
  monkeypatch.setattr(
      fisher, 'diagonal_fisher', lambda fn, params, inputs: seen.append(inputs)
  )
  for seed in (0, 0, 1):
    merging_data.diagonal_fishers(setting, vectors, at_most=4, seed=seed)
  num = len(vectors)
  for index, task in enumerate(vectors):
    first, again, other = seen[index::num]
    images = np.asarray(setting.data[task].train.inputs)
    assert len(first) == 4
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.any(first != images[:4])  # sets are sorted by class
    for one in first:
      assert np.any(np.all(images == one, axis=tuple(range(1, images.ndim))))


def test_ranks_are_of_each_matrix_and_no_more_than_full(finished):
  folder, results = finished
  assert {one.regime for one in results.ranks} == set(results.num_epochs)
  assert len(results.ranks) == 2 * len(results.num_epochs)  # widths (12, 8)
  for one in results.ranks:
    assert set(one.tasks) == {task.name for task in results.setting.tasks}
    assert 0 < max(one.tasks.values()) <= one.full
    assert 0 < one.total <= one.full
    assert one.total <= sum(one.tasks.values())
    assert one.leaf in (folder / 'report.html').read_text()


def test_every_method_has_words():
  assert set(merging_words.METHODS) == set(merging_methods.METHODS)


def test_the_run_leaves_its_results_and_its_page(finished):
  folder, results = finished
  assert results_lib.read(folder / 'results.json', type(results)) == results
  page = html.unescape((folder / 'report.html').read_text())
  for words in merging_words.METHODS.values():
    assert words.label in page
  assert not list(folder.rglob('*.tmp'))


def test_task_arithmetic_at_1_over_t_is_the_average(finished):
  _, results = finished
  first = row(results, 'average')
  second = row(results, 'task_arithmetic', 'validation')
  assert second.scaling == 0.5
  assert second.accuracy == first.accuracy
  assert second.distance == pytest.approx(first.distance, rel=1e-5)
  assert first.distance > 1e-3  # there is something to agree on


def test_after_one_epoch_the_average_is_multitask_training(one_epoch):
  for method, rule in (
      ('average', ''),
      ('task_arithmetic', 'validation'),
      ('atm', ''),
  ):
    found = row(one_epoch, method, rule)
    assert found.relative_distance < _ROUNDING
    assert found.cosine == pytest.approx(1, abs=1e-5)
  assert row(one_epoch, 'task_arithmetic', 'fixed').relative_distance > 0.1


def test_atm_with_single_epoch_rounds_is_multitask_training(finished):
  _, results = finished
  assert row(results, 'atm').relative_distance < _ROUNDING
  assert row(results, 'average').relative_distance > 0.01


def test_a_corrected_merge_is_as_far_as_its_prediction_leaves(finished):
  _, results = finished
  (gap,) = results.gaps
  assert gap.gap == pytest.approx(row(results, 'average').distance, rel=1e-4)
  left = {one.name: one.left * gap.gap for one in gap.predictions}
  for method, name in (
      ('second_order', 'second order'),
      ('linear_response', 'linear response'),
  ):
    assert row(results, method).distance == pytest.approx(left[name], rel=1e-3)


def test_corrected_merges_are_ten_times_nearer_at_small_steps(finished):
  _, results = finished
  assert [run.num_epochs for run in results.small_steps] == [2]
  bar = merging_table.bar(results)
  assert min(bar) >= 10
  assert bar.holds


def test_a_row_is_the_method_called_by_hand(finished, models):
  _, results = finished
  setting, trained = models
  task_vectors = {
      task: arithmetic.task_vector(params, setting.base_params)
      for task, params in trained.finetuned.items()
  }
  merged = ties.ties(task_vectors, density=0.2)
  found = row(results, 'ties', 'fixed')
  place = merging_gaps.place(setting, merged, trained.multitask)
  assert found.distance == pytest.approx(place.distance, rel=1e-5)
  assert found.cosine == pytest.approx(place.cosine, rel=1e-5)
  params = arithmetic.edit(setting.base_params, merged)
  test = evaluation.place(setting, 'test')
  assert found.accuracy == evaluation.accuracies(
      test, dict.fromkeys(setting.data, params)
  )


def test_a_curve_is_the_accuracy_over_that_of_the_own_models(finished, models):
  _, results = finished
  setting, trained = models
  validation = evaluation.place(setting, 'validation')
  own = evaluation.accuracies(validation, trained.finetuned)
  task_vectors = {
      task: arithmetic.task_vector(params, setting.base_params)
      for task, params in trained.finetuned.items()
  }
  params = arithmetic.merge(
      setting.base_params, task_vectors, dict.fromkeys(task_vectors, 0.5)
  )
  merged = evaluation.accuracies(
      validation, dict.fromkeys(setting.data, params)
  )
  expected = np.mean([merged[task] / own[task] for task in own])
  (score,) = row(results, 'task_arithmetic', 'validation').curve
  assert score == pytest.approx(expected, rel=1e-6)


def test_each_row_says_what_it_read(finished):
  _, results = finished
  sizes = {
      field: sum(getattr(task, field) for task in results.setting.tasks)
      for field in ('num_train', 'num_validation', 'num_test')
  }
  assert row(results, 'ties', 'fixed').examples == {}
  assert row(results, 'ties', 'validation').examples == {
      'validation': sizes['num_validation']
  }
  assert row(results, 'adamerging_task').examples == {
      'test inputs': sizes['num_test']
  }
  assert row(results, 'fisher').examples == {'training inputs': 2 * 4}
  assert row(results, 'regmean').examples == {
      'training inputs': sizes['num_train']
  }
  assert row(results, 'linear_response').examples == {
      'training': sizes['num_train']
  }
  assert row(results, 'grad_sign', 'validation').examples == {
      'training': 2 * 2,
      'validation': sizes['num_validation'],
  }


def test_references_are_where_they_must_be(finished):
  _, results = finished
  assert row(results, 'multitask').distance == 0
  assert row(results, 'base').relative_distance == pytest.approx(1)
  assert row(results, 'finetuned').distance is None
  for entry in results.merges:
    for value in entry.accuracy.values():
      assert value * 50 == pytest.approx(round(value * 50), abs=1e-4)


def test_a_run_that_lost_parts_goes_on_to_the_same_results(finished):
  folder, results = finished
  metrics = (folder / 'metrics.jsonl').read_text()
  for part in ('merging-exact-0-dare', 'gap-exact-0'):
    (folder / 'parts' / f'{part}.json').unlink()
  (folder / 'results.json').unlink()
  again = merging.run(tiny_merging.config(), folder, command='make it')
  assert plain(again) == plain(results)
  assert (folder / 'metrics.jsonl').read_text() == metrics


def test_the_empirical_regime_has_no_corrected_merges(empirical):
  methods = {entry.method for entry in empirical.merges}
  assert methods == {*merging_words.REFERENCES, 'average', 'atm'}
  assert empirical.gaps == [] and empirical.small_steps == []
  # Rounds of one epoch: not what averaging once gives.
  first, second = row(empirical, 'average'), row(empirical, 'atm')
  assert first.relative_distance != pytest.approx(second.relative_distance)


def test_the_summary_fits_a_terminal(finished):
  text = merging.summary(finished[1])
  assert text.isascii()
  assert max(len(line) for line in text.splitlines()) <= 96
  assert 'Labelled validation images' in text


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'methods': ('tie',)}, r"'tie', but the methods are average, .*atm"),
        ({'methods': ('ties', 'ties')}, 'no method twice'),
        ({'scalings': ()}, r'scalings must rise, 1 or more .* is \(\)'),
        ({'scalings': (0.5, 0.2)}, 'scalings must rise, 1 or more'),
        ({'scalings': (-0.5, 0.2)}, r'scalings must .* all in \[0, inf\)'),
        ({'max_epochs': 7}, 'max_epochs is 7, but has no effect'),
        (
            {'numbers': merging_inputs.Numbers(ties_density=1.2)},
            r'numbers.ties_density must lie in \[0, 1\], but is 1.2',
        ),
        (
            {'numbers': merging_inputs.Numbers(atlas_steps=0)},
            'numbers.atlas_steps must be positive and finite but is 0',
        ),
        (
            {'numbers': merging_inputs.Numbers(breadcrumbs_gamma=0.5)},
            'breadcrumbs_beta must not exceed breadcrumbs_gamma',
        ),
        (
            {'num_epochs': 3, 'numbers': merging_inputs.Numbers(atm_epochs=2)},
            'atm_epochs is 2, but must divide the 3 epochs of the exact regime',
        ),
        (
            {'empirical': config_lib.Empirical(task_epochs=('faces=30',))},
            'task_epochs must be empty',
        ),
    ],
)
def test_a_wrong_setting_ends_before_any_work(changes, sentence, tmp_path):
  folder = tmp_path / 'work'
  with pytest.raises(ValueError, match=sentence):
    merging.run(tiny_merging.config(**changes), folder, command='')
  assert not folder.exists()


def test_the_command_line_knows_the_comparison(tmp_path):
  done = subprocess.run(
      [
          sys.executable,
          '-m',
          'taskvec_jax.main',
          f'--config={_ROOT / "configs" / "merging.py"}',
          f'--workdir={tmp_path / "work"}',
          "--config.methods=('tie',)",
      ],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("taskvec_jax: config.methods has 'tie', but")
  assert 'Traceback' not in done.stderr
