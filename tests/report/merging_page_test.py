import base64
import html
import html.parser
import re

import pytest

from taskvec_jax.report import merging_figures
from taskvec_jax.report import merging_page
from taskvec_jax.report import merging_table
from taskvec_jax.report import merging_words
from tests.report import fake_merging

_VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}


class _Outline(html.parser.HTMLParser):
  """Collects images and tags that do not close."""

  def __init__(self):
    super().__init__()
    self.images, self.stack, self.misnested, self.outer = [], [], [], []

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    if tag == 'img':
      self.images.append(attributes)
    if attributes.get('href'):
      self.outer.append(attributes['href'])
    if tag not in _VOID:
      self.stack.append(tag)

  def handle_endtag(self, tag):
    if not self.stack or self.stack.pop() != tag:
      self.misnested.append(tag)


def outline(text):
  found = _Outline()
  found.feed(text)
  assert found.misnested == [] and found.stack == []
  return found


@pytest.fixture
def results():
  return fake_merging.make_results(num_seeds=3)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('page')
  return merging_page.write_page(fake_merging.make_results(3), folder)


def test_the_page_holds_every_row_with_its_numbers(results, written):
  text = html.unescape(written.read_text())
  for regime in results.num_epochs:
    for row in merging_table.rows(results, regime):
      assert f'>{row.label}</th>' in text
      assert f'{100 * row.accuracy.mean:.1f} ± 2.0' in text
  for title in merging_table.CLASSES.values():
    assert title in text
  assert '1,200 training inputs' in text
  assert 'python -m taskvec_jax.main --config=fake.py' in text


def test_the_page_needs_nothing_but_itself(written):
  text = written.read_text()
  found = outline(text)
  assert found.outer == []
  assert not re.search(r'<script|url\(|@import|https?:', text)
  embedded = [
      base64.b64decode(image['src'].removeprefix('data:image/png;base64,'))
      for image in found.images
  ]
  assert embedded == [
      (written.parent / 'figures' / f'{picture.name}.png').read_bytes()
      for picture in merging_page.PICTURES
  ]


def test_within_a_class_the_best_comes_first(written):
  text = written.read_text()
  section = text[text.index('id="all"') : text.index('id="theory"')]
  assert section.index('>ATM<') < section.index('>RegMean<')
  assert section.index('α = 0.3') < section.index('TIES, α = 1<')


def test_a_distance_of_rounding_is_called_that(written):
  text = written.read_text()
  section = text[text.index('id="all"') : text.index('id="theory"')]
  assert section.count('>rounding</td>') == 2  # ATM, in two regimes
  assert '1e-06' not in text


def test_the_bar_is_judged(results, text_of):
  text = text_of(merging_page, results)
  assert '>holds</span>' in text
  results.small_steps[0].left_by_response[0] = 1e-5
  assert '>does not hold</span>' in text_of(merging_page, results)
  results.small_steps = []
  text = text_of(merging_page, results)
  assert 'did not measure distances at small learning rates' in text


def test_the_rank_correlation_is_one_where_the_nearer_is_the_better(
    results, text_of
):
  for entry in results.merges:
    if entry.relative_distance is not None:
      entry.relative_distance = 9 - sum(entry.accuracy.values())
  text = text_of(merging_page, results)
  assert text.count('nearness to multitask training is 1.00') == 2


def test_a_prediction_that_diverged_has_no_number(results, text_of):
  text = text_of(merging_page, results)
  start = text.index('at the base alone (3.4)</th>')
  assert text[start : start + 150].count('>-</td>') == 3


def test_one_seed_is_said_to_have_no_spread(text_of):
  results = fake_merging.make_results(num_seeds=1)
  text = text_of(merging_page, results)
  assert 'nothing below has a spread over seeds' in text
  assert '±' not in text


def test_a_task_named_like_a_tag_is_escaped(results, text_of):
  for task in results.setting.tasks:
    task.name = task.name.replace('digits', '<b>')
  for run in results.trained:
    run.task = run.task.replace('digits', '<b>')
  for entry in results.merges:
    entry.accuracy = {
        task.replace('digits', '<b>'): value
        for task, value in entry.accuracy.items()
    }
  text = text_of(merging_page, results)
  assert '<b>' not in text and '&lt;b&gt;' in text
  outline(text)


def test_one_regime_without_tuned_methods_makes_a_page(results, tmp_path):
  results.merges = [
      entry
      for entry in results.merges
      if entry.regime == 'empirical' and not entry.curve
  ]
  results.num_epochs = {'empirical': 10}
  results.gaps, results.small_steps = [], []
  page = merging_page.write_page(results, tmp_path)
  found = outline(page.read_text())
  names = [path.name for path in sorted((tmp_path / 'figures').iterdir())]
  assert names == ['by_method.png', 'near_multitask.png']
  assert len(found.images) == 2
  assert merging_figures.scalings(results) is None


def test_methods_are_drawn_where_their_accuracy_is(results):
  panel = merging_figures.by_method(results).axes[0]
  labels = [text.get_text() for text in panel.get_yticklabels()]
  drawn = {
      (round(line.get_xdata()[0], 6), labels[round(line.get_ydata()[0])])
      for line in panel.lines
      if line.get_marker() == 'o' and len(line.get_xdata()) == 1
  }
  expected = {
      (
          round(100 * row.accuracy.mean, 6),
          merging_words.words(row.method).label,
      )
      for row in merging_table.rows(results, 'exact')
      if row.cost != 'reference'
  }
  assert drawn == expected


def test_a_curve_is_the_mean_over_seeds_with_its_best_marked(results):
  first = next(entry for entry in results.merges if entry.curve)
  first.curve = [0.9, 0.8, 0.7]
  panel = merging_figures.scalings(results).axes[0]
  line, dot = panel.lines[:2]
  assert list(line.get_ydata()) == pytest.approx([70, 80, 70])
  assert dot.get_xdata()[0] == 0.5
