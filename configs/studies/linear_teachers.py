"""Finetuning between linear teachers, and merging what comes out.

Holds the risk of a finetuned linear model, the end of balanced deep linear
networks (L = 1, 2, 3, 7), the step-size error of descent and the risk of merged
task vectors against closed formulas, after arXiv:2107.01641. Formulas for depth
and for merging were derived for this project.

  python -m taskvec_jax.main --config=configs/studies/linear_teachers.py

Hardware and time: 2 CPU cores, float64, 130 s of processor time. Expect, over
seeds 0 to 2 (worst case over problems, or mean and one standard error):
  one layer       risk by formula and after training 9e-14 apart, relative
  flow            1e-10 from the formula at every depth (bar 1e-6)
  descent         at a tenth of the stable step up to 2.7e-3 away, rate 1.00 to
                  1.03; predicted up to a rest of rate 1.99 to 2.01
  7 layers        lower risk than one for shorter targets, and for longer ones
                  that are aligned: 105 of 105 cells outside the margin
  merging         best coefficient of two tasks of cosine 0.5: 0.67 (0.02), by
                  formula 0.71; addition against averaging as predicted in all
                  cells outside the margin; RegMean is multitask training, 6e-8
  merged networks 2e-10 from the formula; four unrelated tasks added: risk 1.25
                  with one layer, 2.8 with seven, in units of the base's
"""

from taskvec_jax.experiments.studies.linear_teachers import config


def get_config() -> config.LinearTeachersStudyConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return config.LinearTeachersStudyConfig(name='linear_teachers')
