"""What the README promises is what the repository has."""

import importlib
import pathlib
import re

import jax
import pytest

from taskvec_jax.tasks import load
from taskvec_jax.tasks import packaged

_ROOT = pathlib.Path(__file__).parents[1]
_TEXT = (_ROOT / 'README.md').read_text(encoding='utf-8')


def fenced(language):
  return re.findall(rf'^```{language}\n(.*?)^```', _TEXT, re.M | re.S)


def first_cells():
  """Returns what stands in backticks in the first cell of each table row."""
  rows = re.findall(r'^\| (`.*?) \|', _TEXT, re.M)
  return [re.findall(r'`([^`]+)`', row) for row in rows]


def test_the_two_commands_stand_alone_in_their_blocks():
  commands = [
      block.strip() for block in fenced('sh') if block.startswith('pip install')
  ]
  assert commands == [
      "pip install -e '.[test]' && python -m taskvec_jax.main"
      ' --config=configs/ffn.py',
      "pip install -e '.[test]' && pytest",
  ]


def test_the_notebook_example_runs_and_the_correction_closes_the_gap(capsys):
  (example,) = fenced('python')
  names = {}
  exec(example, names)  # pylint: disable=exec-used
  gap, left = (
      float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()
  )
  assert 0 < left < gap / 3
  assert jax.tree.structure(names['corrected']) == jax.tree.structure(
      names['base']
  )


def test_every_public_function_of_the_table_exists():
  names = [
      name for cell in first_cells() for name in cell if name.count('.') == 2
  ]
  assert len(names) > 10
  for name in names:
    module, _, function = name.rpartition('.')
    module = importlib.import_module(f'taskvec_jax.{module}')
    assert callable(getattr(module, function)), name


def test_every_file_and_folder_of_the_code_table_exists():
  table = _TEXT.partition('## The code')[2].partition('## ')[0]
  paths = re.findall(r'^\| `([^`]+)` \|', table, re.M)
  assert len(paths) > 10
  assert [path for path in paths if not (_ROOT / path).exists()] == []


def test_every_link_to_a_file_leads_somewhere():
  links = re.findall(r'\]\(([^)#:]+)\)', _TEXT)
  assert links
  assert [link for link in links if not (_ROOT / link).exists()] == []


def test_the_table_of_tasks_is_that_of_the_packaged_tasks():
  table = _TEXT.partition('| Task | Images |')[2].partition('\n\n')[0]
  names = re.findall(r'^\| `(\w+)` \|', table, re.M)
  assert names == [*packaged.PACKAGED, 'fashion_mnist']


# The other sets take seconds to draw or to read.
@pytest.mark.parametrize('name', ['digits', 'textures', 'faces'])
def test_the_sizes_in_the_table_are_those_of_the_tasks(name):
  task = load.load_task(name)
  sizes = [len(s.labels) for s in (task.train, task.validation, task.test)]
  row = re.search(rf'^\| `{name}` \|.*$', _TEXT, re.M)[0]
  assert ' / '.join(map(str, sizes)) in row
  assert f'| {task.num_classes} |' in row
