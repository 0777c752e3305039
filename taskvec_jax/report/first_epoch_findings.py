"""What a run says of the first epoch, and of merging after it.

  claim 5   the first epoch dominates: delta^(1) is by far the longest, and
            cos(tau^(1), tau^(converged)) is near 1
  claim 6   merging models finetuned for one epoch is about as good as merging
            converged ones

"Dominates" is a word; what is tested here are two numbers for each task and
seed. In length: no later epoch moves the parameters further than the first,
and the first covers at least twice an even share of the path.
In direction: cos(tau^(1), tau^(converged)) >= 1/sqrt(2), so that the larger
part of the squared length of the task vector lies along the first epoch.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082; the
criterion is this project's.
"""

import math
import statistics
from typing import NamedTuple

from taskvec_jax.report import accuracy
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import verdicts

LEAST_COSINE = math.sqrt(0.5)
LEAST_SHARE = 2.0  # of the path, in units of an even share of its epochs
_RULES = {'1/T': 'α = 1/T', 'validation': 'α tuned'}
MOST_RUNS = 0.9  # it holds where this share of the runs agrees


class Run(NamedTuple):
  """The numbers of one task and seed that claim 5 is judged on."""

  share: float  # of the path, the first epoch
  even_share: float  # 1 / epochs: the share if all epochs were alike
  longest: bool  # and at least LEAST_SHARE even shares
  cos_converged: float  # cos(tau^(1), tau^(converged))
  norm_ratio: float  # |tau^(1)| / |tau^(converged)|
  cos_gradient: float  # cos(tau^(1), -grad L_t(theta_0))


def task_runs(
    results: results_lib.Results, regime: str
) -> list[results_lib.Finetuning]:
  """Returns the finetuning runs of single tasks in `regime`."""
  return [
      run
      for run in results.finetuning
      if run.regime == regime and run.task != 'multitask'
  ]


def first_epoch(run: results_lib.Finetuning) -> Run | None:
  """Returns what the first epoch is of the whole; None if it is the whole."""
  epochs = run.converged_epoch
  if epochs < 2 or not run.path_shares or 1 not in run.snapshot_epochs:
    return None
  updates = run.update_norms[:epochs]
  first = run.snapshot_epochs.index(1)
  if not run.tau_norms[-1] > 0:
    return None
  return Run(
      share=run.path_shares[0],
      even_share=1 / epochs,
      # The longest of many equal epochs does not dominate anything.
      longest=updates[0] >= max(updates)
      and run.path_shares[0] >= LEAST_SHARE / epochs,
      cos_converged=run.cos_tau_last[first],
      norm_ratio=run.tau_norms[first] / run.tau_norms[-1],
      cos_gradient=run.cos_gradient,
  )


