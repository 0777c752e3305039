"""Sparse task-specific predictors, and sparse coefficients of task vectors.

Reproduces, in small, what arXiv:2211.14666 says of disentanglement and
sparsity, on a synthetic world of this project's (the paper's generator is not
public), and puts the same inner problem on coefficients of task vectors.

  python -m taskvec_jax.main --config=configs/studies/sparse_predictors.py

Hardware and time: 2 CPU cores, 110 to 160 s of processor time, measured while
other jobs ran. Expect, over seeds 0 to 2:
  derivative     features and penalty within 2e-9 of finite differences; with
                 the support found, after 14 to 33 sweeps, dw/dlambda is exact
  examples       lead in R^2 of the lasso on disentangled features, mean over
                 n = 25 to 150: +0.28 at l/m = 5 %, +0.16 at 20 %, -0.07 at
                 80 %. Ridge does not see the rotation (7e-14), and stays
                 within 0.075 of its limit law, not within the 0.05 asked for
  features       MCC at rho = 0, 0.45, 0.9: lasso (l1 = 0.3) 0.99, 0.99, 0.88;
                 ridge (l2 = 0.01) 0.73, 0.74, 0.69; affine R^2 0.99 for all
  task vectors   12 sources, 20 images a target: the largest coefficient is the
                 source's for 83 % of the targets (ridge 83 %), both of a
                 mixture for 61 % (56 %). Sources used: 5.0 and 7.4 of 12.
                 Accuracy: base 51.1, lasso 77.4 (2.8), ridge 76.3 (1.2), the
                 source's own task vector 82.8 (0.9)
"""

from taskvec_jax.experiments.studies.sparse_predictors import config


def get_config() -> config.SparsePredictorsStudyConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return config.SparsePredictorsStudyConfig(name='sparse_predictors')
