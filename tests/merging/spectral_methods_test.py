"""TSV-M, Iso-C and Iso-CTS, and the numerical rank that all three cut at."""

import ml_dtypes
import numpy as np
import pytest
from scipy import linalg

from taskvec_jax.merging import eigenvectors
from taskvec_jax.merging import iso
from taskvec_jax.merging import numerical_rank
from taskvec_jax.merging import parking
from taskvec_jax.merging import spectra
from taskvec_jax.merging import tsv
from tests.merging import cases
from tests.merging import spectral_oracle

_METHODS = {
    'tsv_m': (tsv.tsv_m, spectral_oracle.tsv_m),
    'iso_c': (iso.iso_c, spectral_oracle.iso_c),
    'iso_cts': (
        iso.iso_cts,
        lambda matrices: spectral_oracle.iso_cts(matrices, 0.8),
    ),
    'iso_cts, half in common': (
        lambda tasks, **kw: iso.iso_cts(tasks, common_fraction=0.5, **kw),
        lambda matrices: spectral_oracle.iso_cts(matrices, 0.5),
    ),
    'iso_cts, nothing in common': (
        lambda tasks, **kw: iso.iso_cts(tasks, common_fraction=0.0, **kw),
        lambda matrices: spectral_oracle.iso_cts(matrices, 0.0),
    ),
}
_SHAPE = (24, 20)


@pytest.fixture(params=['LAPACK', 'polar factor'])
def each_way(request, monkeypatch):
  """Decomposes all matrices of float64 as if they were small, or large."""
  if request.param == 'polar factor':
    monkeypatch.setattr(spectra, 'MAX_LAPACK', -1)


@pytest.fixture(params=['as small', 'as large'])
def in_parts(request, monkeypatch):
  """Works with matrices of float32 as if they were small, or large."""
  if request.param == 'as large':
    monkeypatch.setattr(parking, 'NUM_FACTOR_ROWS', 7)
    monkeypatch.setattr(eigenvectors, '_MAX_WHOLE', 0)
    monkeypatch.setattr(eigenvectors, '_NUM_VECTORS', 4)


def matrices_of(num_tasks, rank, seed=0):
  """Returns matrices of `rank` with singular values from about 1 to 5."""
  rng = np.random.default_rng([seed, num_tasks, rank])
  found = []
  for _ in range(num_tasks):
    left, _ = np.linalg.qr(rng.normal(size=(_SHAPE[0], rank)))
    right, _ = np.linalg.qr(rng.normal(size=(_SHAPE[1], rank)))
    values = np.linspace(5.0, 1.0, rank) * rng.uniform(0.98, 1.02, rank)
    found.append((left * values) @ right.T)
  return found


def tasks_of(matrices):
  return {f'task {i}': {'kernel': m} for i, m in enumerate(matrices)}


def assert_close(merged, expected, tolerance=1e-8):
  """Asserts that matrices agree, relative to the largest entry."""
  np.testing.assert_allclose(
      merged, expected, rtol=0, atol=tolerance * np.abs(expected).max()
  )


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('rank', [20, 2, 1])
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
@pytest.mark.parametrize('name', _METHODS)
def test_a_matrix_is_merged_as_without_any_svd(name, num_tasks, rank):
  method, oracle = _METHODS[name]
  matrices = matrices_of(num_tasks, rank)
  assert_close(method(tasks_of(matrices))['kernel'], oracle(matrices))


@pytest.mark.usefixtures('in_parts')
@pytest.mark.parametrize('num_tasks', cases.NUM_TASKS)
@pytest.mark.parametrize('shape', [(24, 20), (20, 24), (20, 20)])
@pytest.mark.parametrize('name', _METHODS)
def test_float32_is_merged_as_exactly_as_it_can_be_stored(
    name, shape, num_tasks
):
  method, oracle = _METHODS[name]
  rng = np.random.default_rng([num_tasks, *shape])
  matrices = []
  for rank in [20, 20, 5, 1, 20, 20, 20, 20][:num_tasks]:
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
    values = np.geomspace(1.0, 0.01, rank)
    matrices.append(((left * values) @ right.T).astype(np.float32))
  merged = method(tasks_of(matrices))['kernel']
  assert merged.dtype == np.float32
  exact = oracle([_denoised(m.astype(np.float64)) for m in matrices])
  assert_close(merged, exact, 3e-6)  # of decompositions in float32: 9e-6