def dominance(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 5, one finding a regime."""
  return [_dominance(results, regime) for regime in accuracy.REGIMES]


def merging(results: results_lib.Results) -> list[verdicts.Finding]:
  """Returns claim 6, one finding a regime and rule for alpha."""
  comparisons = {
      (one.regime, one.alpha_rule): one for one in accuracy.comparisons(results)
  }
  return [
      _merging(
          f'{regime}, {_RULES[rule]}',
          comparisons.get((regime, rule)),
          task_runs(results, regime),
      )
      for regime in accuracy.REGIMES
      for rule in accuracy.ALPHA_RULES
  ]


def _dominance(results: results_lib.Results, regime: str) -> verdicts.Finding:
  predicted = f'{LEAST_SHARE:g}× an even share; cos ≥ {LEAST_COSINE:.2f}'
  every = task_runs(results, regime)
  runs = [one for one in map(first_epoch, every) if one is not None]
  if not every:
    return verdicts.not_measured(regime, predicted)
  if not runs:
    return verdicts.Finding(
        regime,
        predicted,
        '-',
        verdicts.SAYS_NOTHING,
        'Every run converged in its first epoch: there is nothing to compare.',
    )
  longest = sum(run.longest for run in runs)
  aligned = sum(run.cos_converged >= LEAST_COSINE for run in runs)
  if min(longest, aligned) >= MOST_RUNS * len(runs):
    verdict = verdicts.HOLDS
  elif max(longest, aligned) < len(runs) / 2:
    verdict = verdicts.DOES_NOT_HOLD
  else:
    verdict = verdicts.IN_PART
  cosine = statistics.fmean(run.cos_converged for run in runs)
  share = statistics.fmean(run.share for run in runs)
  even_share = statistics.fmean(run.even_share for run in runs)
  norm_ratio = statistics.fmean(run.norm_ratio for run in runs)
  cos_gradient = statistics.fmean(run.cos_gradient for run in runs)
  epochs = sorted(run.converged_epoch for run in every)
  note = (
      'In length, the first epoch is the longest and at least'
      f' {LEAST_SHARE:g} times an even share in {longest} of {len(runs)} runs:'
      f' on average {share:.0%} of the path where an even share is'
      f' {even_share:.0%}, and |τ(1)| is {norm_ratio:.2f} of |τ(converged)|. In'
      f' direction, the cosine is at least {LEAST_COSINE:.2f} in {aligned} of'
      f' {len(runs)}. cos(τ(1), −∇L) is {cos_gradient:.3f}.'
      f' The lowest validation loss came after {epochs[0]} to {epochs[-1]}'
      f' epochs. It holds if both are so in {MOST_RUNS:.0%} of the runs (a run'
      ' is a task and a seed), and does not if each is in fewer than half.'
  )
  note += _capped(every)
  if len(runs) < len(every):
    note += (
        f' {len(every) - len(runs)} runs converged in their first epoch and'
        ' are left out.'
    )
  return verdicts.Finding(
      regime,
      predicted,
      f'{longest}/{len(runs)} runs; mean cos {cosine:.2f}',
      verdict,
      note,
  )


def _merging(
    where: str,
    comparison: accuracy.Comparison | None,
    runs: list[results_lib.Finetuning],
) -> verdicts.Finding:
  predicted = f'≥ {-100 * accuracy.MARGIN:+.0f} point'
  if comparison is None or comparison.difference is None:
    return verdicts.not_measured(where, predicted)
  difference, room = comparison.difference, comparison.room
  if difference.low is None or difference.high is None:
    measured = f'{100 * difference.mean:+.1f} points, 1 seed'
    interval = 'One seed has no interval, so nothing is decided.'
  else:
    measured = (
        f'{100 * difference.mean:+.1f} points'
        f' [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]'
    )
    interval = (
        'In brackets the 95% t-interval over'
        f' {difference.num_seeds} seeds, paired by seed.'
    )
  least = f'{100 * accuracy.LEAST_ROOM:.0f} points'
  if room is None:
    space = 'How much finetuning gains was not measured.'
  elif room.mean >= accuracy.LEAST_ROOM:
    space = f'Finetuning gains {100 * room.mean:.1f} points over the base.'
  else:
    space = (
        f'Finetuning gains only {100 * room.mean:.1f} points over the base;'
        f' below {least} the comparison says nothing.'
    )
  return verdicts.Finding(
      where,
      predicted,
      measured,
      comparison.verdict,
      'Merged after 1 epoch minus merged converged, mean over the tasks. '
      f'{interval} {space} It holds if the whole interval lies above -1'
      ' point, does not if the whole interval lies below, and is undecided'
      f' if -1 point lies inside.{_capped(runs)}',
  )


def _capped(runs: list[results_lib.Finetuning]) -> str:
  """Returns a sentence on runs that did not converge, '' if all did."""
  capped = sum(run.hit_cap for run in runs)
  if not capped:
    return ''
  return (
      f' {capped} of {len(runs)} runs were ended by the cap on epochs: for them'
      ' "converged" is the best epoch up to the cap, and longer finetuning may'
      ' change what is found.'
  )
