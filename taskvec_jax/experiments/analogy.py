"""An analogy between tasks: C is to D as A is to B.

  theta_0 + lambda (tau_C + tau_B - tau_A)  is to solve D,

of which no image is trained on. A and C are tasks; B and D are the same with
black and white exchanged, under the heads that were fitted on the images as
they were. lambda is chosen on D's validation images, for the sum and for tau_C
alone, which is what there is without the analogy.

Source: Ilharco et al., "Editing models with task arithmetic",
arXiv:2212.04089.
"""

from collections.abc import Callable
from collections.abc import Sequence

from taskvec_jax.experiments import evaluation
from taskvec_jax.experiments import negation_models
from taskvec_jax.experiments import setting as setting_lib
from taskvec_jax.merging import coefficient_search
from taskvec_jax.report import negation_results
from taskvec_jax.task_vectors import arithmetic
from taskvec_jax.typing import Params


def analogy(
    setting: setting_lib.Setting,
    finetune: Callable[..., Params],
    *,
    known: str,
    asked: str,
    scalings: Sequence[float],
    seed: int,
) -> negation_results.Analogy:
  """Returns how well the analogy solves D, beside what it has to beat.

  Args:
    setting: gives base, heads and examples.
    finetune: `(setting, task, name of the run) -> converged params`.
    known: A, a task.
    asked: C, a task.
    scalings: candidates for lambda, rising.
    seed: for the row.
  """
  base_params = setting.base_params
  target = negation_models.inverted(setting, asked)  # D

  def task_vector(of_setting, task, name):
    return arithmetic.task_vector(finetune(of_setting, task, name), base_params)

  vectors = {
      'A': task_vector(setting, known, known),
      'B': task_vector(
          negation_models.inverted(setting, known), known, f'inverted_{known}'
      ),
      'C': task_vector(setting, asked, asked),
  }
  total = arithmetic.weighted_sum(vectors, {'A': -1.0, 'B': 1.0, 'C': 1.0})
  validation = evaluation.place(target, 'validation')

  def chosen(vector):
    curves = evaluation.curves(validation, base_params, vector, scalings)
    return coefficient_search.choose(scalings, curves[asked])

  scaling, alone = chosen(total), chosen(vectors['C'])
  models = {
      'base': base_params,
      'C alone': arithmetic.edit(base_params, vectors['C'], alone),
      'analogy': arithmetic.edit(base_params, total, scaling),
      'D itself': finetune(target, asked, f'inverted_{asked}'),
  }
  test = evaluation.place(target, 'test')
  return negation_results.Analogy(
      seed=seed,
      known=known,
      asked=asked,
      scaling=scaling,
      scaling_alone=alone,
      accuracy={
          name: evaluation.accuracies(test, {asked: params})[asked]
          for name, params in models.items()
      },
  )