@pytest.mark.usefixtures('in_parts')
@pytest.mark.parametrize('factor', [1.0, 1e-25, 1e25])
@pytest.mark.parametrize('shape', [(24, 20), (20, 24)])
@pytest.mark.parametrize('name', _METHODS)
def test_a_cut_of_8_bits_needs_squares_of_float32_only(name, shape, factor):
  method, oracle = _METHODS[name]
  rng = np.random.default_rng(0)
  matrices = []
  for _ in range(2):
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], 3)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], 3)))
    values = np.linspace(2.0, 1.0, 3)
    matrices.append(((left * values) @ right.T).astype(np.float32))
  merged = method(
      tasks_of([np.float32(factor) * m for m in matrices]), rank_tolerance=0.125
  )['kernel']
  assert merged.dtype == np.float32
  exact = oracle([_denoised(m.astype(np.float64)) for m in matrices])
  assert_close(merged.astype(np.float64) / factor, exact, 1e-5)


def _denoised(matrix):
  """Returns a matrix without what rounding to float32 put into it."""
  left, values, right = np.linalg.svd(matrix, full_matrices=False)
  values[values < 1e-4 * values[0]] = 0.0
  return (left * values) @ right


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('name', _METHODS)
def test_zeros_give_zeros_and_change_no_other_task(name):
  method, oracle = _METHODS[name]
  zeros = np.zeros(_SHAPE)
  assert not np.any(method(tasks_of([zeros] * 2))['kernel'])
  matrices = [*matrices_of(1, 3), zeros]
  assert_close(method(tasks_of(matrices))['kernel'], oracle(matrices))


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('name', _METHODS)
@pytest.mark.parametrize('shape', [(1, 1), (1, 4), (5, 2)])
def test_small_matrices_have_their_rules(name, shape):
  method, oracle = _METHODS[name]
  rng = np.random.default_rng(0)
  matrices = [rng.normal(size=shape) for _ in range(8)]
  assert_close(method(tasks_of(matrices))['kernel'], oracle(matrices))


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('name', _METHODS)
def test_a_change_by_1e_12_changes_a_rank_deficient_merge_by_less_than_1e_6(
    name,
):
  method, _ = _METHODS[name]
  matrices = matrices_of(3, 2)  # a sum of rank 6, of 20
  rng = np.random.default_rng(1)
  noise = [rng.normal(size=_SHAPE) for _ in matrices]
  moved = [
      m + 1e-12 * np.linalg.norm(m) / np.linalg.norm(n) * n
      for m, n in zip(matrices, noise, strict=True)
  ]
  change = cases.relative_change(
      method(tasks_of(moved))['kernel'], method(tasks_of(matrices))['kernel']
  )
  assert change < 1e-6
  # The cut is what does it: with none, rounding decides.
  uncut = [
      method(tasks_of(m), rank_tolerance=0.0)['kernel']
      for m in (moved, matrices)
  ]
  assert cases.relative_change(*uncut) > 0.5


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('scale', [None, 0.3, 5.0])
@pytest.mark.parametrize('shape', [(40, 30), (30, 40)])
def test_values_down_to_the_cut_have_their_vectors(shape, scale):
  rng = np.random.default_rng(0)
  left, _ = np.linalg.qr(rng.normal(size=(shape[0], 30)))
  right, _ = np.linalg.qr(rng.normal(size=(shape[1], 30)))
  cut = 1e-8 * (scale or 1.0)
  values = np.r_[np.ones(10), np.full(10, 1.1 * cut), np.full(10, 0.9 * cut)]
  matrix = parking.Memory((left * values) @ right.T)
  found = spectra.svd(matrix, tolerance=1e-8, scale=scale)
  assert len(found.values) == 20
  assert_close(found.left().T @ found.left(), np.eye(20), 1e-12)
  assert_close(found.right().T @ found.right(), np.eye(20), 1e-12)
  sides = found.left().T @ left, found.right().T @ right
  assert_close(sides[0][:, :20] @ sides[1][:, :20].T, np.eye(20), 1e-6)


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('shape', [(40, 30), (30, 40)])
def test_float32_below_its_default_tolerance_is_known_to_its_own_rounding(
    shape,
):
  rng = np.random.default_rng(0)
  left, _ = np.linalg.qr(rng.normal(size=(shape[0], 30)))
  right, _ = np.linalg.qr(rng.normal(size=(shape[1], 30)))
  values = np.geomspace(1.0, 1e-5, 30)
  matrix = ((left * values) @ right.T).astype(np.float32)
  found = spectra.svd(parking.Memory(matrix), tolerance=3e-6)
  assert len(found.values) == 30 and found.values.dtype == np.float32
  assert_close(spectra.product(found)(), matrix, 3e-6)
  for side in (found.left(), found.right()):
    assert side.dtype == np.float32
    assert_close(side.T @ side, np.eye(30), 1e-5)


