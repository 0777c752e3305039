"""Forgetting, disentanglement and analogies, end to end and by identities."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from taskvec_jax import checkpoints
from taskvec_jax.experiments import analogy
from taskvec_jax.experiments import forgetting
from taskvec_jax.experiments import negation
from taskvec_jax.experiments import negation_config
from taskvec_jax.experiments import negation_models
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.models import encoders
from taskvec_jax.models import heads
from taskvec_jax.report import negation_findings
from taskvec_jax.report import negation_page
from taskvec_jax.report import negation_results
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts
from taskvec_jax.task_vectors import arithmetic
from tests import problems
from tests.experiments import tiny_negation


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """One finished run: its folder and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, negation.run(tiny_negation.config(), folder, command='make it')


def test_every_task_is_forgotten_from_every_start(finished):
  _, results = finished
  found = {(row.seed, row.start, row.target) for row in results.forgetting}
  assert found == {
      (seed, start, target)
      for seed in (0,)
      for start in negation_results.STARTS
      for target in ('digits', 'faces')
  }
  for row in results.forgetting:
    assert (row.never is None) == (row.start == 'base')
    assert row.chance == {'digits': 0.1, 'faces': 0.5}[row.target]


def test_lambda_forgets_most_among_those_that_keep_the_control(finished):
  _, results = finished
  num_bound = 0
  for row in results.forgetting:
    kept = np.asarray(row.control_curve)
    allowed = kept >= 0.95 * kept[0]
    best = min(np.asarray(row.target_curve)[allowed])
    index = row.scalings.index(row.scaling)
    assert allowed[index] and row.target_curve[index] == best
    num_bound += min(row.target_curve) < best
  assert num_bound  # or the control would say nothing


def test_a_merge_minus_its_own_share_of_a_task_is_the_merge_of_the_others():
  base = problems.base_params()
  vectors = {task: problems.base_params(i) for i, task in enumerate('abc', 1)}
  start = forgetting.merged_start(base, vectors, 0.3)
  for task in vectors:
    minus = jax.tree.map(lambda x: -x, vectors[task])
    forgotten = arithmetic.edit(start.params, minus, 0.3)
    difference = problems.sub(forgotten, start.never[task])
    assert problems.norm(difference) < 1e-6
  assert problems.norm(problems.sub(start.params, start.never['a'])) > 0.1


@pytest.fixture(scope='module')
def setting(finished):
  """The setting of the finished run, at the images of its map."""
  del finished  # its pretraining is there
  config = tiny_negation.config()
  found = setting_lib.build(config, setting_lib.load_tasks(config), seed=0)
  data = {}
  for task, own in found.data.items():
    index = np.linspace(0, len(own.test.labels) - 1, config.map_images)
    index = index.round().astype(int)
    test = setting_lib.Arrays(
        own.test.inputs[index], own.test.labels[index], len(index)
    )
    data[task] = own._replace(test=test)
  return found._replace(data=data)


@pytest.fixture(scope='module')
def task_vectors(finished, setting):
  """Those of the finished run, from its checkpoints."""
  folder = finished[0] / 'checkpoints' / 'seed0' / 'empirical'
  return {
      task: arithmetic.task_vector(
          checkpoints.restore_latest(folder / task).tree['best'],
          setting.base_params,
      )
      for task in setting.data
  }


@pytest.mark.parametrize('model', negation_results.MODELS)
def test_the_map_counts_the_inputs_on_which_alone_and_merged_differ(
    finished, setting, task_vectors, model
):
  _, results = finished
  (found,) = (one for one in results.disentanglement if one.model == model)

  def logits(task, params):
    features = encoders.encode(
        setting.module, params, setting.data[task].test.inputs
    )
    return heads.logits(setting.heads[task], features)

  @functools.cache
  def predict(task, first, second):
    step = arithmetic.weighted_sum(
        task_vectors, {'digits': first, 'faces': second}
    )
    base = setting.base_params
    if model == 'non-linear':
      params = arithmetic.edit(base, step)
      return np.argmax(np.asarray(logits(task, params)), axis=1)
    value, change = jax.jvp(functools.partial(logits, task), (base,), (step,))
    return np.argmax(np.asarray(value + change), axis=1)

  def differ(task, alone, merged):
    return np.mean(predict(task, *alone) != predict(task, *merged))

  for i, first in enumerate(found.scalings):
    for j, second in enumerate(found.scalings):
      merged = (first, second)
      expected = differ('digits', (first, 0.0), merged) + differ(
          'faces', (0.0, second), merged
      )
      # Within an image that lies on a boundary.
      assert abs(found.error[i][j] - expected) * 40 < 1.5
  assert found.error[1][1] == 0 and np.max(found.error) > 0.1
  right = np.mean(
      predict('faces', 0.0, 1.0) == setting.data['faces'].test.labels
  )
  assert abs(found.alone['faces'] - right) * 40 < 1.5


