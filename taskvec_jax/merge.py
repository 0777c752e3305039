"""Command line that merges checkpoint files, without training.

  python -m taskvec_jax.merge --base=A --finetuned=B --finetuned=C \
      --method=ties --set=density=0.2 --set=scaling=0.4 --output=DIR
  python -m taskvec_jax.merge --verify=DIR

A, B and C are safetensors: a file, an index of shards, or a folder with one of
them. Errors are one sentence on standard error and exit status 2 (a wrong call)
or 1 (a merge that failed, files that differ from their recipe); `--verbosity=1`
adds the traceback.
"""

from collections.abc import Sequence
import errno
import pathlib
import re
import sys
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
import tqdm

from taskvec_jax import freed_memory
from taskvec_jax.merging import file_job
from taskvec_jax.merging import file_merge
from taskvec_jax.merging import recipe
from taskvec_jax.merging import slice_methods

_BASE = flags.DEFINE_string('base', None, 'The model all others come from.')
_FINETUNED = flags.DEFINE_multi_string(
    'finetuned', [], 'A model finetuned from the base; once for each.'
)
_METHOD = flags.DEFINE_string(
    'method', None, f'One of {", ".join(slice_methods.METHODS)}.'
)
_SET = flags.DEFINE_multi_string(
    'set', [], 'NUMBER=VALUE, a number of the method; once for each.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'The folder to make.')
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print what would be read and written, and the memory.'
)
_VERIFY = flags.DEFINE_string(
    'verify',
    None,
    'A merged folder: its files and inputs are compared with its recipe, and'
    ' merged again to compare what comes out.',
)


def parse(argv: Sequence[str]) -> Sequence[str]:
  """Returns the arguments left after flags; ends on a wrong one."""
  try:
    rest = flags.FLAGS(
        [re.sub('^--dry-run', '--dry_run', word) for word in argv]
    )
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    if rest[1:]:
      raise ValueError(f'{rest[1]!r} is no flag; flags begin with --')
    needed = {'base': _BASE, 'method': _METHOD, 'output': _OUTPUT}
    for name, flag in needed.items():
      if _VERIFY.value is None and not flag.value:
        raise ValueError(
            f'--{name} is missing; a merge needs --base, --finetuned,'
            ' --method and --output, and --verify needs nothing else'
        )
    more = {'finetuned': _FINETUNED, 'set': _SET, 'dry_run': _DRY_RUN}
    for name, flag in (needed | more).items():
      if _VERIFY.value is not None and flag.value:
        raise ValueError(
            f'--verify goes without --{name}, since the recipe says what was'
            ' merged; leave one of them out'
        )
    return rest
  except (ValueError, flags.Error) as error:
    return _fail(2, str(error), error)


def main(argv: Sequence[str]) -> None:
  """Merges, or says what would be merged, or verifies."""
  del argv  # parse has refused anything that is no flag
  freed_memory.give_back(2**23)  # slices have up to 4 MB, whole matrices more
  try:
    if _VERIFY.value is not None:
      _verify(pathlib.Path(_VERIFY.value))
    else:
      _merge()
  except ValueError as error:
    _fail(2, str(error), error)
  except OSError as error:
    sentence = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      sentence = (
          f'{_OUTPUT.value} cannot be written ({error.strerror}); make room or'
          ' name another --output; nothing was written'
      )
    _fail(1, sentence, error)
  except ArithmeticError as error:
    _fail(1, str(error), error)
  except KeyboardInterrupt as error:
    _fail(130, 'stopped; nothing was written', error)


def _merge() -> None:
  job = file_job.prepare(
      base=_BASE.value or '',
      finetuned=tuple(_FINETUNED.value),
      method=_METHOD.value or '',
      numbers=_numbers(_SET.value),
      output=_OUTPUT.value or '',
  )
  if _DRY_RUN.value:
    print(file_job.describe(job))
    return
  with _progress_bar(file_job.num_bytes_read(job)) as bar:
    file_merge.merge(job, progress=bar.update)
  print(f'Merged {len(job.inputs.finetuned)} models into {job.output}')


def _verify(folder: pathlib.Path) -> None:
  path = folder / recipe.NAME
  with _progress_bar(None) as bar:
    checked = recipe.verify(folder, progress=bar.update)
  if wrong := [f'{file} {problem}' for file, problem in checked if problem]:
    raise OSError(
        f'{len(wrong)} of {len(checked)} files differ from {path}:'
        f' {"; ".join(wrong)}'
    )
  told = recipe.read(folder)
  job = file_job.prepare_again(folder, told)
  with _progress_bar(file_job.num_bytes_read(job)) as bar:
    again = file_merge.repeat(job, told, progress=bar.update)
  if wrong := [f'{file} {problem}' for file, problem in again if problem]:
    other = recipe.other_versions(told) or ['none']
    sentence = (
        f'merged again as {path} says, {"; ".join(wrong)}, other than what lies'
        f' there; other versions here: {", ".join(other)}'
    )
    if job.method in slice_methods.BY_PROCESSOR and recipe.other_processor(
        told
    ):
      sentence += (
          f'; {job.method} gives the same bytes on one type of processor only,'
          ' so verify on the one it was merged on'
      )
    raise OSError(sentence)
  print(f'All {len(checked)} files are as {path} says; merged again, the same')


def _numbers(settings: Sequence[str]) -> dict[str, str]:
  """Returns number -> value of NUMBER=VALUE."""
  numbers = {}
  for setting in settings:
    name, equals, value = setting.partition('=')
    if not equals:
      raise ValueError(f'--set={setting} is not of the form NUMBER=VALUE')
    if name in numbers:
      raise ValueError(f'--set gives {name} twice')
    numbers[name] = value
  return numbers


def _progress_bar(total: int | None) -> tqdm.tqdm:
  """Returns a bar of bytes read, which shows on terminals only."""
  return tqdm.tqdm(
      total=total, unit='B', unit_scale=True, leave=False, disable=None
  )


def _fail(status: int, sentence: str, error: BaseException) -> NoReturn:
  logging.debug('Traceback of the error below', exc_info=error)
  print(f'taskvec_jax: {sentence}', file=sys.stderr)
  sys.exit(status)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
