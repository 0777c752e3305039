import copy
import dataclasses
import math

import pytest

from taskvec_jax.report import claims
from taskvec_jax.report import first_epoch_findings
from taskvec_jax.report import response_findings
from taskvec_jax.report import verdicts


def _verdicts(results):
  return {
      (claim.number, claim.where): claim.verdict
      for claim in claims.claims(results)
  }


def _spoil_equality(results):
  results.equality[0].largest_ulps = 4.01


def _spoil_equality_with_nan(results):
  results.equality[0].largest_ulps = math.nan


def _spoil_gap_slope(results):
  results.rates[0].gap_slope = 2.06


def _spoil_correction_slope(results):
  results.rates[-1].correction_slope = 2.92


def _spoil_response_slope(results):
  results.rates[1].response_slope = 3.08


def _spoil_reach(results):
  results.response_map.left_by_response = copy.deepcopy(
      results.response_map.left_by_correction
  )


def _spoil_indicator(results):
  found = results.response_map
  found.indicator = [
      [value and 1 / value for value in row] for row in found.indicator
  ]


def _spoil_order(results):
  rungs = results.ladders[1].rungs
  rungs[3].value = rungs[2].value * 1.02


def _spoil_ratio(results):
  results.ladders[0].rungs[2].ratio = 301.0


def _spoil_certificate(results):
  certificate = results.ladders[0].certificates[1]
  certificate.value = 0.99 * certificate.gap


def _spoil_signed_certificate(results):
  plain, signed = results.ladders[0].certificates
  signed.value = 1.01 * plain.value


def _spoil_signed_certificate_by_overflow(results):
  results.ladders[0].certificates[1].value = None


def _spoil_first_epoch(results):
  for run in results.finetuning:
    if run.regime == 'exact':
      run.update_norms[1] = 2 * run.update_norms[0]
      run.cos_tau_last[0] = 0.5


def _spoil_merging(results):
  for one in results.accuracies:
    if (one.model, one.regime, one.alpha_rule, one.epochs) == (
        'merged',
        'empirical',
        '1/T',
        1,
    ):
      one.accuracy = {task: x - 0.03 for task, x in one.accuracy.items()}


def _spoil_room(results):
  base = {o.seed: o.accuracy for o in results.accuracies if o.model == 'base'}
  for one in results.accuracies:
    if one.model == 'finetuned' and one.regime == 'empirical':
      one.accuracy = {t: x + 0.09 for t, x in base[one.seed].items()}


@pytest.mark.parametrize(
    ('spoil', 'part', 'after'),
    [
        (_spoil_equality, (1, 'float32'), verdicts.DOES_NOT_HOLD),
        (_spoil_equality_with_nan, (1, 'float32'), verdicts.DOES_NOT_HOLD),
        (_spoil_gap_slope, (2, 'full batch'), verdicts.DOES_NOT_HOLD),
        (_spoil_correction_slope, (2, 'mini-batches'), verdicts.DOES_NOT_HOLD),
        (_spoil_response_slope, (3, 'small steps'), verdicts.DOES_NOT_HOLD),
        (_spoil_reach, (3, 'larger steps'), verdicts.DOES_NOT_HOLD),
        (_spoil_indicator, (3, 'indicator'), verdicts.DOES_NOT_HOLD),
        (_spoil_order, (4, 'ladder'), verdicts.DOES_NOT_HOLD),
        (_spoil_ratio, (4, 'ladder'), verdicts.IN_PART),
        (_spoil_certificate, (4, 'certificates'), verdicts.DOES_NOT_HOLD),
        (
            _spoil_signed_certificate,
            (4, 'certificates'),
            verdicts.DOES_NOT_HOLD,
        ),
        (
            _spoil_signed_certificate_by_overflow,
            (4, 'certificates'),
            verdicts.DOES_NOT_HOLD,
        ),
        (_spoil_first_epoch, (5, 'exact'), verdicts.DOES_NOT_HOLD),
        (_spoil_merging, (6, 'empirical, α = 1/T'), verdicts.DOES_NOT_HOLD),
        (_spoil_room, (6, 'empirical, α = 1/T'), verdicts.SAYS_NOTHING),
    ],
)
def test_a_bad_number_turns_its_own_verdict(results, spoil, part, after):
  before = _verdicts(results)
  assert before[part] in (verdicts.HOLDS, verdicts.IN_PART)
  spoil(results)
  found = _verdicts(results)
  assert found[part] == after
  number = part[0]  # and no other claim's
  assert {k: v for k, v in found.items() if k[0] != number} == {
      k: v for k, v in before.items() if k[0] != number
  }


def test_linear_response_holds_where_it_reaches_practical_steps(results):
  found = results.response_map
  found.left_by_response = [
      [value and 0.1 * value for value in row] for row in found.left_by_response
  ]
  assert _verdicts(results)[3, 'larger steps'] == verdicts.HOLDS


def test_a_map_of_tiny_steps_says_nothing_of_practical_ones(results):
  results.response_map.lambda_max /= 100
  assert _verdicts(results)[3, 'larger steps'] == verdicts.SAYS_NOTHING


def test_the_reach_ends_at_the_first_step_that_leaves_too_much(results):
  found = results.response_map
  found.learning_rates = [0.4, 0.1, 0.2]  # in any order
  found.lambda_max = 2.0
  found.epochs = [1, 5]
  left = [[None, 0.01], [None, 0.14], [None, 0.16]]
  assert response_findings.reach(found, left) == {5: pytest.approx(0.2)}


