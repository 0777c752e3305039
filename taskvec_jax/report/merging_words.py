"""The names of merging methods and one line about each, for tables and pages.

The order here is the order in which tables show the methods of one class.
"""

from typing import NamedTuple


class Words(NamedTuple):
  """What a reader needs to know of a method."""

  label: str
  about: str  # what it does with the task vectors
  source: str  # arXiv number, or 'ours'


REFERENCES = {
    'base': Words('base model', 'θ₀: no finetuning at all', ''),
    'finetuned': Words(
        'single-task models', 'each task is judged on its own model', ''
    ),
    'multitask': Words(
        'multitask training',
        'one model, trained on all tasks together for as many epochs',
        '',
    ),
}

METHODS = {
    'average': Words('average', 'mean of the models: α = 1/T', '2203.05482'),
    'model_stock': Words(
        'Model Stock',
        'the mean, pulled to the base tensor by tensor by the angle between'
        ' the task vectors',
        '2403.19522',
    ),
    'task_arithmetic': Words(
        'task arithmetic', 'sum of the task vectors, times α', '2212.04089'
    ),
    'linearised': Words(
        'linearised task arithmetic',
        'the same parameters in the model that is linear around the base',
        '2305.12827',
    ),
    'ties': Words(
        'TIES',
        'the largest 20%, elected sign, mean of what agrees',
        '2306.01708',
    ),
    'ties_reference': Words(
        'TIES, as in code',
        'the same with a sum, and sign ties by majority, as the reference'
        ' code and its users have it',
        '2306.01708',
    ),
    'dare': Words(
        'DARE', 'entries dropped at random, the rest rescaled', '2311.03099'
    ),
    'dare_ties': Words('DARE + TIES', 'DARE, then TIES', '2311.03099'),
    'breadcrumbs': Words(
        'Breadcrumbs', 'without the smallest and largest entries', '2312.06795'
    ),
    'consensus': Words(
        'Consensus (TALL masks)',
        'entries that at least two tasks claim',
        '2405.07813',
    ),
    'consensus_localized': Words(
        'Consensus, tuned masks',
        'the same, thresholds of the masks chosen on validation data',
        '2405.07813',
    ),
    'pcgrad': Words(
        'PCGrad',
        'each task vector without what points against another',
        '2001.06782',
    ),
    'magmax': Words(
        'MagMax', 'of each entry the largest task vector', '2407.06322'
    ),
    'tsv_m': Words(
        'TSV-M',
        'leading singular vectors, made orthogonal between tasks',
        '2412.00081',
    ),
    'iso_c': Words(
        'Iso-C', 'sum of matrices with equal singular values', '2502.04959'
    ),
    'iso_cts': Words(
        'Iso-CTS', 'Iso-C with room for each task’s directions', '2502.04959'
    ),
    'greedy_soup': Words(
        'greedy soup',
        'mean of the models that each raised the score',
        '2203.05482',
    ),
    'atlas': Words(
        'aTLAS', 'a learned coefficient a task and tensor', '2407.02880'
    ),
    'adamerging_task': Words(
        'AdaMerging, task-wise',
        'coefficients that make predictions on test inputs sure',
        '2310.02575',
    ),
    'adamerging_task_pp': Words(
        'AdaMerging++, task-wise', 'the same after TIES’ trimming', '2310.02575'
    ),
    'adamerging_layer': Words(
        'AdaMerging, layer-wise',
        'one coefficient a task and tensor',
        '2310.02575',
    ),
    'adamerging_layer_pp': Words(
        'AdaMerging++, layer-wise',
        'the same after TIES’ trimming',
        '2310.02575',
    ),
    'fisher': Words(
        'Fisher merging',
        'entries weighted by the diagonal Fisher matrix',
        '2111.09832',
    ),
    'regmean': Words(
        'RegMean', 'kernels that fit all tasks’ own outputs', '2212.09849'
    ),
    'uncertainty': Words(
        'uncertainty matching',
        'task vectors weighted by Fisher matrix and a prior',
        '2310.12808',
    ),
    'perturb_and_merge_fisher': Words(
        'P&M, Fisher',
        'one task after another, step by curvature (diagonal Fisher)',
        '2505.22389',
    ),
    'perturb_and_merge_hessian': Words(
        'P&M, true Hessian',
        'the same by Hessian-vector products',
        '2505.22389',
    ),
    'grad_sign': Words(
        'GradFix',
        'entries whose sign agrees with descent at the base',
        '2510.09658',
    ),
    'atm': Words(
        'ATM',
        'finetuning and averaging in turn, epochs as for all others',
        '2411.03055',
    ),
    'second_order': Words(
        'second-order merge',
        'task arithmetic at 1/T less η²C (3.6)',
        'ours',
    ),
    'linear_response': Words(
        'linear-response merge',
        'task arithmetic at 1/T less Δ (3.7)',
        'ours',
    ),
}


def words(method: str) -> Words:
  """Returns the words about a method or a reference."""
  return {**REFERENCES, **METHODS}[method]