@pytest.mark.usefixtures('each_way')
def test_iso_c_stays_in_the_span_of_the_tasks():
  rng = np.random.default_rng(3)
  matrices = [np.outer(*rng.normal(size=(2, 8))) for _ in range(3)]
  left, _ = np.linalg.qr(np.stack([m[:, 0] for m in matrices], axis=1))
  for tolerance, share in [(None, 0.0), (0.0, 0.62)]:
    merged = iso.iso_c(tasks_of(matrices), rank_tolerance=tolerance)['kernel']
    outside = merged - left @ (left.T @ merged)
    energy = np.sum(outside**2) / np.sum(merged**2)
    assert energy == pytest.approx(share, abs=0.01)


@pytest.mark.usefixtures('each_way')
def test_iso_c_has_one_singular_value_and_keeps_their_sum():
  for rank in (20, 3):
    (matrix,) = matrices_of(1, rank)
    merged = iso.iso_c(tasks_of([matrix]))['kernel']
    before = np.linalg.svd(matrix, compute_uv=False)
    after = np.linalg.svd(merged, compute_uv=False)
    np.testing.assert_allclose(after[:rank], np.mean(before[:rank]), rtol=1e-10)
    np.testing.assert_allclose(after.sum(), before.sum(), rtol=1e-10)


@pytest.mark.usefixtures('each_way')
def test_tsv_of_one_task_and_of_orthogonal_tasks_is_their_sum():
  (matrix,) = matrices_of(1, 20)
  merged = tsv.tsv_m(tasks_of([matrix]))['kernel']
  assert_close(merged, matrix, 1e-12)
  # Blocks that share neither rows nor columns do not disturb each other.
  blocks = np.zeros((2, *_SHAPE))
  rng = np.random.default_rng(4)
  blocks[0, :9, :9] = rng.normal(size=(9, 9))
  blocks[1, 9:, 9:] = rng.normal(size=(15, 11))
  kept = [
      sum(s * np.outer(u, v) for u, s, v in spectral_oracle.triples(b, 10))
      for b in blocks
  ]
  merged = tsv.tsv_m(tasks_of(blocks))['kernel']
  assert_close(merged, sum(kept))


@pytest.mark.usefixtures('each_way')
def test_tasks_that_share_a_direction_share_it_in_equal_parts():
  left, right = np.zeros(6), np.zeros(4)
  left[0] = right[1] = 1.0
  matrices = [3.0 * np.outer(left, right), 5.0 * np.outer(left, right)]
  merged = tsv.tsv_m(tasks_of(matrices))['kernel']
  assert_close(merged, 4.0 * np.outer(left, right), 1e-12)


def test_triples_are_dealt_out_until_the_rank_is_full():
  assert iso.allocation(20, 2, common_fraction=0.8) == (16, 2)
  assert iso.allocation(20, 8, common_fraction=0.8) == (20, 0)  # 4 / 8 is 0
  assert iso.allocation(20, 7, common_fraction=0.8) == (13, 1)
  assert iso.allocation(8, 3, common_fraction=0.0) == (2, 2)  # 3 would be 9
  assert iso.allocation(1, 8, common_fraction=0.8) == (1, 0)
  for size in range(1, 12):
    for num_tasks in (1, 2, 8):
      for fraction in (0.0, 0.29, 1.0):
        common, own = iso.allocation(size, num_tasks, common_fraction=fraction)
        assert common >= 0 and common + own * num_tasks == size


