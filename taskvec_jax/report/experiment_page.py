"""The page of an experiment beside the main job: claims, figures, setting.

The frame stands in `templates/experiment.html`; an experiment's own template
extends it with the text and the tables of its sections.
"""

from collections.abc import Callable
from collections.abc import Sequence
import os
import pathlib
from typing import Any
from typing import NamedTuple

from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import html
from taskvec_jax.report import spreads
from taskvec_jax.report import style


class Picture(NamedTuple):
  """One figure and the words that go with it."""

  name: str  # of the file, without .png
  claim: int  # the section that it belongs to
  title: str
  alt: str  # what it shows, for who cannot see it
  reading: str  # how to read it
  draw: Callable[[Any], mpl_figure.Figure | None]  # None: nothing to show


class Section(NamedTuple):
  """One claim with its parts."""

  number: int
  title: str
  claim: str
  parts: list[claims_lib.Claim]
  notes: list[tuple[list[str], str]]  # (parts, note), the same note once


class _Figure(NamedTuple):
  title: str
  alt: str
  reading: str
  data: str | None  # base64 of the PNG; None where the run left it out


def write(
    results: Any,
    folder: str | os.PathLike[str],
    *,
    template: str,
    claims: Sequence[claims_lib.Claim],
    pictures: Sequence[Picture],
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
  figures: dict[int, list[_Figure]] = {}
  for picture in pictures:
    path = _draw(picture, results, folder / 'figures')
    figures.setdefault(picture.claim, []).append(
        _Figure(
            picture.title,
            picture.alt,
            picture.reading,
            path and html.embedded(path),
        )
    )
  environment = html.environment()
  environment.filters.update(
      points=spreads.points, plain=spreads.plain, difference=spreads.difference
  )
  page = environment.get_template(template).render(
      results=results,
      setting=results.setting,
      sections=sections(claims),
      figures=figures,
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


def _draw(picture: Picture, results, folder: pathlib.Path):
  """Writes one figure as a PNG; returns its path, None if it shows nothing."""
  figure = picture.draw(results)
  if figure is None:
    return None
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'{picture.name}.png'
  beside = path.with_name(path.name + '.tmp')
  with beside.open('wb') as file:
    backend_agg.FigureCanvasAgg(figure).print_figure(
        file, dpi=style.DPI, format='png'
    )
  os.replace(beside, path)
  return path
