import itertools
import math

import pytest

from taskvec_jax.second_order import ladder

VALUES = {
    'R0': 9.0,
    'R1': 8.0,
    'R2': 5.0,
    'R2K': 6.0,
    'R3': 3.0,
    'R3t': 2.0,
    'R4': 1.0,
}


def test_a_drift_rung_is_a_weighted_sum_over_tasks_and_epochs():
  value = ladder.drift_rung(
      {'a': 0.5, 'b': -2.0},
      {'a': [1.0, 2.0], 'b': [3.0, 4.0]},
      {'a': [10.0, 20.0], 'b': [30.0, 40.0]},
  )
  assert value == 0.5 * (1 * 10 + 2 * 20) + 2.0 * (3 * 30 + 4 * 40)


def test_r3t_is_a_weighted_sum_of_norms_of_hessian_vector_products():
  value = ladder.hvp_rung({'a': 0.5, 'b': -2.0}, {'a': [1, 2], 'b': [3, 4]})
  assert value == 0.5 * 3 + 2.0 * 7


def test_one_epoch_has_no_drift_and_every_rung_is_0():
  assert ladder.drift_rung({'a': 1.0}, {'a': []}, {'a': []}) == 0
  rungs = ladder.ladder({'R3': 0.0, 'R4': 0.0})
  assert math.isnan(rungs[0].ratio)
  ladder.check_ladder(rungs)


def test_the_ladder_is_listed_from_the_top_with_ratios_to_the_correction():
  rungs = ladder.ladder({'R4': 2.0, 'R1': math.inf, 'R2': 5.0})
  assert rungs == (
      ('R1', math.inf, math.inf),
      ('R2', 5.0, 2.5),
      ('R4', 2.0, 1.0),
  )
  ladder.check_ladder(rungs)  # an infinite bound is a bound


def test_r2_and_r2k_may_stand_in_either_order():
  for first, second in itertools.permutations((5.0, 6.0)):
    ladder.check_ladder(ladder.ladder(VALUES | {'R2': first, 'R2K': second}))


@pytest.mark.parametrize(
    'upper, lower',
    [
        pair
        for pair in itertools.permutations(VALUES, 2)
        if ladder.LEVELS[pair[0]] < ladder.LEVELS[pair[1]]
    ],
)
def test_a_rung_below_any_later_one_is_an_error_that_names_both(upper, lower):
  rungs = ladder.ladder({'R4': 1.0} | {upper: 1.5, lower: 1.6})
  with pytest.raises(ArithmeticError, match=rf'{upper} = 1.5 .* {lower} = 1.6'):
    ladder.check_ladder(rungs)


def test_only_the_lanczos_rung_gets_the_lanczos_tolerance():
  slightly_low = VALUES | {'R3': 2.0 * (1 - 5e-4)}
  ladder.check_ladder(ladder.ladder(slightly_low))
  with pytest.raises(ArithmeticError, match='R3 = .* R3t'):
    ladder.check_ladder(ladder.ladder(slightly_low), lanczos_rtol=1e-5)
  with pytest.raises(ArithmeticError, match='R2 = .* R3 '):
    ladder.check_ladder(ladder.ladder(VALUES | {'R2': 3.0 * (1 - 5e-4)}))


def test_a_nan_is_never_in_order():
  with pytest.raises(ArithmeticError, match='nan'):
    ladder.check_ladder(ladder.ladder(VALUES | {'R2': math.nan}))
  with pytest.raises(ArithmeticError, match='nan'):
    ladder.check_at_least('(4.2)', math.inf, 'the gap', math.nan)


@pytest.mark.parametrize(
    'call, sentence',
    [
        (lambda: ladder.ladder({'R5': 1.0, 'R4': 1.0}), 'R5 is no rung'),
        (lambda: ladder.ladder({'R3': 1.0}), 'has no R4'),
        (
            lambda: ladder.drift_rung({'a': 1.0}, {'b': [1.0]}, {'a': [1.0]}),
            'same tasks',
        ),
        (
            lambda: ladder.drift_rung({'a': 1.0}, {'a': [1.0]}, {'a': []}),
            "Task 'a' has 1 Hessian norms but 0 drift norms",
        ),
        (lambda: ladder.hvp_rung({}, {}), 'same tasks'),
    ],
)
def test_a_wrong_call_gets_one_sentence(call, sentence):
  with pytest.raises(ValueError, match=sentence):
    call()
