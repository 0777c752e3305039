"""Forgetting between two tasks that differ by a rotation or a permutation.

Of arXiv:2207.06475: the two-task regression with d = 20, n = 100, gamma = 1
(its figures 3 to 5, over p), its bound over p, n, d and gamma, and in small its
figure 1, ten permutations of MNIST images met by perceptrons of growing width.
Derived here: the exact mean forgetting over all rotations, and the same problem
seen as task vectors.

  python -m taskvec_jax.main --config=configs/studies/forgetting.py

Hardware and time: 2 CPU cores, 210 to 270 s of processor time (measured while
other jobs ran), 73 s of it on images. Expect, over seeds 0 to 2:
  exact mean        within 1.9 standard errors of 2,000 rotations at all of
                    p = 150, 200, 300, 400, 800; permutations -3.6 % to +1.2 %
                    off
  the bound         0 of 3,420 rotations above it; 275 to 3,179 times the mean
  descent           1e-8 from the solutions of least norm, 8e-15 from the
                    closed form at every number of steps
  sum / sequence    0.55 to 0.62 of the excess risk on A, 8.0 to 8.4 times that
                    on B, 1.06 to 1.17 times that on both
  images            widths 16, 64, 256: forgetting 11.1 (0.6), 10.6 (1.0), 10.2
                    (0.7) points, undecided; per cent right after the sequence
                    63.3 (1.3), 70.4 (0.7), 72.1 (1.4), merged 44.7 (4.1), 50.7
                    (1.0), 54.0 (2.7)
"""

from taskvec_jax.experiments.studies.forgetting import config


def get_config() -> config.ForgettingStudyConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return config.ForgettingStudyConfig()
