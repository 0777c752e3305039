"""Forgetting a task, weight disentanglement and an analogy.

Reproduces in small the negation and analogies of arXiv:2212.04089 and the
disentanglement map of arXiv:2305.12827: every task forgotten under control of
the others, from the base as in the paper, and from a merged and a multitask
model, which have learned it. Six packaged tasks, at most 1,000 training images
a task, Adam until convergence.

  python -m taskvec_jax.main --config=configs/negation.py

Hardware and time: 2 CPU cores, 160 s of processor time with empty caches.
Expect, over seeds 0 to 2 (mean and standard deviation, per cent, mean over the
targets; chance is 19.5), accuracy on the target, then on the other tasks:
  base       57.1 (0.3) to 39.3 (0.9), the others 57.1 (0.3) to 55.9 (0.1)
  merged     62.3 (0.9) to 30.9 (2.4), the others 62.3 (0.9) to 59.2 (1.4);
             never merged 53.4 (1.1) and 62.9 (0.9)
  multitask  80.0 (0.7) to 68.5 (3.2), the others 80.0 (0.7) to 77.5 (0.8);
             trained without it 45.8 (0.5) and 81.0 (0.4)
So subtraction undoes what was added, and does not reach what joint training
learned. Disentanglement error of letters and animals, of 200 at most, over
0 < a <= 1: 92.1 (6.3), linearised 77.2 (8.5), at a price of 23 points of each
task's own accuracy. The analogy (digits with black and white exchanged) is
not told from chance: 10.2 (6.5), finetuned on them 97.4 (0.2).
"""

from taskvec_jax.experiments import config as config_lib
from taskvec_jax.experiments import negation_config


def get_config() -> negation_config.NegationConfig:
  """Returns the settings; the fields are explained where they are declared."""
  return negation_config.NegationConfig(
      name='negation',
      tasks=('digits', 'mnist5k', 'textures', 'faces', 'letters', 'animals'),
      model=config_lib.FFNModel(widths=(256, 128), activation='tanh'),
      max_train=1_000,
      pair=('letters', 'animals'),
      analogy=('mnist5k', 'digits'),
  )
