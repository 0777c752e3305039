"""Tasks in the original files of the MNIST family (IDX), gzipped or not.

A folder holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the
same two with `t10k` for the test set, each with or without `.gz`. A file is

  0 0 type ndim | ndim sizes, 4 bytes each, big-endian | the values,

and only type 8, unsigned bytes, is in use. Files are checked in full: a wrong
magic number, a wrong number of bytes, or labels that do not fit the images are
errors that name the file and both values.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

import gzip
import pathlib
import struct
import zlib

import numpy as np

from taskvec_jax.tasks import task as task_lib

# Where Debian's package dataset-fashion-mnist puts its files.
_DEBIAN_FASHION_MNIST = pathlib.Path('/usr/share/datasets/fashion-mnist')
_FASHION_CLASSES = (
    'T-shirt/top',
    'trouser',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'ankle boot',
)


def load_idx(
    folder: str | pathlib.Path,
    *,
    name: str | None = None,
    class_names: tuple[str, ...] | None = None,
) -> task_lib.Task:
  """Returns the task in an IDX folder, images [N, H, W, 1].

  Args:
    folder: with the four files.
    name: of the task; None for the folder's own name.
    class_names: None for '0', '1', ... up to the largest training label.

  Raises:
    ValueError: if a file is missing, damaged, or does not fit the others.
  """
  folder = pathlib.Path(folder).expanduser()
  train = _read_split(folder, 'train')
  test = _read_split(folder, 't10k')
  if class_names is None:
    class_names = tuple(str(c) for c in range(int(train.labels.max()) + 1))
  return task_lib.check_task(
      task_lib.Task(
          name=name or folder.resolve().name,
          train=train,
          test=test,
          num_classes=len(class_names),
          class_names=class_names,
      )
  )


def load_fashion_mnist(
    data_dir: str | pathlib.Path | None = None,
) -> task_lib.Task:
  """Returns Fashion-MNIST: 60,000 + 10,000 images 28 x 28 of clothes.

  White on black, 10 classes, the authors' own split. Looked for in
  `data_dir`/fashion_mnist, then where Debian's package puts it.

  Raises:
    ValueError: if it is in neither place; says where it looked.
  """
  places = [_DEBIAN_FASHION_MNIST]
  if data_dir is not None:
    places.insert(0, pathlib.Path(data_dir).expanduser() / 'fashion_mnist')
  for place in places:
    if place.is_dir():
      return load_idx(place, name='fashion_mnist', class_names=_FASHION_CLASSES)
  looked = ' or '.join(str(place) for place in places)
  raise ValueError(
      f'Fashion-MNIST is not in {looked}; install it with `apt-get install'
      ' dataset-fashion-mnist` or put its four IDX files into'
      ' DATA_DIR/fashion_mnist.'
  )


def read_idx(path: str | pathlib.Path) -> np.ndarray:
  """Returns the uint8 array of one IDX file, gzipped if it ends in `.gz`.

  Raises:
    ValueError: names the file, what was found and what was expected.
  """
  path = pathlib.Path(path)
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f'{path} cannot be read: {error}.') from error
  if len(data) < 4 or data[:3] != b'\x00\x00\x08' or not data[3]:
    raise ValueError(
        f'{path} is not an IDX file of unsigned bytes: it begins with'
        f' {data[:4].hex(" ") or "nothing"}, but 00 00 08 and the number of'
        ' dimensions are needed.'
    )
  start = 4 + 4 * data[3]
  if len(data) < start:
    raise ValueError(
        f'{path} ends inside its header: {len(data)} bytes, but {start} are'
        ' needed.'
    )
  shape = struct.unpack(f'>{data[3]}I', data[4:start])
  values = np.frombuffer(data, np.uint8, offset=start)
  # In Python's integers: a damaged header may overflow NumPy's.
  expected = 1
  for size in shape:
    expected *= size
  if values.size != expected:
    raise ValueError(
        f'{path} holds {values.size} values, but its header says'
        f' {list(shape)}, which is {expected}.'
    )
  return values.reshape(shape)


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
  for path in (folder / name, folder / f'{name}.gz'):
    if path.is_file():
      return path
  raise ValueError(f'there is no {name} or {name}.gz in the folder {folder}.')


def _read_split(folder: pathlib.Path, prefix: str) -> task_lib.Examples:
  images_path = _find(folder, f'{prefix}-images-idx3-ubyte')
  labels_path = _find(folder, f'{prefix}-labels-idx1-ubyte')
  images, labels = read_idx(images_path), read_idx(labels_path)
  for path, array, ndim in ((images_path, images, 3), (labels_path, labels, 1)):
    if array.ndim != ndim or not len(array):
      raise ValueError(
          f'{path} holds an array {list(array.shape)}, but {ndim} dimensions,'
          ' none empty, are needed.'
      )
  if len(images) != len(labels):
    raise ValueError(
        f'{images_path} holds {len(images)} images, but {labels_path} holds'
        f' {len(labels)} labels.'
    )
  return task_lib.Examples(images[..., None], labels.astype(np.int32))
