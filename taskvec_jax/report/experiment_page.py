"""The page of an experiment: claims, figures, setting, in one HTML file.

Figures are embedded, styles are inline and nothing is fetched, so the file can
be mailed or archived. The frame stands in `templates/experiment.html`; an
experiment's own template extends it with the text and the tables of its
sections. Everything that comes from a run is escaped.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import types
from typing import Any
from typing import NamedTuple

from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import html
from taskvec_jax.report import pictures as pictures_lib
from taskvec_jax.report import spreads


class Section(NamedTuple):
  """One claim with its parts."""

  number: int
  title: str
  claim: str
  parts: list[claims_lib.Claim]
  notes: list[tuple[list[str], str]]  # (parts, note), the same note once


def write(
    results: Any,
    folder: str | os.PathLike[str],
    *,
    pictures: Sequence[pictures_lib.Picture],
    **parts: Any,
) -> pathlib.Path:
  """Writes `folder/report.html` and `folder/figures/*.png`; returns the page.

  The page is written beside its place and renamed, so that a reader never sees
  half of it.

  Args:
    results: what a run found, with `setting` and `seconds`.
    folder: the work folder.
    pictures: the figures, in the order of the page.
    **parts: as `render` takes them.
  """
  folder = pathlib.Path(folder)
  paths = pictures_lib.write(pictures, results, folder / 'figures')
  page = render(results, paths, pictures=pictures, **parts)
  return html.write(folder / 'report.html', page)


def render(
    results: Any,
    figure_paths: Iterable[pathlib.Path],
    *,
    template: str,
    pictures: Sequence[pictures_lib.Picture],
    claims: Sequence[claims_lib.Claim] = (),
    filters: Mapping[str, Callable] = types.MappingProxyType({}),
    **values: Any,
) -> str:
  """Returns the HTML of the page, with the figures of `figure_paths` in it.

  Args:
    results: what a run found, with `setting` and `seconds`.
    figure_paths: the figures that the run has.
    template: the file in `templates/`.
    pictures: all figures that there can be, in the order of the page.
    claims: every part of every claim, judged.
    filters: of the template, beside those of all pages.
    **values: what else the template reads.
  """
  environment = html.environment()
  environment.filters.update(
      points=spreads.points,
      plain=spreads.plain,
      difference=spreads.difference,
      **filters,
  )
  return environment.get_template(template).render(
      results=results,
      setting=results.setting,
      sections=_sections(claims),
      figures=pictures_lib.by_claim(pictures, figure_paths),
      **values,
  )


def _sections(claims: Sequence[claims_lib.Claim]) -> list[Section]:
  """Returns the claims with their parts, a note that parts share once."""
  found: dict[int, Section] = {}
  for claim in claims:
    new = Section(claim.number, claim.title, claim.claim, [], [])
    section = found.setdefault(claim.number, new)
    section.parts.append(claim)
    for wheres, note in section.notes:
      if note == claim.note:
        wheres.append(claim.where)
        break
    else:
      if claim.note:
        section.notes.append(([claim.where], claim.note))
  return list(found.values())
