"""Figures with the words that go with them, as files and as parts of a page.

A figure is a function from the results of a run, and from nothing else, to a
figure of matplotlib, or to None where the run left out what it would show.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import os
import pathlib
from typing import Any
from typing import NamedTuple

from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from taskvec_jax.report import html
from taskvec_jax.report import style


class Picture(NamedTuple):
  """One figure and the words that go with it."""

  name: str  # of the file, without .png
  claim: int  # the claim or section that it belongs to
  title: str
  alt: str  # what it shows, for who cannot see it
  reading: str  # how to read it
  draw: Callable[[Any], mpl_figure.Figure | None]  # None: nothing to show


class Figure(NamedTuple):
  """One figure of a page."""

  title: str
  alt: str
  reading: str
  data: str | None  # base64 of the PNG; None where the run left it out


def write(
    pictures: Iterable[Picture], results: Any, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
  """Writes `NAME.png` for every picture that `results` can fill.

  Args:
    pictures: all that a page has.
    results: what a run found.
    folder: made if it is not there.

  Returns:
    The files, in the order of `pictures`; figures with nothing to show are not
    among them.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for picture in pictures:
    figure = picture.draw(results)
    if figure is not None:
      path = folder / f'{picture.name}.png'
      beside = path.with_name(path.name + '.tmp')
      figure.set_dpi(style.DPI)
      with beside.open('wb') as file:
        # Where `print_figure` would lay out and draw everything twice.
        backend_agg.FigureCanvasAgg(figure).print_png(file)
      os.replace(beside, path)
      paths.append(path)
  return paths


def by_claim(
    pictures: Sequence[Picture], paths: Iterable[pathlib.Path]
) -> dict[int, list[Figure]]:
  """Returns claim -> its figures, those that the run left out among them."""
  data = {path.stem: html.embedded(path) for path in paths}
  found: dict[int, list[Figure]] = {}
  for one in pictures:
    found.setdefault(one.claim, []).append(
        Figure(one.title, one.alt, one.reading, data.get(one.name))
    )
  return found
