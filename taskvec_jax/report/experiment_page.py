"""The page of an experiment beside the main job: claims, figures, setting.

The frame stands in `templates/experiment.html`; an experiment's own template
extends it with the text and the tables of its sections.
"""

from collections.abc import Sequence
import os
import pathlib
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
    template: str,
    claims: Sequence[claims_lib.Claim],
    pictures: Sequence[pictures_lib.Picture],
    **values: Any,
) -> pathlib.Path:
  """Writes `folder/report.html` and `folder/figures/*.png`; returns the page.

  Args:
    results: what a run found, with `setting` and `seconds`.
    folder: the work folder.
    template: the file in `templates/`.
    claims: every part of every claim, judged.
    pictures: the figures, in the order of the page.
    **values: what else the template reads.
  """
  folder = pathlib.Path(folder)
  paths = pictures_lib.write(pictures, results, folder / 'figures')
  environment = html.environment()
  environment.filters.update(
      points=spreads.points, plain=spreads.plain, difference=spreads.difference
  )
  page = environment.get_template(template).render(
      results=results,
      setting=results.setting,
      sections=sections(claims),
      figures=pictures_lib.by_claim(pictures, paths),
      **values,
  )
  return html.write(folder / 'report.html', page)


def sections(claims: Sequence[claims_lib.Claim]) -> list[Section]:
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