@pytest.mark.usefixtures('each_way')
def test_few_singular_values_make_iso_cts_iso_c():
  matrices = matrices_of(8, 20)
  np.testing.assert_array_equal(
      iso.iso_cts(tasks_of(matrices))['kernel'],
      iso.iso_c(tasks_of(matrices))['kernel'],
  )


def test_the_tolerance_follows_the_dtype():
  assert numerical_rank.tolerance_of(np.float64) == 2.0**-26
  assert numerical_rank.tolerance_of(np.float32) == pytest.approx(2.0**-11.5)
  assert numerical_rank.tolerance_of(ml_dtypes.bfloat16) == 2.0**-7
  assert numerical_rank.tolerance_of(np.float16) == 2.0**-10
  assert numerical_rank.tolerance_of(np.float32, 0.1) == 0.1


def test_rounding_to_float32_and_bfloat16_does_not_raise_the_rank():
  (matrix,) = matrices_of(1, 3)
  for dtype, allowed in ((np.float32, 1e-5), (ml_dtypes.bfloat16, 0.03)):
    rounded = iso.iso_c(tasks_of([matrix.astype(dtype)]))['kernel']
    assert rounded.dtype == dtype
    exact = iso.iso_c(tasks_of([matrix]))['kernel']
    assert cases.relative_change(rounded.astype(float), exact) < allowed


@pytest.mark.parametrize('method', [tsv.tsv_m, iso.iso_c, iso.iso_cts])
def test_a_tolerance_or_fraction_out_of_range_is_refused(method):
  tasks = tasks_of(matrices_of(2, 3))
  for tolerance in (-1e-3, 1.0, float('nan')):
    with pytest.raises(ValueError, match='rank_tolerance must be at least 0'):
      method(tasks, rank_tolerance=tolerance)
  with pytest.raises(ValueError, match='common_fraction must lie between'):
    iso.iso_cts(tasks, common_fraction=1.2)


@pytest.mark.usefixtures('each_way')
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('sizes', [(14, 2, 2), (3, 2, 1), (5,), (6, 6), (1, 5)])
@pytest.mark.parametrize('tolerance', [1e-3, 0.75])
def test_blocks_are_made_orthonormal_as_the_whole_is(sizes, tolerance, dtype):
  rng = np.random.default_rng(len(sizes))
  parts = []
  for num in sizes:
    left, _ = np.linalg.qr(rng.normal(size=(20, num)))
    right, _ = np.linalg.qr(rng.normal(size=(30, num)))
    if parts:  # the largest singular value is nearly sqrt(2), and one is 0
      left[:, 0] = parts[0].left()[:, 0]
      right[:, 0] = parts[0].right()[:, 0]
      left, right = np.linalg.qr(left)[0], np.linalg.qr(right)[0]
    arrays = left.astype(dtype), np.ones(num, dtype), right.astype(dtype)
    parts.append(
        spectra.Svd(
            parking.Memory(arrays[0]), arrays[1], parking.Memory(arrays[2])
        )
    )
  found = spectra.orthogonalised(parts, tolerance=tolerance)
  for side in ('left', 'right'):
    joined = np.hstack([getattr(part, side)() for part in parts])
    u, s, v = np.linalg.svd(joined.astype(np.float64), full_matrices=False)
    kept = s > tolerance * s[0]
    assert_close(
        getattr(found, side)(),
        u[:, kept] @ v[kept],
        1e-12 if dtype == np.float64 else 2e-6,
    )


def test_a_decomposition_that_does_not_converge_is_done_the_older_way(
    monkeypatch,
):
  plain, asked = linalg.svd, []

  def stubborn(matrix, **options):
    asked.append(options.get('lapack_driver', 'gesdd'))
    if asked[-1] == 'gesdd':
      raise linalg.LinAlgError('SVD did not converge')
    return plain(matrix, **options)

  matrix = parking.Memory(np.random.default_rng(0).normal(size=(5, 9)))
  expected = spectra.polar(matrix, tolerance=1e-8)
  monkeypatch.setattr(linalg, 'svd', stubborn)
  found = spectra.polar(matrix, tolerance=1e-8)
  assert_close(found(), expected(), 1e-12)
  assert asked == ['gesdd', 'gesvd']
