"""The page of a study, and its table for the terminal."""

import functools
import os
import pathlib

from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import experiment_page
from taskvec_jax.report import pictures
from taskvec_jax.report import study_figures
from taskvec_jax.report import study_results


def write_page(
    results: study_results.Results, folder: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `folder/report.html` and its figures; returns the page."""
  return experiment_page.write(
      results,
      folder,
      template='study.html',
      claims=claims(results),
      pictures=_pictures(results),
      studied=dict(enumerate(results.sections, start=1)),
  )


def claims(results: study_results.Results) -> list[claims_lib.Claim]:
  """Returns every part of every claim, in order."""
  return [
      claims_lib.Claim(number, section.title, section.claim, **vars(finding))
      for number, section in enumerate(results.sections, start=1)
      for finding in section.findings
  ]


def _pictures(results: study_results.Results) -> list[pictures.Picture]:
  found = []
  for number, section in enumerate(results.sections, start=1):
    drawn = [(figure, study_figures.curves) for figure in section.curves]
    drawn += [(figure, study_figures.heat_map) for figure in section.maps]
    for figure, draw in drawn:
      found.append(
          pictures.Picture(
              name=figure.name,
              claim=number,
              title=figure.title,
              alt=figure.alt,
              reading=figure.reading,
              draw=functools.partial(_draw, draw, figure),
          )
      )
  return found


def _draw(draw, figure, results):
  del results  # the figure is a part of them
  return draw(figure)
