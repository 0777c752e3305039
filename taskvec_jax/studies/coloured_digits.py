"""Parity of digits whose colour gives the label away, more or less.

Every digit is red or green. A task with redness r shows an odd digit in red
with probability r and an even one with 1 - r; a share of the labels is wrong
first, so that shape alone is worth less than colour. Two such tasks agree on
shape and agree or disagree on colour: their correlation is that of their
experts' outputs on the same images,

  alpha = <g_1, g_2> / (|g_1| |g_2|),   g = logit odd - logit even,

which is how the paper measures the correlation of tasks of real networks. Odd
digits with a wrong label are coloured by the label they carry.

Source: Li, Zhang, Zhang, Wang, Liu and Chen, "When is task vector provably
effective for model editing?", arXiv:2504.10957, for tasks and correlation; the
noise in the labels is that of Arjovsky et al., "Invariant risk minimization",
arXiv:1907.02893.
"""

import numpy as np

from taskvec_jax.tasks import task as task_lib
from taskvec_jax.typing import Array


def coloured(images: np.ndarray, red: np.ndarray) -> np.ndarray:
  """Returns grey `images [N, H, W, 1]` in red or green, uint8 `[N, H, W, 3]`.

  Args:
    images: uint8.
    red: bool `[N]`, green where False.
  """
  shown = np.zeros((*images.shape[:3], 3), np.uint8)
  channel = np.where(red, 0, 1)
  shown[np.arange(len(images)), :, :, channel] = images[..., 0]
  return shown


def examples(
    digits: task_lib.Examples,
    *,
    redness: float,
    noise: float,
    seed: tuple[int, ...],
) -> task_lib.Examples:
  """Returns digits as a task of parity: 1 where the label says odd.

  The draws belong to an image, not to a task: with one seed, tasks of all
  rednesses have the same labels, and an image that is red under one redness is
  red under all larger ones if it is odd.

  Args:
    digits: grey images with labels 0 .. 9.
    redness: r, in 0 .. 1.
    noise: share of labels that are flipped before the image is coloured.
    seed: of noise and colours.

  Raises:
    ValueError: a redness or noise outside 0 .. 1.
  """
  for name, value in (('redness', redness), ('noise', noise)):
    if not 0 <= value <= 1:
      raise ValueError(f'{name} must lie in 0 .. 1 but is {value}.')
  rng = np.random.default_rng(seed)
  flips, draws = rng.random((2, len(digits.labels)))
  odd = (digits.labels % 2 == 1) ^ (flips < noise)
  red = (draws < redness) == odd
  return task_lib.Examples(coloured(digits.images, red), odd.astype(np.int32))


def output_correlation(first: Array, second: Array) -> float:
  """Returns alpha of two experts' logits, both `[N, 2]` on the same images."""
  gaps = [np.asarray(x, np.float64) for x in (first, second)]
  gaps = [x[:, 1] - x[:, 0] for x in gaps]
  sizes = np.linalg.norm(gaps[0]) * np.linalg.norm(gaps[1])
  return float(gaps[0] @ gaps[1] / sizes)
