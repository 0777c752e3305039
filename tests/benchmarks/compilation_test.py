import json
import time

import jax
import pytest

from benchmarks import compilation
from benchmarks import timing
from taskvec_jax import main
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import setting
from taskvec_jax.finetuning import gradient_descent

CONFIG = config_lib.Config(
    name='small',
    tasks=('a',),
    model=config_lib.FFNModel(widths=(6, 4)),
    image_size=7,
    batch_size=4,
)


def test_the_compilers_time_is_a_part_of_the_first_call():
  found = compilation.compile_passes(CONFIG, num_examples=6)
  assert set(found) == {'gradient', 'second order'}
  for seconds, in_compiler in found.values():
    assert 0 < in_compiler < seconds


def test_a_run_ends_after_two_steps_and_says_when_the_first_ran(
    monkeypatch, capsys
):
  steps = []

  def run(_):
    setting.load_tasks(CONFIG)
    setting.build(CONFIG, {}, seed=0)

    def loss(params):
      steps.append(params)
      return jax.numpy.float32(1.0), params

    for _ in gradient_descent.trajectory(
        {'a': jax.numpy.ones(3)}, loss, learning_rate=0.1, num_epochs=5
    ):
      pass

  monkeypatch.setattr('sys.argv', ['compilation'])
  monkeypatch.setattr(main, 'parse', lambda argv: argv)
  monkeypatch.setattr(main, 'main', run)
  monkeypatch.setattr(setting, 'load_tasks', lambda _: time.sleep(0.02))
  monkeypatch.setattr(setting, 'build', lambda *_, seed: time.sleep(0.03))
  with pytest.raises(SystemExit):
    compilation.start_of_run(['--config=a'], time.time())
  assert len(steps) == 2
  found = compilation.phases(json.loads(capsys.readouterr().out)['at'])
  assert found['tasks'] >= 0.02
  assert found['base and heads'] >= 0.03
  assert 0 <= found['imports']
  assert 0 < found['program']


def test_phases_add_up_to_the_first_step():
  at = {'imports': 3.0, 'tasks': 4.5, 'base and heads': 5.0, 'program': 7.0}
  assert compilation.phases(at) == {
      'imports': 3.0,
      'tasks': 1.5,
      'base and heads': 0.5,
      'program': 2.0,
  }


def test_only_second_runs_have_a_bar():
  slow = timing.Quartiles(11.0, 11.0, 11.0)
  start = compilation.Start('ffn', 'filled', slow, slow, {})
  assert not compilation.passes(start)
  assert compilation.passes(start._replace(cache='empty'))
  fast = timing.Quartiles(9.0, 9.5, 11.0)
  assert compilation.passes(start._replace(seconds=fast))
