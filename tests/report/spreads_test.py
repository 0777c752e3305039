from taskvec_jax.report import spreads
from taskvec_jax.report import verdicts


def test_higher_pairs_the_seeds_and_says_both_means():
  found = spreads.higher(
      'a above b', {0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.6, 2: 0.9}, 'Why.'
  )
  assert found.measured == '+10.0 [+10.0, +10.0]: 60.0 against 63.3 %'
  assert (found.verdict, found.note) == (verdicts.HOLDS, 'Why.')


def test_seeds_that_do_not_meet_are_not_compared():
  found = spreads.higher('a above b', {0: 0.5}, {1: 0.4}, 'Why.')
  assert found.verdict == verdicts.NOT_MEASURED
