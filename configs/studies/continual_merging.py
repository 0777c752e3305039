"""Perturb-and-Merge on tasks that come one after another.

Asks of arXiv:2505.22389: is the closed-form coefficient the best one, what does
the perturbation add, and what does the last model know? On quadratics in
float64, on five permutations of 5,000 MNIST digits with one head, and on the
six packaged tasks with a head each; a feed-forward encoder 128-64, Adam, ten
epochs and at most 1,000 images a task.

  python -m taskvec_jax.main --config=configs/studies/continual_merging.py

Hardware and time: 2 CPU cores, 190 to 220 s of processor time.
Expect, over seeds 0 to 2 (mean and standard deviation):
  quadratics  coefficient and line search 1e-8 apart; perturbing shortens the
              step by 6/7 and a line search undoes it, to 1e-8
  networks    E - L is p eps^2 Delta' H Delta with a rest of slope 3.92 to 4.01,
              1.08 to 1.49 of it at eps 0.5; Delta meets 6 to 32 times the
              curvature that noise of its length meets; perturbed training
              leaves 0.31 to 0.68 of Delta' H Delta, with a LONGER Delta
  coefficient within 0.1 of the measured minimum in 1 of 24 by Hessians and
              empirical Fishers on permuted digits after plain training, in 20
              of 30 on the packaged tasks
  accuracy, per cent, of the last model on all tasks:
                          permuted digits   packaged tasks
    a model for each task   88.9 (0.3)        79.5 (0.5)
    average of those        46.6 (2.4)        58.5 (0.9)
    sequential finetuning   74.1 (3.1)        50.3 (3.2)
    EWC                     73.7 (3.7)        58.3 (1.6)
    closed form alone       66.8 (0.6)        58.6 (1.2)
    Perturb-and-Merge       73.9 (2.1)        55.8 (1.3)
    the same, line search   78.9 (1.0)        60.6 (0.4)
So Perturb-and-Merge is level with sequential finetuning on the one and below
the average on the other; with the coefficient at the measured minimum, for
which the earlier tasks' examples are needed, it is above both on both.
EWC's strength and MagMax's scaling were set on seed 100.
"""

from taskvec_jax.experiments.studies.continual_merging import config


def get_config() -> config.ContinualMergingStudyConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return config.ContinualMergingStudyConfig(name='continual_merging')
