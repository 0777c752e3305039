import pytest

from taskvec_jax.report import figures
from taskvec_jax.report import first_epoch_figures
from taskvec_jax.report import pictures
from taskvec_jax.report import response_figures
from taskvec_jax.report import second_order_figures
from taskvec_jax.report import style

_PNG = b'\x89PNG\r\n\x1a\n'


def _texts(panel):
  return [text.get_text() for text in panel.texts]


def test_every_figure_is_written_as_a_png(results, tmp_path):
  paths = pictures.write(
      figures.PICTURES, results, tmp_path / 'new' / 'figures'
  )
  assert [path.stem for path in paths] == [
      picture.name for picture in figures.PICTURES
  ]
  assert all(path.read_bytes().startswith(_PNG) for path in paths)
  assert len(list((tmp_path / 'new' / 'figures').iterdir())) == len(paths)


def test_figures_with_nothing_to_show_are_left_out(bare_results, tmp_path):
  assert pictures.write(figures.PICTURES, bare_results, tmp_path) == []


def test_each_picture_has_its_words_and_a_claim():
  for picture in figures.PICTURES:
    assert picture.alt and picture.reading and picture.title
    assert picture.claim in range(1, 7)


def test_the_rates_are_on_logarithmic_axes_with_their_fitted_slopes(results):
  figure = second_order_figures.rates(results)
  panel = figure.axes[0]
  assert (panel.get_xscale(), panel.get_yscale()) == ('log', 'log')
  run = results.rates[0]
  labels = [text.get_text() for text in panel.get_legend().get_texts()]
  assert labels == [
      f'gap: {run.gap_slope:.2f}',
      f'left by η²C: {run.correction_slope:.2f}',
      f'left by response: {run.response_slope:.2f}',
  ]
  assert list(panel.lines[0].get_ydata()) == run.gap
  assert 'slope 2' in _texts(panel) and 'slope 3' in _texts(panel)


def test_reference_lines_have_the_slope_that_they_name(results):
  panel = second_order_figures.rates(results).axes[0]
  dotted = [line for line in panel.lines if line.get_linestyle() == ':']
  for line, slope in zip(dotted, (2, 3), strict=True):
    x, y = line.get_data()
    assert (y[-1] / y[0]) == pytest.approx((x[-1] / x[0]) ** slope)


def test_full_batch_alone_makes_one_row(results):
  results.rates = [r for r in results.rates if r.batches == 'full batch']
  assert len(second_order_figures.rates(results).axes) == 3


def test_diverged_cells_are_hatched_and_the_others_say_their_share(results):
  found = results.response_map
  panel = response_figures.response_map(results).axes[1]
  cells = [
      value
      for row in found.left_by_response
      for epochs, value in zip(found.epochs, row, strict=True)
      if epochs >= 2
  ]
  hatched = [patch for patch in panel.patches if patch.get_hatch()]
  assert len(hatched) == sum(value is None for value in cells) > 0
  assert len(panel.texts) == sum(value is not None for value in cells)
  assert '2.8' in _texts(panel)  # eta lambda_max = 2.1, k = 3


def test_cells_worth_using_are_bold(results):
  panel = response_figures.response_map(results).axes[0]
  weights = {t.get_text(): t.get_fontweight() for t in panel.texts}
  assert weights['14'] == 'bold'
  assert weights['19'] == 'normal'


def test_the_gap_is_drawn_beside_both_predictions(results):
  found = results.response_map
  panel = response_figures.gap_by_epochs(results).axes[0]
  tables = (found.gap_share, found.correction_share, found.response_share)
  for line, table in zip(panel.lines, tables, strict=True):
    assert list(line.get_ydata()) == table[0][1:]


def test_a_map_of_diverged_runs_alone_is_left_out_of_the_gap(results):
  found = results.response_map
  found.gap_share = [[None] * len(found.epochs) for _ in found.learning_rates]
  assert response_figures.gap_by_epochs(results) is None
  assert response_figures.response_map(results) is not None


def test_the_bars_of_the_ladder_end_at_their_ratios(results):
  panel = second_order_figures.ladder(results).axes[0]
  ends = [bar.get_x() + bar.get_width() for bar in panel.patches]
  assert ends == pytest.approx([r.ratio for r in results.ladders[0].rungs])
  assert panel.get_xscale() == 'log'


def test_an_overflowing_certificate_has_no_bar_and_says_so(results):
  panel = second_order_figures.ladder(results).axes[3]
  assert len(panel.patches) == 1
  assert 'overflows' in _texts(panel)


def test_a_ladder_without_proven_rungs_and_certificates_is_drawn(results):
  for ladder in results.ladders:
    ladder.rungs = ladder.rungs[3:]
    ladder.certificates = []
  figure = second_order_figures.ladder(results)
  assert len(figure.axes[0].patches) == 2
  assert not figure.axes[1].axison


def test_the_path_starts_at_the_mean_share_of_the_tasks(results):
  panel = first_epoch_figures.first_epoch(results).axes[0]
  runs = [
      run
      for run in results.finetuning
      if run.regime == 'exact' and run.task != 'multitask'
  ]
  mean = sum(run.path_shares[0] for run in runs) / len(runs)
  assert panel.lines[0].get_ydata()[0] == pytest.approx(mean)


def test_one_regime_makes_one_row_and_one_panel(results):
  results.finetuning = [r for r in results.finetuning if r.regime == 'exact']
  results.accuracies = [
      r for r in results.accuracies if r.regime in ('', 'exact')
  ]
  assert len(first_epoch_figures.first_epoch(results).axes) == 3
  assert len(first_epoch_figures.merging(results).axes) == 1


def test_a_model_keeps_its_colour_in_both_panels(results):
  figure = first_epoch_figures.merging(results)
  for panel in figure.axes:
    handles, labels = panel.get_legend_handles_labels()
    colors = {
        label: handle[0].get_color()
        for handle, label in zip(handles, labels, strict=True)
        if label != 'base'
    }
    assert colors == {
        'finetuned': style.MODELS['finetuned'],
        'multitask': style.MODELS['multitask'],
        'merged, α = 1/T': style.MODELS['merged 1/T'],
        'merged, α tuned': style.MODELS['merged validation'],
    }


def test_one_seed_is_drawn_without_bars(one_seed_results, results):
  def longest_bar(found):
    panel = first_epoch_figures.merging(found).axes[0]
    bars = [
        segment
        for collection in panel.collections
        for segment in collection.get_segments()
    ]
    return max(segment[1, 1] - segment[0, 1] for segment in bars)

  assert longest_bar(one_seed_results) == 0.0
  assert longest_bar(results) > 0.5
