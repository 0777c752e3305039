"""What the pages of all experiments share: templates, filters, whole files.

Figures are embedded, styles are inline (templates/base.html) and nothing is
fetched; everything that comes from a run is escaped.
"""

import base64
import os
import pathlib

import jinja2

from taskvec_jax.report import verdicts

_BADGES = {
    verdicts.HOLDS: 'good',
    verdicts.IN_PART: 'partly',
    verdicts.DOES_NOT_HOLD: 'bad',
}


def environment() -> jinja2.Environment:
  """Returns the templates, with the filters `sentence` and `badge`."""
  templates = jinja2.Environment(
      loader=jinja2.PackageLoader('taskvec_jax.report'),
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
      lstrip_blocks=True,
  )
  templates.filters.update(
      sentence=lambda text: text[:1].upper() + text[1:],
      badge=lambda verdict: _BADGES.get(verdict, 'open'),
  )
  return templates


def embedded(path: pathlib.Path) -> str:
  """Returns a file in base64, as `src` of an image wants it."""
  return base64.b64encode(path.read_bytes()).decode()


def write(path: pathlib.Path, text: str) -> pathlib.Path:
  """Writes a page beside its place and renames it; returns its path."""
  beside = path.with_name(path.name + '.tmp')
  beside.write_text(text, encoding='utf-8')
  os.replace(beside, path)
  return path
