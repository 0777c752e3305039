"""The form that all studies share: results on disk, figures, page."""

import dataclasses

import numpy as np

from taskvec_jax.experiments import study
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import study_figures
from taskvec_jax.report import study_page
from taskvec_jax.report import study_panels
from taskvec_jax.report import study_results
from taskvec_jax.report import verdicts


@dataclasses.dataclass
class _Config:
  name: str = 'small'
  seeds: tuple[int, ...] = (0, 1)


def _section(title='Gaps < bounds'):
  series = study_results.Series(
      'by formula', study_results.PREDICTED, 0, [1.0, 2.0], [1.0, 4.0]
  )
  measured = study_results.Series(
      'by descent',
      study_results.MEASURED,
      1,
      [1.0, 2.0],
      [1.0, None],
      [0.5, None],
      [1.5, None],
  )
  return study_results.Section(
      title=title,
      claim='The gap <is> below the bound.',
      source='Derived for this project.',
      text=['A paragraph with a < b.'],
      formulas=['a = b²'],
      findings=[verdicts.Finding('here', '1', '2', 'holds', 'Fixed.')],
      curves=[
          study_results.Curves(
              'curves',
              'Curves',
              'alt',
              'reading',
              'x',
              'y',
              [study_results.Panel('left', [series, measured])],
              log_y=True,
          )
      ],
      maps=[
          study_results.Map(
              'map',
              'Map',
              'alt',
              'reading',
              'x',
              'y',
              'value',
              0.0,
              1.0,
              [
                  study_results.MapPanel(
                      'one',
                      [0.0, 1.0, 2.0],
                      [0.0, 1.0],
                      [[0.0, 0.5, None], [1.0, 0.5, 0.0]],
                      [[True, False, False], [True, True, False]],
                  )
              ],
          )
      ],
      tables=[study_results.Table('Counts', ['what', 'n'], [['a', '1']])],
  )


def _run(folder, parts):
  return study.run(
      _Config(),
      folder,
      parts,
      command='python -m it',
      title='A study',
      question='Is it so?',
      source='A paper.',
      sizes={'p': '10'},
      left_out=['Nothing.'],
  )


def test_a_study_is_read_back_as_it_was_found_and_goes_on_where_it_was(
    tmp_path,
):
  found = _run(tmp_path, {'first': _section})
  assert results_lib.read(tmp_path / 'results.json', type(found)) == found

  def never():
    raise AssertionError('a finished part was computed again')

  again = _run(tmp_path, {'first': never, 'second': _section})
  assert again.sections == [found.sections[0], _section()]


def test_the_page_has_every_figure_table_and_verdict_and_escapes_the_rest(
    tmp_path,
):
  results = _run(tmp_path, {'first': _section})
  page = (tmp_path / 'report.html').read_text()
  assert '<is>' not in page and '&lt;is&gt;' in page
  assert 'Gaps &lt; bounds' in page
  assert page.count('data:image/png;base64,') == 2
  for text in ('Derived for this project.', 'a = b²', 'Counts', 'python -m it'):
    assert text in page
  for name in ('curves', 'map'):
    assert (tmp_path / 'figures' / f'{name}.png').stat().st_size > 1000
  (claim,) = study_page.claims(results)
  assert (claim.number, claim.where, claim.verdict) == (1, 'here', 'holds')
  assert 'holds' in study.summary(results)


def test_the_edge_of_a_region_runs_between_cells_inside_and_outside():
  (figure,) = _section().maps
  axis, _ = study_figures.heat_map(figure).axes
  segments = {
      tuple(np.ravel(line.get_xydata()).tolist()) for line in axis.lines
  }
  # [T F F] below [T T F]: right of (0, 0), above (1, 0), right of (1, 1).
  assert segments == {
      (0.5, -0.5, 0.5, 0.5),
      (1.5, 0.5, 1.5, 1.5),
      (0.5, 0.5, 1.5, 0.5),
  }


def test_bands_are_ranges_standard_errors_and_the_middle_of_all_draws():
  values = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
  ranged = study_panels.ranged('', 0, [1, 2], values)
  assert (ranged.y, ranged.low, ranged.high) == ([3, 4], [1, 4], [6, 4])
  errors = study_panels.with_errors('', 0, [1, 2], values, num=2)
  width = 2 * np.sqrt(7 / 3)
  np.testing.assert_allclose(errors.low, [3 - width, 4])
  np.testing.assert_allclose(errors.high, [3 + width, 4])
  drawn = study_panels.drawn('', 0, [1], [np.arange(21).reshape(3, 7)])
  assert (drawn.y, drawn.low, drawn.high) == ([10], [1], [19])
  one = study_panels.with_errors('', 0, [1, 2], values[:, :1])
  assert one.low == one.y == one.high
  bound = study_panels.line('', study_results.BOUND, 0, [1, 2], [None, 3])
  assert bound.y == [None, 3] and bound.low is None
