import numpy as np
import pytest

from taskvec_jax.tasks import glyphs
from taskvec_jax.tasks import packaged


def test_images_are_grey_bytes_and_labels_are_in_range():
  examples = glyphs.glyphs(0, num_images=30, image_size=20)
  assert examples.images.shape == (30, 20, 20, 1)
  assert examples.images.dtype == np.uint8
  assert examples.labels.dtype == np.int32
  assert examples.labels.min() >= 0
  assert examples.labels.max() < glyphs.num_classes()


def test_the_same_seed_draws_the_same_images_and_another_draws_others():
  first = glyphs.glyphs(1, num_images=50)
  again = glyphs.glyphs(1, num_images=50)
  other = glyphs.glyphs(2, num_images=50)
  np.testing.assert_array_equal(first.images, again.images)
  np.testing.assert_array_equal(first.labels, again.labels)
  assert (first.images != other.images).any()
  assert (first.labels != other.labels).any()


def test_classes_are_balanced_and_many():
  num_classes = glyphs.num_classes()
  assert num_classes >= 300
  counts = np.bincount(glyphs.glyphs(0, num_images=2 * num_classes + 7).labels)
  assert set(counts.tolist()) == {2, 3}


def test_no_two_images_are_alike():
  images = glyphs.glyphs(0, num_images=1500).images
  assert len({image.tobytes() for image in images}) == 1500


def test_digits_are_told_apart_by_subspaces_of_pixels():
  examples = glyphs.glyphs(3, num_images=40 * glyphs.num_classes())
  chosen = examples.labels < 10  # the digits
  images = examples.images[chosen].reshape(chosen.sum(), -1).astype(float)
  labels = examples.labels[chosen]
  images -= images.mean(1, keepdims=True)
  images /= np.linalg.norm(images, axis=1, keepdims=True)
  fitted = np.arange(len(labels)) % 2 == 0
  # Ink is light on dark or dark on light; a subspace knows no sign.
  bases = [
      np.linalg.svd(images[fitted & (labels == label)])[2][:6]
      for label in range(10)
  ]
  scores = np.stack([np.sum((images @ b.T) ** 2, 1) for b in bases], axis=1)
  accuracy = np.mean(scores.argmax(1)[~fitted] == labels[~fitted])
  assert accuracy > 0.3  # chance is 0.1


def test_pretraining_and_the_letters_task_share_no_font_file():
  assert glyphs.PRETRAINING_FONTS
  assert packaged.LETTERS_FONTS
  assert all(name.startswith('DejaVu') for name in glyphs.PRETRAINING_FONTS)
  letters = {str(name).rsplit('/', 1)[-1] for name in packaged.LETTERS_FONTS}
  assert not letters & set(glyphs.PRETRAINING_FONTS)


def test_nothing_to_draw_and_too_small_images_are_refused():
  with pytest.raises(ValueError, match='not 0'):
    glyphs.glyphs(0, num_images=0)
  with pytest.raises(ValueError, match='8 pixels.*is 4'):
    glyphs.glyphs(0, num_images=1, image_size=4)
