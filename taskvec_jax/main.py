"""Command line of a run.

  python -m taskvec_jax.main --config=configs/ffn.py
  python -m taskvec_jax.main --config=configs/ffn.py --config.num_epochs=3 \
      --workdir=runs/mine

The same command on every host makes them one run (`processes`): by itself on a
TPU pod and in a Slurm step, elsewhere with --coordinator=HOST:PORT
--num_processes=N --process_id=I. --num_processes=N alone starts N processes
here.

Errors are one sentence on standard error and exit status 2 (a wrong call) or 1
(a run that failed); `--verbosity=1` adds the traceback.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import importlib
import os
import pathlib
import re
import shlex
import sys
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from taskvec_jax import freed_memory
from taskvec_jax.experiments import cache
from taskvec_jax.experiments import config_values
from taskvec_jax.gradients import full_batch
from taskvec_jax.processes import child
from taskvec_jax.processes import cluster
from taskvec_jax.processes import parent

# By the class of the config. Each has run(config, folder, *, command), which
# writes results.json and report.html, and summary(results), the text that a run
# ends with. Imported when it is asked for: all of them take seconds.
_EXPERIMENTS = {
    'Config': 'task_arithmetic',
    'MergingConfig': 'merging',
    'ATMConfig': 'atm',
    'NegationConfig': 'negation',
    'ForgettingStudyConfig': 'studies.forgetting.study',
    'LinearTeachersStudyConfig': 'studies.linear_teachers.study',
    'ProvableEditingStudyConfig': 'studies.provable_editing.study',
    'ContinualMergingStudyConfig': 'studies.continual_merging.study',
    'SparsePredictorsStudyConfig': 'studies.sparse_predictors.study',
}

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, such as configs/ffn.py.'
)
_INTERRUPTED = 130  # as shells count it

_WORKDIR = flags.DEFINE_string(
    'workdir',
    '',
    'Folder of the run; one that exists is gone on with. Default: a new folder'
    ' under runs/ named after config and time. Of several processes the first'
    ' alone uses it.',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', '', 'HOST:PORT of process 0, in a run of several processes.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes',
    None,
    'Number of processes of the run; without the two flags beside it all are'
    ' started here.',
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Which of the processes this is, from 0.'
)


def parse(argv: Sequence[str]) -> Sequence[str]:
  """Returns the arguments left after flags; ends on a wrong one."""
  try:
    _check_config_path(argv)
    rest = flags.FLAGS(list(argv))
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    if not flags.FLAGS['config'].present:
      raise ValueError('name a config, such as --config=configs/ffn.py')
    if rest[1:]:
      raise ValueError(f'{rest[1]!r} is no flag; flags begin with --')
    config = _CONFIG.value  # a config file that failed raises when it is read
    if type(config).__name__ not in _EXPERIMENTS:
      raise ValueError(
          f'the config is a {type(config).__name__}, but must be one of'
          f' {", ".join(_EXPERIMENTS)}'
      )
    config_values.check(config)
    _cluster()
    return rest
  # Whatever the user's config file raises while it runs ends here too.
  except Exception as error:  # pylint: disable=broad-exception-caught
    return _fail(2, _sentence(error), error)


def main(argv: Sequence[str]) -> None:
  """Runs the experiment and prints what was claimed and what was measured."""
  del argv  # parse has refused anything that is no flag
  if child.is_child():
    child.join()
  elif asked := _cluster():
    command = [sys.executable, *sys.orig_argv[1:]]
    sys.exit(parent.supervise(asked, command))
  config = _CONFIG.value
  command = shlex.join(['python', '-m', 'taskvec_jax.main', *sys.argv[1:]])
  # GPUs and TPUs multiply float32 matrices in fewer bits unless they are told.
  jax.config.update('jax_default_matmul_precision', 'highest')
  _use_compilation_cache()
  # Kernels of ViT-B/32 have 2.25 MB; smaller ones are needed again at once.
  freed_memory.give_back(2**21)
  # Hosts have clocks of their own.
  workdir = full_batch.text_from_first(
      lambda: _WORKDIR.value or _new_workdir(config.name)
  )
  child.tell(workdir=workdir)
  is_first = full_batch.process()[0] == 0
  if is_first:
    print(
        f'Working in {workdir}. If this run is stopped, the same command with'
        f' --workdir={workdir} goes on from there.',
        flush=True,
    )
  try:
    experiment = importlib.import_module(
        f'taskvec_jax.experiments.{_EXPERIMENTS[type(config).__name__]}'
    )
    results = experiment.run(config, workdir, command=command)
  except (ValueError, ArithmeticError, OSError) as error:
    if child.is_of_a_peer(error):
      raise
    _fail(2 if isinstance(error, ValueError) else 1, str(error), error)
  except KeyboardInterrupt as error:
    again = f'the same command with --workdir={workdir} goes on from there'
    _fail(_INTERRUPTED, f'stopped; {again}', error)
  else:
    if is_first:
      page = pathlib.Path(workdir) / 'report.html'
      print(experiment.summary(results))
      print(f'\nThe page with the results: {page}')


def _cluster() -> cluster.Cluster | None:
  return cluster.find(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  )


def _new_workdir(name: str) -> str:
  now = datetime.datetime.now().strftime('%Y-%m-%d_%H%M%S')
  return os.path.join('runs', f'{name}_{now}')


def _use_compilation_cache() -> None:
  """Keeps compiled programs, so that a second run starts at once."""
  folder = cache.cache_folder() / 'xla'
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def _check_config_path(argv: Sequence[str]) -> None:
  for argument, following in zip(argv, [*argv[1:], ''], strict=True):
    name, has_value, value = argument.partition('=')
    if name not in ('--config', '-config'):
      continue
    path = (value if has_value else following).partition(':')[0]
    if not os.path.isfile(path):
      raise ValueError(
          f'there is no config file {path!r}; those of the project lie in'
          ' configs/, beside the package'
      )


def _sentence(error: Exception) -> str:
  """Returns what a user needs to know of an error of the command line."""
  unknown = re.search(
      r"Field (\w+) not found on dataclass <class '(\S+)\.(\w+)'>", str(error)
  )
  if unknown:
    field, module, owner = unknown.groups()
    known = getattr(sys.modules[module], owner)
    names = ', '.join(one.name for one in dataclasses.fields(known))
    return f'the config has no field {field!r}; {owner} has {names}'
  if isinstance(error, flags.IllegalFlagValueError):
    said, is_of_file, trace = str(error).partition('Error whilst parsing')
    if not is_of_file:
      return f'wrong type of value, {said}'
    # What get_config raised ends a traceback, which is told with --verbosity.
    last = trace.strip().splitlines()[-1]
    if 'get_config() takes 0 positional' in last:
      return 'the config file has no variants, but a colon names one'
    return f'the config file failed: {last}'
  if isinstance(error, AttributeError) and 'get_config' in str(error):
    return 'the config file has no function get_config'
  return str(error) or type(error).__name__


def _fail(status: int, sentence: str, error: BaseException) -> NoReturn:
  logging.debug('Traceback of the error below', exc_info=error)
  who = ''
  if child.is_child():
    index, count = full_batch.process()
    who = f'process {index} of {count}: '
  print(f'taskvec_jax: {who}{sentence}', file=sys.stderr)
  child.leave(status)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
