"""What a study found: the JSON that its page reads.

All studies share one form. A section is one claim: what was predicted, from
what, what was measured, and the curves, maps and tables that show it.
"""

import dataclasses

from taskvec_jax.report import verdicts

# How a series of a figure came about, which decides how it is drawn.
PREDICTED = 'predicted'  # by formula: a dashed line
MEASURED = 'measured'  # markers on a thin line, with its spread
BOUND = 'bound'  # what a theorem allows: a dotted line
REFERENCE = 'reference'  # what it is compared with: a faint line
KINDS = (PREDICTED, MEASURED, BOUND, REFERENCE)


@dataclasses.dataclass
class Series:
  """One line of a panel; None where there is no value."""

  label: str  # of the legend; series of one label look alike in all panels
  kind: str  # of `KINDS`
  color: int  # 0 .. 7, of `style.SERIES`; what belongs together shares one
  x: list[float]
  y: list[float | None]
  low: list[float | None] | None = None  # of the spread around y
  high: list[float | None] | None = None


@dataclasses.dataclass
class Panel:
  """One pair of axes."""

  title: str
  series: list[Series]


@dataclasses.dataclass
class Curves:
  """A figure of lines, its panels side by side."""

  name: str  # of the file, without .png; unique in a study
  title: str
  alt: str  # what it shows, for who cannot see it
  reading: str  # how to read it; what the bands are
  x_label: str
  y_label: str
  panels: list[Panel]
  log_x: bool = False
  log_y: bool = False


@dataclasses.dataclass
class MapPanel:
  """One heat map; tables are indexed `[y][x]`."""

  title: str
  x: list[float]
  y: list[float]
  values: list[list[float | None]]
  predicted: list[list[bool]] | None = None  # a region: its edge is drawn


@dataclasses.dataclass
class Map:
  """A figure of heat maps on one scale, its panels side by side."""

  name: str
  title: str
  alt: str
  reading: str
  x_label: str
  y_label: str
  value_label: str
  low: float  # ends of the colour scale
  high: float
  panels: list[MapPanel]


@dataclasses.dataclass
class Table:
  """A table of text; the first column is the row's name."""

  caption: str
  columns: list[str]
  rows: list[list[str]]


@dataclasses.dataclass
class Section:
  """One claim of a study."""

  title: str  # in a few words
  claim: str  # in a sentence
  source: str  # where it is from: a theorem, or that this project derived it
  text: list[str]  # paragraphs
  formulas: list[str]  # one a line, in Unicode
  findings: list[verdicts.Finding]
  curves: list[Curves] = dataclasses.field(default_factory=list)
  maps: list[Map] = dataclasses.field(default_factory=list)
  tables: list[Table] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Setting:
  """What was run."""

  config: str  # name of the config
  command: str  # the command that repeats the run, overrides included
  seeds: list[int]
  sizes: dict[str, str]  # what -> how much, one line each
  left_out: list[str]  # sentences


@dataclasses.dataclass
class Results:
  """Everything that a study found."""

  title: str
  question: str  # what the study asks, a few sentences
  source: str  # the paper
  setting: Setting
  sections: list[Section]
  seconds: dict[str, float]  # wall time by part; differs from run to run
