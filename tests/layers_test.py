"""The arrows between the packages, read from the import statements.

  main, merge > processes > experiments > report, studies
    > finetuning, second_order, merging > gradients
    > models > tasks, task_vectors, checkpoints > typing

A module imports its own package and the layers below it, never one beside or
above it. Nothing is imported here: `ast` reads imports inside functions too.
"""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

_LAYERS = (  # lowest first
    {'typing', 'tree', 'freed_memory'},
    {'tasks', 'task_vectors', 'checkpoints'},
    {'models'},
    {'gradients'},
    {'finetuning', 'second_order', 'merging'},
    {'report', 'studies'},
    {'experiments'},
    {'processes'},
    {'main', 'merge'},
)
_RANK = {name: rank for rank, names in enumerate(_LAYERS) for name in names}
_COMMAND_LINES = {'main', 'merge'}
# They are handed functions: what computes a gradient is not their business.
_HANDED_FUNCTIONS = {'finetuning', 'second_order', 'merging'}

_DEVICE_MODULE = 'taskvec_jax.gradients.full_batch'
_DEVICE_NAMES = {
    'pmap',
    'shard_map',
    'make_mesh',
    'Mesh',
    'devices',
    'local_devices',
    'device_count',
    'local_device_count',
    'process_index',
    'process_count',
    'psum',
    'pmean',
    'pmax',
    'pmin',
    'all_gather',
    'axis_index',
}
_FLAG_MODULES = ('absl.app', 'absl.flags', 'ml_collections')
_UNSAFE_MODULES = {'pickle', 'cPickle', 'cloudpickle', 'dill', 'joblib'}


def violations(module, source):
  """Returns one sentence for each arrow that `source` breaks.

  Args:
    module: the dotted name of the module, such as 'taskvec_jax.models.ffn'.
    source: its text.
  """
  tree = ast.parse(source)
  mine = _package(module)
  if mine not in _RANK:
    return [f'{module}: {mine} stands in no layer']
  found = []
  for target in _imports(tree):
    root = target.partition('.')[0]
    if root == 'taskvec_jax':
      found += _broken_arrow(module, mine, _package(target))
    elif root in _UNSAFE_MODULES:
      found.append(f'{module} imports {root}, which runs code that it reads')
    elif any(part.startswith('_') for part in target.split('.')[1:]):
      found.append(f'{module} imports {target}, which is private')
    elif target.startswith(_FLAG_MODULES) and mine not in _COMMAND_LINES:
      found.append(f'{module} imports {target}, which is for command lines')
    elif target.startswith('.'):
      found.append(f'{module} has a relative import; write it in full')
  if module != _DEVICE_MODULE:
    found += [
        f'{module} uses {name}; only {_DEVICE_MODULE} knows devices'
        for name in sorted(_device_names(tree))
    ]
  if '_src' in {
      node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
  }:
    found.append(f'{module} reaches into a private _src')
  return found


def _package(module):
  parts = module.split('.')
  return parts[1] if len(parts) > 1 else 'taskvec_jax'


def _broken_arrow(module, mine, theirs):
  if theirs == mine:
    return []
  if theirs not in _RANK:
    return [f'{module} imports {theirs}, which stands in no layer']
  if mine in _HANDED_FUNCTIONS and theirs == 'gradients':
    return [f'{module} imports gradients; hand it the function instead']
  if _RANK[theirs] >= _RANK[mine]:
    return [f'{module} imports {theirs}, which is not below {mine}']
  return []


