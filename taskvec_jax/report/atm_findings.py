"""What an ATM run says of each question, with the criteria.

Accuracies are means over the tasks at the end of a training, one number a
seed; differences are taken seed by seed (`spreads`). Published figures come
from other models and are compared in shape alone.

Source: Zhou et al., "ATM: Improving Model Merging by Alternating Tuning and
Merging", arXiv:2411.03055. That the mean makes it federated averaging, and the
questions about equal budgets, are this project's.
"""

from taskvec_jax.report import accuracy
from taskvec_jax.report import atm_results
from taskvec_jax.report import claims as claims_lib
from taskvec_jax.report import spreads
from taskvec_jax.report import verdicts

ULPS_A_ROUND = 1.0  # allowed, of the gap's norm: errors travel on


def claims(results: atm_results.Results) -> list[claims_lib.Claim]:
  """Returns every part of every question, judged, in order."""
  return claims_lib.judged(_STATEMENTS, results)


def final(
    results: atm_results.Results, method: str, num_rounds: int | None = None
) -> dict[int, float]:
  """Returns seed -> mean accuracy after the last round of a training.

  Args:
    results: what the run found.
    method: of `atm_results.METHODS`.
    num_rounds: of which split; None for the one with the most rounds.
  """
  own = [curve for curve in results.curves if curve.method == method]
  if num_rounds is None:
    num_rounds = max((curve.num_rounds for curve in own), default=0)
  return {
      curve.seed: accuracy.over_tasks(curve.accuracy[-1])
      for curve in own
      if curve.num_rounds == num_rounds
  }


def split_names(results: atm_results.Results) -> dict[int, str]:
  """Returns rounds -> 'ROUNDSxEPOCHS' of PA-ATM, many rounds first."""
  return {
      curve.num_rounds: f'{curve.num_rounds}x{curve.num_epochs}'
      for curve in sorted(results.curves, key=lambda c: -c.num_rounds)
      if curve.method == 'pa'
  }


def _identity(results: atm_results.Results) -> list[verdicts.Finding]:
  predicted = f'|gap| at most {ULPS_A_ROUND:g} ulp a round'
  if not results.identity:
    return [verdicts.not_measured('rounding', predicted)]
  found = []
  for one in results.identity:
    number = len(one.gap_ulps)
    within = all(
        ulps <= ULPS_A_ROUND * (index + 1)
        for index, ulps in enumerate(one.gap_ulps)
    )
    verdict = verdicts.of(within)
    share = one.gap_norms[-1] / one.path_norms[-1]
    found.append(
        verdicts.Finding(
            one.dtype,
            predicted,
            f'{one.gap_ulps[-1]:.1f} ulps after {number} rounds, {share:.0e} of'
            ' the path',
            verdict if one.path_norms[0] > 0 else verdicts.SAYS_NOTHING,
            'An ulp is ε times the norm of |θ₀| + Σ |α τ / T|, the sum over'
            ' tasks and rounds so far; the step itself is much longer. The'
            ' worst single parameter differs by'
            f' {max(one.largest_ulps):.1f} units of its own size, which is not'
            ' judged: where it is near zero and the examples’ gradients cancel,'
            ' its size does not cover their rounding.',
        )
    )
  return found


def _splits(results: atm_results.Results) -> list[verdicts.Finding]:
  names = split_names(results)
  rounds = list(names)
  pairs = list(zip(rounds[:-1], rounds[1:], strict=True))
  if len(rounds) > 2:
    pairs.append((rounds[0], rounds[-1]))
  return [
      spreads.higher(
          f'{names[more]} above {names[fewer]}',
          final(results, 'pa', more),
          final(results, 'pa', fewer),
          f'All splits read every task’s images {results.budget} times, and'
          ' start from the same base model. More rounds send more: 2 T copies'
          ' of the parameters each.',
      )
      for more, fewer in pairs
  ] or [verdicts.not_measured('two splits', spreads.HIGHER)]


def _multitask(results: atm_results.Results) -> list[verdicts.Finding]:
  ours = final(results, 'pa')
  return [
      spreads.higher(
          'PA-ATM above multitask, as many images',
          ours,
          final(results, 'joint'),
          'Multitask training takes a batch of every task a step, by the same'
          ' rule, and stops each round where it has read as many images. On'
          ' separate machines it would send parameters every step instead of'
          ' every round.',
      ),
      spreads.higher(
          'PA-ATM above multitask, as little sent',
          ours,
          final(results, 'descent'),
          'One exact step on the mean of all tasks’ losses a round: the same'
          ' images and the same communication, at the step size that is best'
          ' on validation data. This is FedSGD.',
      ),
  ]


def _fedavg(results: atm_results.Results) -> list[verdicts.Finding]:
  found = [
      spreads.higher(
          'PA-ATM (weights 1/T) above FedAvg by images',
          final(results, 'pa'),
          final(results, 'fedavg'),
          'Nothing differs but the weights of the average. Accuracy is a mean'
          ' over tasks, small ones counting as much as large ones, which is'
          ' what weights of 1/T train for.',
      )
  ]
  if final(results, 'ties'):
    found.append(
        spreads.higher(
            'mean above TIES as merge step',
            final(results, 'pa'),
            final(results, 'ties'),
            'The same rounds with TIES, at its published numbers, in place of'
            ' the mean.',
        )
    )
  return found


def _post_hoc(results: atm_results.Results) -> list[verdicts.Finding]:
  refined = final(results, 'ph')
  start = final(results, 'pa', 1)
  return [
      spreads.higher(
          'PH-ATM above the merge it refines',
          refined,
          start,
          'The start is the mean of models that spent the whole budget apart.'
          ' Rounds read validation images, with their labels, which can then'
          ' choose nothing else.',
      ),
      spreads.higher(
          'PH-ATM above multitask on the same images',
          refined,
          final(results, 'ph-joint'),
          'From the same merge, multitask training on the same validation'
          ' images, as many of them a round.',
      ),
  ]


_STATEMENTS = (
    (
        'a round is a multitask step',
        'With one full-batch epoch of gradient descent a round and the mean as'
        ' merge step, alternating tuning and merging is multitask descent with'
        ' the step size α η on the mean of the losses, to rounding.',
        _identity,
    ),
    (
        'more, shorter rounds',
        'Of one budget of epochs, more rounds of fewer epochs give a better'
        ' model; one round is plain averaging of models trained apart.',
        _splits,
    ),
    (
        'against multitask training',
        'Our question: is ATM better than multitask training that reads as many'
        ' images, and than multitask training that also sends as little?',
        _multitask,
    ),
    (
        'against FedAvg',
        'Our question: ATM with the mean is federated averaging with one weight'
        ' for every task; what do FedAvg’s own weights, or TIES, change?',
        _fedavg,
    ),
    (
        'refining a merged model',
        'Rounds on a little validation data improve a model that is merged'
        ' already (PH-ATM); our question: more than multitask training on the'
        ' same images would?',
        _post_hoc,
    ),
)
