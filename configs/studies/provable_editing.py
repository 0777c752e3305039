"""When a task vector is provably effective: predicted and measured regions.

Holds the theorems of arXiv:2504.10957 against trained one-layer transformers:
addition, negation and out-of-domain arithmetic over coefficient and correlation
of tasks, 21 x 21 cells each, then low-rank and pruned task vectors, then
coloured digits on a small network. Constants of the predicted regions, their
margin and the tolerance were fixed before these maps were measured, but after
pilots with other seeds that chose sizes and grids; step size and rednesses of
the digits were chosen on seed 0.

  python -m taskvec_jax.main --config=configs/studies/provable_editing.py

Hardware and time: 2 CPU cores, 45 s of processor time.
Expect, over seeds 0 to 2, agreement outside a margin of one cell (per cent; the
spread is 0.2 or less unless given):
  addition        theorem 100, margin law 100; irrelevant tasks need
                  lambda >= 0.895, which is 1 - beta and not 1 + beta
  negation        theorem 89.3 with upper end +beta/|alpha|, 87.3 with -, and 71
                  and 61 of what they promise; margin law 100. An irrelevant
                  task comes back from lambda = -1.8 down
  out of domain   theorem 97.4 (one source) and 88.0 (two), all it promises
                  holds; margin law 100 and 100
  rank 1          the map of addition in 99.3 of its cells; 2 % of the entries
                  do, no neuron can be spared
  coloured digits alpha -0.65 (0.09), -0.35 (0.06), 0.17 (0.07), 0.84 (0.02),
                  0.95 (0.02): negation as predicted in all, addition in three:
                  it lacks 17.7 (3.1) points at 0.17 and 6.5 (1.7) at 0.84
"""

from taskvec_jax.experiments.studies.provable_editing import config


def get_config() -> config.ProvableEditingStudyConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return config.ProvableEditingStudyConfig(name='provable_editing')