def test_inverting_the_images_of_a_task_twice_gives_them_back(setting):
  once = negation_models.inverted(setting, 'digits')
  inputs = setting.data['digits'].train.inputs
  np.testing.assert_array_equal(
      once.data['digits'].train.inputs.astype(int) + inputs, 255
  )
  twice = negation_models.inverted(once, 'digits')
  np.testing.assert_array_equal(twice.data['digits'].train.inputs, inputs)
  assert list(once.data) == ['digits'] and once.scaling == {'digits': 1.0}


def test_the_analogy_is_c_plus_b_minus_a(finished, setting, task_vectors):
  folder = finished[0] / 'checkpoints' / 'seed0' / 'empirical'

  def read(_, task, name=''):
    return checkpoints.restore_latest(folder / (name or task)).tree['best']

  # One candidate, far enough from the base to be told from its neighbours.
  found = analogy.analogy(
      setting, read, known='digits', asked='faces', scalings=(4.0,), seed=0
  )
  b = arithmetic.task_vector(
      read(setting, 'digits', 'inverted_digits'), setting.base_params
  )
  target = setting.data['faces'].test

  def right(signs):
    step = arithmetic.weighted_sum({**task_vectors, 'b': b}, signs)
    params = arithmetic.edit(setting.base_params, step, 4.0)
    features = encoders.encode(setting.module, params, 255 - target.inputs)
    predicted = np.argmax(heads.logits(setting.heads['faces'], features), 1)
    return np.mean(np.asarray(predicted) == target.labels)

  expected = right({'faces': 1.0, 'b': 1.0, 'digits': -1.0})
  assert abs(found.accuracy['analogy'] - expected) * 40 < 1.5
  alone = right({'faces': 1.0, 'b': 0.0, 'digits': 0.0})
  assert abs(found.accuracy['C alone'] - alone) * 40 < 1.5
  assert abs(expected - right({'faces': 1.0, 'b': 1.0, 'digits': 1.0})) > 0.05


def test_finished_models_are_read_back_and_the_rest_is_redone(
    finished, monkeypatch
):
  folder, results = finished
  monkeypatch.setattr(negation_page, 'write_page', lambda *_: None)
  lines = (folder / 'metrics.jsonl').read_text()
  for part in ('map-0', 'analogy-0'):
    (folder / 'parts' / f'{part}.json').unlink()
  again = negation.run(tiny_negation.config(), folder, command='make it')
  assert dataclasses.replace(again, seconds=results.seconds) == results
  assert (folder / 'metrics.jsonl').read_text() == lines
  assert results_lib.read(folder / 'results.json', type(again)) == again


def test_the_page_and_the_table_say_what_was_measured(finished):
  folder, results = finished
  page = (folder / 'report.html').read_text()
  assert 'Which model should forget?' in page
  assert page.count('data:image/png') == 3
  table = negation.summary(results)
  assert 'negation forgets one task' in table
  assert table.isascii()
  assert max(map(len, table.splitlines())) <= 96


def test_what_a_run_left_out_is_not_judged(finished):
  _, results = finished
  bare = dataclasses.replace(
      results, forgetting=[], disentanglement=[], analogies=[]
  )
  found = negation_findings.claims(bare)
  assert {one.verdict for one in found} == {verdicts.NOT_MEASURED}
  assert {one.number for one in found} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'tasks': ('digits',)}, 'two tasks at least'),
        ({'scalings': (0.5, 1.0)}, r'rise from 0.*\(0\.5, 1\.0\)'),
        ({'scalings': (0.0, float('nan'))}, 'config.scalings must'),
        ({'control': 1.2}, r'control must lie in \[0, 1\], but is 1\.2'),
        ({'pair': ('digits',)}, 'pair must name two different tasks'),
        ({'map_scalings': (0.0, float('inf'))}, 'map_scalings must be finite'),
        ({'map_images': -1}, 'map_images must be at least 0 but is -1'),
        ({'learning_rate': 0.3}, r'learning_rate is 0\.3, but has no effect'),
    ],
)
def test_settings_without_sense_are_refused_before_any_work(changes, said):
  with pytest.raises(ValueError, match=said):
    negation_config.check(tiny_negation.config(**changes))


@pytest.mark.parametrize('field', ['targets', 'pair', 'analogy'])
def test_an_unknown_task_is_refused_before_any_work(field, tmp_path):
  config = tiny_negation.config(**{field: ('cats', 'digits')})
  with pytest.raises(
      ValueError, match=f"config.{field} has 'cats'.*are digits, faces"
  ):
    negation.run(config, tmp_path / 'run', command='')
  assert not (tmp_path / 'run').exists()
