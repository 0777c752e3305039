"""Every merging method on the six packaged tasks, and what each was shown.

Reproduces no table of a paper: the published comparisons need CLIP and tens of
gigabytes. It puts all methods of taskvec_jax/merging on the same models, small
feed-forward encoders, beside multitask training of as many epochs, in the
regime of the theory (full-batch descent) and in that of practice (Adam). With
Adam a multitask epoch is as long as the largest task's and the smaller tasks
start again: it reads a third more images, 5,952 in place of 4,480.

  python -m taskvec_jax.main --config=configs/merging.py

Hardware and time: 2 CPU cores, 6 to 7 minutes of CPU time with empty caches; on
the clock 4 minutes with the base models cached, 10 and 17 on busy cores.
Expect, over seeds 0 to 2 (mean and standard deviation of the test accuracy, per
cent; exact, 20 epochs, and Adam, 10 epochs):

  base                        57.1 (0.3)   57.1 (0.3)
  single-task models          65.1 (0.9)   80.9 (0.4)
  multitask training          59.3 (0.5)   78.0 (0.8)
  average                     58.4 (0.5)   61.5 (0.7)
  task arithmetic, tuned      60.9 (0.8)   60.5 (1.2)
  TSV-M, alpha = 1            61.0 (0.8)   63.6 (1.2)
  Iso-C, alpha = 1.5          58.9 (0.7)   65.1 (0.9)
  RegMean                     61.2 (0.6)   68.9 (1.4)
  ATM                         59.3 (0.5)   68.6 (1.4)

At eta lambda_max = 1.5 linear response brings the average from 0.37 to 0.18 of
|theta_MT - theta_0| from multitask training; the second-order term drives it
away, to 1.6. At the small steps of the slope test both are at least 670 times
nearer than task arithmetic.
"""

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import merging_config


def get_config() -> merging_config.MergingConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return merging_config.MergingConfig(
      name='merging',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(widths=(256, 128), activation='tanh'),
      max_train=1_000,
      learning_rate=0.05,
      num_epochs=20,
      empirical=config_lib.Empirical(
          optimizer='adam', learning_rate=1e-3, batch_size=32, max_epochs=10
      ),
  )
