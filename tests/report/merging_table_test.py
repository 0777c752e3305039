import pytest

from taskvec_jax.report import merging_results
from taskvec_jax.report import merging_table
from taskvec_jax.report import results as results_lib
from tests.report import fake_merging


@pytest.fixture
def results():
  return fake_merging.make_results(num_seeds=3)


def row(results, method, rule='', regime='exact'):
  (found,) = (
      one
      for one in merging_table.rows(results, regime)
      if (one.method, one.rule) == (method, rule)
  )
  return found


def test_rows_stand_in_the_order_of_what_they_saw(results):
  order = list(merging_table.CLASSES)
  costs = [row.cost for row in merging_table.rows(results, 'exact')]
  assert costs == sorted(costs, key=order.index)
  assert set(costs) == set(order)


@pytest.mark.parametrize(
    ('method', 'rule', 'cost'),
    [
        ('multitask', '', 'reference'),
        ('average', '', 'data-free'),
        ('task_arithmetic', 'fixed', 'data-free'),
        ('task_arithmetic', 'validation', 'validation'),
        ('adamerging_layer', '', 'test inputs'),
        ('regmean', '', 'training'),
        ('atm', '', 'training'),
    ],
)
def test_a_row_belongs_to_the_class_of_the_most_that_it_read(
    results, method, rule, cost
):
  assert row(results, method, rule).cost == cost


def test_a_tuned_method_that_reads_training_data_is_of_its_class(results):
  for entry in results.merges:
    if entry.method == 'ties' and entry.rule == 'validation':
      entry.examples['training'] = 40
  assert row(results, 'ties', 'validation').cost == 'training'


def test_relative_accuracies_are_of_the_same_seed(results):
  one = fake_merging.make_results(num_seeds=1)
  found = row(one, 'average')
  assert found.accuracy.mean == pytest.approx(0.70)
  assert found.normalised.mean == pytest.approx((0.60 / 0.80 + 0.80) / 2)
  assert found.share.mean == pytest.approx((0.70 - 0.50) / (0.90 - 0.50))
  # Seeds shift all models alike, so shares do not differ over them.
  assert row(results, 'average').share.std == pytest.approx(0, abs=1e-12)
  assert row(results, 'average').accuracy.std == pytest.approx(0.02)


def test_no_share_where_finetuning_gained_nothing(results):
  for entry in results.merges:
    if entry.method == 'finetuned':
      entry.accuracy = dict.fromkeys(entry.accuracy, 0.4)
  assert row(results, 'average').share is None


def test_a_seed_without_a_direction_leaves_no_mean_cosine(results):
  next(e for e in results.merges if e.method == 'average').cosine = None
  assert row(results, 'average').cosine is None
  assert row(results, 'average').distance is not None


def test_seconds_are_the_median_over_seeds(results):
  assert row(results, 'ties', 'fixed').seconds == 1.5


def test_the_bar_is_the_smallest_ratio_over_steps_and_epochs(results):
  found = merging_table.bar(results)
  assert found.second_order == pytest.approx(1000)
  assert found.linear_response == pytest.approx(2000)
  assert found.holds
  results.small_steps[1].left_by_correction[0] = 2.5e-6
  found = merging_table.bar(results)
  assert found.second_order == pytest.approx(8)
  assert not found.holds
  results.small_steps = []
  assert merging_table.bar(results) is None


def test_what_was_read_is_said_in_words():
  assert merging_table.ledger({}) == ''
  assert (
      merging_table.ledger({'training': 120, 'validation': 1001})
      == '1,001 validation, 120 training'
  )


def test_the_table_is_plain_and_fits_a_terminal(results):
  text = merging_table.format_table(results)
  assert text.isascii()
  assert max(len(line) for line in text.splitlines()) <= 96
  assert 'task arithmetic, alpha tuned' in text
  line = next(x for x in text.splitlines() if x.startswith('  ATM'))
  assert line.split()[1:4] == ['77.0', '+-', '2.0']


def test_what_is_read_equals_what_was_written(results, tmp_path):
  path = tmp_path / 'results.json'
  results_lib.write(path, results)
  assert results_lib.read(path, merging_results.Results) == results
