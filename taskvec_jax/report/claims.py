"""What the paper claims, what theory predicts, and what a run measured.

One list for the terminal's table and for the page. The claims are the paper's
in our own words; claim 3 is this project's own addition and says so. Each
claim is judged in several parts (dtypes, regimes, rules for alpha), and each
part has its own verdict: a claim that holds for exact gradients may fail for
mini-batches.

Source: Zhou et al., "On Task Vectors and Gradients", arXiv:2508.16082.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import itertools
import textwrap
from typing import Any
from typing import NamedTuple

from taskvec_jax.report import first_epoch_findings
from taskvec_jax.report import response_findings
from taskvec_jax.report import results as results_lib
from taskvec_jax.report import second_order_findings


class Claim(NamedTuple):
  """One part of one claim, judged."""

  number: int
  title: str  # the claim in a few words
  claim: str  # the claim in a sentence
  where: str  # the part: a dtype, a regime, a rule for alpha
  predicted: str
  measured: str
  verdict: str  # a word of verdicts.py
  note: str  # the criterion, and what to keep in mind


_STATEMENTS = (
    (
        'one epoch is exact',
        'After one epoch of full-batch gradient descent, adding the task'
        ' vectors to the base gives the very parameters that one step of'
        ' multitask training gives.',
        second_order_findings.equality,
    ),
    (
        'the gap is second order',
        'After more epochs merging and multitask training differ, by a term of'
        ' second order in the learning rate that can be written down from'
        ' gradients and Hessians; what it leaves is of third order.',
        second_order_findings.rates,
    ),
    (
        'linear response (ours)',
        'This project’s own addition, not the paper’s: linear response'
        ' predicts the gap at practical step sizes, where the second-order'
        ' term no longer does, and one more gradient tells where it fails.',
        response_findings.response,
    ),
    (
        'the gap can be bounded',
        'For feed-forward networks the second-order term has a bound that'
        ' follows from the network’s weights and the size of its inputs.',
        second_order_findings.ladder,
    ),
    (
        'the first epoch dominates',
        'The gradient of the first epoch dominates finetuning, in length and'
        ' in direction.',
        first_epoch_findings.dominance,
    ),
    (
        'one epoch is enough to merge',
        'Merging models that were finetuned for one epoch is about as good as'
        ' merging converged ones.',
        first_epoch_findings.merging,
    ),
)

_WIDTH = 96
_INDENT = '  '
_COLUMNS = (('', 22), ('predicted', 23), ('measured', 30), ('verdict', 13))
# Terminals and log files that know no Greek.
_ASCII = {
    'η²C': 'eta^2 C',
    'ηλ': 'eta*lambda',
    'α': 'alpha',
    'β': 'beta',
    'γ': 'gamma',
    'Δ': 'Delta',
    'δ': 'delta',
    'ε': 'epsilon',
    'η': 'eta',
    'θ': 'theta',
    'λ': 'lambda',
    'ρ': 'rho',
    'τ': 'tau',
    '₁': '_1',
    '₂': '_2',
    '²': '^2',
    '⋆': '*',
    'ᵀ': "'",
    '−': '-',
    '±': '+-',
    '×': 'x',
    '≤': '<=',
    '≥': '>=',
    '’': "'",
}


def claims(results: results_lib.Results) -> list[Claim]:
  """Returns every part of every claim, judged on `results`, in order."""
  return judged(_STATEMENTS, results)


def judged(
    statements: Iterable[tuple[str, str, Callable]], results: Any
) -> list[Claim]:
  """Returns every part of every claim, judged on `results`, in order.

  Args:
    statements: (title, claim, function from `results` to its findings).
    results: what a run found.
  """
  return [
      Claim(number, title, claim, **vars(finding))
      for number, (title, claim, findings) in enumerate(statements, start=1)
      for finding in findings(results)
  ]


def format_table(claims: list[Claim]) -> str:
  """Returns a plain ASCII table, at most 96 columns, without a last newline."""
  lines = [_line([name for name, _ in _COLUMNS]), '-' * _WIDTH]
  number = 0
  for claim in claims:
    if claim.number != number:
      number = claim.number
      lines.append(plain_ascii(f'{claim.number} {claim.title}'))
    cells = (claim.where, claim.predicted, claim.measured, claim.verdict)
    columns = [
        textwrap.wrap(plain_ascii(cell), width)
        for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    ]
    rows = itertools.zip_longest(*columns, fillvalue='')
    lines.extend(_line(row) for row in rows)
  return '\n'.join(lines)


def plain_ascii(text: str) -> str:
  """Returns `text` with its symbols spelled out."""
  for symbols, words in _ASCII.items():
    text = text.replace(symbols, words)
  return text


def _line(cells: Sequence[str]) -> str:
  padded = [
      cell.ljust(width)
      for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
  ]
  return (_INDENT + '  '.join(padded)).rstrip()