def test_the_reach_is_zero_where_the_smallest_step_diverged(results):
  found = results.response_map
  found.learning_rates, found.epochs = [0.1, 0.2], [2]
  assert response_findings.reach(found, [[None], [0.01]]) == {2: 0.0}


def test_estimates_alone_are_no_bound(results):
  for ladder in results.ladders:
    ladder.rungs = ladder.rungs[3:]
    ladder.certificates = []
  found = _verdicts(results)
  assert found[4, 'ladder'] == verdicts.SAYS_NOTHING
  assert found[4, 'certificates'] == verdicts.NOT_MEASURED


def test_an_estimate_from_below_has_its_tolerance_and_a_proof_has_none(results):
  rungs = results.ladders[0].rungs
  rungs[4].value = 1.005 * rungs[3].value
  assert _verdicts(results)[4, 'ladder'] == verdicts.HOLDS
  rungs[1].value = 0.995 * rungs[2].value
  assert _verdicts(results)[4, 'ladder'] == verdicts.DOES_NOT_HOLD


def test_rungs_between_the_named_ones_are_judged_but_not_in_the_table(results):
  rungs = results.ladders[0].rungs
  between = dataclasses.replace(rungs[3], name='R3t', value=rungs[3].value)
  rungs.insert(4, between)
  found = {c.where: c for c in claims.claims(results) if c.number == 4}
  assert found['ladder'].measured == 'R2 212×, R3 7.4×'
  between.value = 0.5 * rungs[5].value
  assert _verdicts(results)[4, 'ladder'] == verdicts.DOES_NOT_HOLD


def test_certificates_that_all_overflow_say_nothing(results):
  for ladder in results.ladders:
    for certificate in ladder.certificates:
      certificate.value = certificate.ratio = None
  assert _verdicts(results)[4, 'certificates'] == verdicts.SAYS_NOTHING


def test_the_first_epoch_dominates_where_both_numbers_say_so(results):
  for run in results.finetuning:
    if run.regime == 'empirical':
      run.cos_tau_last[0] = 0.9
  assert _verdicts(results)[5, 'empirical'] == verdicts.HOLDS


def test_a_run_that_converged_in_its_first_epoch_is_not_judged(results):
  for run in results.finetuning:
    run.converged_epoch = 1
  assert first_epoch_findings.first_epoch(results.finetuning[0]) is None
  assert _verdicts(results)[5, 'exact'] == verdicts.SAYS_NOTHING


def test_epochs_after_convergence_and_multitask_runs_do_not_count(results):
  before = _verdicts(results)
  for run in results.finetuning:
    if run.task == 'multitask':
      run.update_norms[1] = 100.0
    run.update_norms.append(100.0)
  assert _verdicts(results) == before


def test_equality_of_parameters_that_did_not_move_says_nothing(results):
  for run in results.equality:
    run.step_norm = run.gap_norm = run.largest_ulps = 0.0
  assert _verdicts(results)[1, 'float64'] == verdicts.SAYS_NOTHING


def test_the_bar_of_equality_grows_with_large_coefficients(results):
  for run in results.equality:
    run.largest_ulps = 9.0
  assert _verdicts(results)[1, 'float64'] == verdicts.DOES_NOT_HOLD
  results.setting.scaling = 2.5 / len(results.setting.tasks)
  assert _verdicts(results)[1, 'float64'] == verdicts.HOLDS


def test_runs_that_the_cap_ended_are_said_where_models_are_merged(results):
  (runs,) = {
      part.note
      for part in claims.claims(results)
      if (part.number, part.where) == (6, 'exact, α = 1/T')
  }
  capped = sum(
      r.hit_cap
      for r in results.finetuning
      if r.regime == 'exact' and r.task != 'multitask'
  )
  assert capped and f'{capped} of ' in runs and 'ended by the cap' in runs


def test_one_seed_decides_nothing_about_merging(one_seed_results):
  found = _verdicts(one_seed_results)
  assert {v for k, v in found.items() if k[0] == 6} == {verdicts.UNDECIDED}


def test_what_a_run_left_out_is_not_measured(bare_results):
  assert set(_verdicts(bare_results).values()) == {verdicts.NOT_MEASURED}


def test_every_part_has_its_words(results):
  found = claims.claims(results)
  assert {claim.number for claim in found} == {1, 2, 3, 4, 5, 6}
  assert all(all(claim) for claim in found)
  assert 'own addition' in next(c.claim for c in found if c.number == 3)


def test_the_table_is_plain_ascii_and_at_most_96_columns(results):
  found = claims.claims(results)
  table = claims.format_table(found)
  assert table.isascii()
  assert max(len(line) for line in table.splitlines()) <= 96
  for number in range(1, 7):
    assert f'\n{number} ' in table
  lines = [line for line in table.splitlines() if 'mini-batches' in line]
  assert len(lines) == 1
  assert lines[0].endswith('holds')


def test_the_table_says_every_verdict(results):
  found = claims.claims(results)
  table = claims.format_table(found)
  for verdict in {claim.verdict for claim in found}:
    count = sum(line.endswith(f'  {verdict}') for line in table.splitlines())
    assert count == sum(claim.verdict == verdict for claim in found)
