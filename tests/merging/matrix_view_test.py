import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskvec_jax.merging import iso
from taskvec_jax.merging import matrix_view
from taskvec_jax.models import encoders
from taskvec_jax.models import vit


@pytest.mark.parametrize(
    ('name', 'shape', 'expected'),
    [
        ('layer_0/kernel', (4, 3), (4, 3)),
        ('layer_0/bias', (3,), None),
        ('patch_embedding/kernel', (2, 2, 3, 5), (12, 5)),
        ('conv/kernel', (7, 3, 5), (21, 5)),  # one-dimensional
        ('attention/query/kernel', (6, 2, 3), (6, 6)),
        ('attention/key/kernel', (6, 2, 3), (6, 6)),
        ('attention/value/kernel', (5, 2, 3), (5, 6)),
        ('attention/out/kernel', (2, 3, 5), (6, 5)),
        ('attention/query/bias', (2, 3), None),
        ('position_embedding', (5, 8), (5, 8)),
        ('class_token', (8,), None),
        ('logit_scale', (), None),
        ('one', (1,), None),
        ('model.conv1.weight', (5, 3, 2, 2), None),  # as the references do
        ('model.attn.in_proj_weight', (9, 3), (9, 3)),
        ('kernel', (3, 4), (3, 4)),
        ('kernel', (2, 3, 4), (6, 4)),
        ('empty/kernel', (0, 4), None),
    ],
)
def test_the_matrix_of_a_leaf_is_its_map_from_inputs_to_outputs(
    name, shape, expected
):
  assert matrix_view.matrix_shape(name, shape) == expected


def test_every_leaf_of_a_vision_transformer_is_seen_as_stated():
  module = vit.ViT(
      patch_size=2, width=6, depth=1, num_heads=2, mlp_width=7, projection=3
  )
  params = jax.eval_shape(
      lambda: encoders.init(module, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  )
  views = {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  seen = {
      name: view
      for name, shape in views.items()
      if (view := matrix_view.matrix_shape(name, shape)) is not None
  }
  assert seen == {
      'patch_embedding/kernel': (12, 6),
      'position_embedding': (5, 6),
      **{
          f'block_0/attention/{name}/kernel': (6, 6)
          for name in ('query', 'key', 'value', 'out')
      },
      'block_0/mlp/in/kernel': (6, 7),
      'block_0/mlp/out/kernel': (7, 6),
      'projection/kernel': (6, 3),
  }


def test_a_patch_kernel_is_merged_as_the_matrix_that_multiplies_patches():
  rng = np.random.default_rng(0)
  kernels = {task: rng.normal(size=(2, 2, 3, 5)) for task in 'ab'}
  convolution = {t: {'conv': {'kernel': k}} for t, k in kernels.items()}
  dense = {
      t: {'dense': {'kernel': k.reshape(12, 5)}} for t, k in kernels.items()
  }
  merged = iso.iso_c(convolution)['conv']['kernel']
  assert merged.shape == (2, 2, 3, 5)
  np.testing.assert_array_equal(
      merged.reshape(12, 5), iso.iso_c(dense)['dense']['kernel']
  )
  # Another reshape, [p, p C d], has other singular values.
  wide = {
      t: {'dense': {'kernel': k.reshape(2, 30)}} for t, k in kernels.items()
  }
  other = iso.iso_c(wide)['dense']['kernel'].reshape(12, 5)
  assert not np.allclose(other, merged.reshape(12, 5), rtol=0.1)


def test_heads_of_attention_are_one_matrix_side_by_side():
  rng = np.random.default_rng(1)
  kernels = {task: rng.normal(size=(6, 6)) for task in 'ab'}
  flat = iso.iso_c({t: {'query': {'kernel': k}} for t, k in kernels.items()})
  by_head = iso.iso_c(
      {t: {'query': {'kernel': k.reshape(6, 2, 3)}} for t, k in kernels.items()}
  )
  np.testing.assert_array_equal(
      by_head['query']['kernel'].reshape(6, 6), flat['query']['kernel']
  )


def test_what_is_no_matrix_is_averaged():
  tasks = {
      'a': {'bias': np.array([1.0, 2.0]), 'scale': np.array(4.0)},
      'b': {'bias': np.array([3.0, 2.0]), 'scale': np.array(5.0)},
  }
  merged = iso.iso_cts(tasks)
  np.testing.assert_array_equal(merged['bias'], [2.0, 2.0])
  assert merged['scale'] == 4.5


def test_ranks_are_reported_of_every_task_and_of_the_sum():
  rng = np.random.default_rng(2)

  def low_rank(rank):
    return rng.normal(size=(8, rank)) @ rng.normal(size=(rank, 6))

  tasks = {
      'a': {'kernel': low_rank(1), 'bias': np.ones(6)},
      'b': {'kernel': low_rank(2), 'bias': np.ones(6)},
      'zero': {'kernel': np.zeros((8, 6)), 'bias': np.ones(6)},
  }
  found = matrix_view.ranks(tasks)
  assert found == {
      'kernel': matrix_view.Ranks(
          full=6, tasks={'a': 1, 'b': 2, 'zero': 0}, total=3
      )
  }
  noise = 1e-5 * rng.normal(size=(8, 6))
  tasks['a']['kernel'] = tasks['a']['kernel'] + noise
  assert matrix_view.ranks(tasks)['kernel'].tasks['a'] == 6
  coarse = matrix_view.ranks(tasks, rank_tolerance=1e-2)['kernel']
  assert coarse.tasks['a'] == 1