def _imports(tree):
  """Yields the full name of everything imported: `a.b` of `from a import b`."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parent = '.' * node.level + (node.module or '')
      yield from (f'{parent}.{alias.name}' for alias in node.names)


def _device_names(tree):
  """Returns the names of JAX's devices and collectives that code uses.

  Attributes of `jax` and `lax` only: an argument of one's own may well be
  called process_index.
  """
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and node.attr in _DEVICE_NAMES:
      root = ast.unparse(node.value).partition('.')[0]
      if root in ('jax', 'lax'):
        yield ast.unparse(node)
  for target in _imports(tree):
    root, _, name = target.rpartition('.')
    if root.partition('.')[0] == 'jax' and name in _DEVICE_NAMES:
      yield target


def _modules():
  for path in sorted((_ROOT / 'taskvec_jax').rglob('*.py')):
    parts = path.relative_to(_ROOT).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    if parts != ('taskvec_jax',):
      yield '.'.join(parts), path


@pytest.mark.parametrize(
    ('module', 'path'),
    [pytest.param(module, path, id=module) for module, path in _modules()],
)
def test_imports_point_down(module, path):
  assert violations(module, path.read_text(encoding='utf-8')) == []


def test_the_package_itself_imports_nothing():
  source = (_ROOT / 'taskvec_jax' / '__init__.py').read_text(encoding='utf-8')
  assert list(_imports(ast.parse(source))) == []


def test_experiments_are_the_only_importers_of_the_config():
  importers = {
      module
      for module, path in _modules()
      for target in _imports(ast.parse(path.read_text(encoding='utf-8')))
      if target == 'taskvec_jax.experiments.config'
  }
  packages = {_package(module) for module in importers}
  assert importers
  assert packages <= {'experiments', *_COMMAND_LINES}


@pytest.mark.parametrize(
    ('module', 'source', 'sentence'),
    [
        (
            'taskvec_jax.models.ffn',
            'from taskvec_jax.gradients import losses',
            'imports gradients, which is not below models',
        ),
        (
            'taskvec_jax.tasks.load',
            'def f():\n  import taskvec_jax.models.vit',
            'imports models, which is not below tasks',
        ),
        (
            'taskvec_jax.second_order.correction',
            'from taskvec_jax.gradients import full_batch',
            'imports gradients; hand it the function',
        ),
        (
            'taskvec_jax.report.page',
            'from taskvec_jax.experiments import config',
            'imports experiments, which is not below report',
        ),
        ('taskvec_jax.odds.ends', '', 'odds stands in no layer'),
        (
            'taskvec_jax.models.vit',
            'from taskvec_jax import odds',
            'imports odds, which stands in no layer',
        ),
        (
            'taskvec_jax.models.vit',
            'from ..typing import Array',
            'has a relative import',
        ),
        (
            'taskvec_jax.finetuning.minibatch',
            'import jax\nn = jax.device_count()',
            'uses jax.device_count',
        ),
        (
            'taskvec_jax.experiments.setting',
            'import jax\nx = jax.lax.psum(1, "a")',
            'uses jax.lax.psum',
        ),
        (
            'taskvec_jax.experiments.setting',
            'from jax import pmap',
            'uses jax.pmap',
        ),
        ('taskvec_jax.models.vit', 'from jax._src import core', 'is private'),
        (
            'taskvec_jax.models.vit',
            'import jax\nx = jax._src.core',
            'reaches into a private _src',
        ),
        ('taskvec_jax.checkpoints', 'import pickle', 'imports pickle'),
        (
            'taskvec_jax.experiments.rates',
            'from absl import flags',
            'is for command lines',
        ),
        (
            'taskvec_jax.tasks.load',
            'from ml_collections import config_flags',
            'is for command lines',
        ),
    ],
)
def test_a_broken_arrow_is_named(module, source, sentence):
  (found,) = violations(module, source)
  assert module in found
  assert sentence in found


def test_imports_downwards_and_names_of_ones_own_break_no_arrow():
  source = """
import jax
from taskvec_jax.gradients import full_batch
from taskvec_jax.experiments import config as config_lib
from taskvec_jax.typing import Params

def process_slice(process_index, devices):
  return config_lib.devices[process_index], full_batch.device_count
"""
  assert violations('taskvec_jax.experiments.setting', source) == []
