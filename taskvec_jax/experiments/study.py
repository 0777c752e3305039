"""How every study is run: part by part, resumable, to one page.

A part is a function without arguments that returns the section of one claim.
Finished parts lie in the work folder, so a study that was stopped goes on.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import tqdm

from taskvec_jax.experiments import checks
from taskvec_jax.experiments import workdir as workdir_lib
from taskvec_jax.report import claims
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import study_page
from taskvec_jax.report import study_results


def run(
    config: Any,
    folder: str | pathlib.Path,
    parts: Mapping[str, Callable[[], study_results.Section]],
    *,
    command: str,
    title: str,
    question: str,
    source: str,
    sizes: Mapping[str, str],
    left_out: Sequence[str] = (),
) -> study_results.Results:
  """Runs every part in the work folder; returns and writes the results.

  Args:
    config: of the study, a dataclass with `name` and `seeds`, already checked.
    folder: the work folder, new or of an earlier run of the same config.
    parts: name -> what makes the section, in the order of the page.
    command: what repeats the run, for the page.
    title: of the page.
    question: what the study asks, a few sentences.
    source: the paper, one line.
    sizes: what -> how much, one line each.
    left_out: sentences.

  Raises:
    ValueError: a work folder of another run, or several processes.
    FloatingPointError: a loss became NaN or infinite.
  """
  checks.one_process()
  folder = workdir_lib.open_workdir(folder, config)
  sections, seconds = [], {}
  # A bar on a terminal, nothing in a log.
  progress = tqdm.tqdm(
      parts.items(), desc=config.name, unit='part', disable=None
  )
  for name, part in progress:
    progress.set_postfix_str(name)
    sections.append(
        workdir_lib.once(folder, name, study_results.Section, part, seconds)
    )
  found = study_results.Results(
      title=title,
      question=question,
      source=source,
      setting=study_results.Setting(
          config=config.name,
          command=command,
          seeds=list(config.seeds),
          sizes=dict(sizes),
          left_out=list(left_out),
      ),
      sections=sections,
      seconds=seconds,
  )
  results_lib.write(folder / 'results.json', found)
  study_page.write_page(found, folder)
  return found


def summary(results: study_results.Results) -> str:
  """Returns a table of what was predicted and what was measured."""
  return claims.format_table(study_page.claims(results))
