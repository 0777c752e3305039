import base64
import html
import html.parser
import re

import pytest

from taskvec_jax.report import claims
from taskvec_jax.report import figures
from taskvec_jax.report import page


class _Outline(html.parser.HTMLParser):
  """Collects ids, inner links, images, outer addresses and open tags."""

  _VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}

  def __init__(self):
    super().__init__()
    self.ids, self.links, self.images, self.outer = set(), set(), [], []
    self.scripts, self.stack, self.misnested = 0, [], []

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    if 'id' in attributes:
      self.ids.add(attributes['id'])
    href = attributes.get('href') or ''
    if href.startswith('#'):
      self.links.add(href[1:])
    elif href:
      self.outer.append(href)
    if tag == 'img':
      self.images.append(attributes)
    self.scripts += tag == 'script'
    if tag not in self._VOID:
      self.stack.append(tag)

  def handle_endtag(self, tag):
    if not self.stack or self.stack.pop() != tag:
      self.misnested.append(tag)


def _outline(text):
  outline = _Outline()
  outline.feed(text)
  return outline


@pytest.fixture(scope='module')
def written(make_results, tmp_path_factory):
  folder = tmp_path_factory.mktemp('page')
  return page.write_page(make_results(num_seeds=3), folder)


def test_the_page_states_every_part_of_every_claim(results, written):
  text = html.unescape(written.read_text())
  for claim in claims.claims(results):
    for words in (
        claim.claim,
        claim.where,
        claim.predicted,
        claim.measured,
        claim.verdict,
        claim.note,
    ):
      assert words in text


def test_the_page_holds_every_figure_with_its_words(written):
  outline = _outline(written.read_text())
  embedded = [
      base64.b64decode(image['src'].removeprefix('data:image/png;base64,'))
      for image in outline.images
  ]
  folder = written.parent / 'figures'
  assert embedded == [
      (folder / f'{picture.name}.png').read_bytes()
      for picture in figures.PICTURES
  ]
  alts = [image['alt'] for image in outline.images]
  assert alts == [picture.alt for picture in figures.PICTURES]


def test_the_page_needs_nothing_but_itself(written):
  text = written.read_text()
  outline = _outline(text)
  assert outline.outer == []
  assert outline.scripts == 0
  assert not re.search(r'url\(|@import|https?:', text)


def test_the_page_is_well_formed_and_every_link_arrives(written):
  outline = _outline(written.read_text())
  assert outline.misnested == []
  assert outline.stack == []
  assert outline.links <= outline.ids
  assert {f'claim-{number}' for number in range(1, 7)} <= outline.links


def test_nothing_half_written_is_left_beside_the_page(written):
  names = sorted(path.name for path in written.parent.iterdir())
  assert names == ['figures', 'report.html']


def test_a_task_named_like_a_tag_is_escaped(results, text_of):
  old, new = 'digits', '<b>'
  for task in results.setting.tasks:
    task.name = task.name.replace(old, new)
  for run in results.finetuning:
    run.task = run.task.replace(old, new)
  for one in results.accuracies:
    one.accuracy = {t.replace(old, new): x for t, x in one.accuracy.items()}
  results.setting.left_out.append('<script>alert(1)</script>')
  text = text_of(page, results)
  assert '<b>' not in text
  assert '<script' not in text
  assert text.count('&lt;b&gt;') >= 6
  assert _outline(text).misnested == []


def test_a_test_of_few_images_is_named_with_its_error(results, text_of):
  text = text_of(page, results)
  assert 'faces is judged on 60 test images: one image is 1.7 points' in text
  assert 'digits is judged on' not in text


def test_what_was_left_out_and_how_to_repeat_it_are_said(results, text_of):
  text = html.unescape(text_of(page, results))
  for sentence in results.setting.left_out:
    assert sentence in text
  assert results.setting.command in text
  for how in results.setting.regimes.values():
    assert how in text
  for part in results.seconds:
    assert part in text


def test_a_bare_run_makes_a_page_that_says_what_is_missing(
    bare_results, tmp_path
):
  text = page.write_page(bare_results, tmp_path).read_text()
  outline = _outline(text)
  assert outline.images == []
  assert outline.misnested == []
  for picture in figures.PICTURES:
    assert f'did not measure “{picture.title}”' in text
  assert text.count('>not measured</span>') == 2 * len(
      claims.claims(bare_results)
  )


def test_a_run_without_any_accuracy_makes_a_page(bare_results, text_of):
  bare_results.accuracies = []
  assert 'measured no accuracies' in text_of(page, bare_results)


def test_one_seed_is_said_to_have_no_spread(one_seed_results, text_of):
  text = text_of(page, one_seed_results)
  assert 'nothing below has a spread over seeds' in text
  table = text[text.index('<h2 id="tasks">') : text.index('<h2 id="setting">')]
  cells = re.findall(r'<td class="number">([^<]*)</td>', table)
  assert cells
  assert not any('±' in cell for cell in cells)


def test_the_share_of_a_merged_model_is_on_the_page(results, text_of):
  for one in results.accuracies:
    if one.model == 'merged' and one.converged and one.regime == 'exact':
      one.accuracy = dict.fromkeys(one.accuracy, 0.6)
    elif one.model == 'finetuned':
      one.accuracy = dict.fromkeys(one.accuracy, 0.9)
    elif one.model == 'base':
      one.accuracy = dict.fromkeys(one.accuracy, 0.5)
  assert '>25%</td>' in text_of(page, results)
