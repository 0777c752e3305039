"""The benchmarks against torch compute the same thing on both sides."""

from benchmarks import gradient
from benchmarks import second_order_pass
from taskvec_jax.models import vit

_SMALL = gradient.Model(
    vit.ViT(patch_size=4, width=16, depth=2, num_heads=2, mlp_width=24),
    image_size=12,
    num_channels=3,
    batch_size=4,
    num_examples=12,
)


def test_both_gradients_agree_before_they_are_timed():
  found = gradient.rate('small', _SMALL, num_turns=2)
  assert found.difference < 1e-5
  assert found.speedup.low > 0


def test_both_hessian_vector_products_agree_before_they_are_timed():
  found = second_order_pass.against_torch('small', _SMALL, num_turns=2)
  assert found.difference < 1e-5
  assert found.speedup.low > 0
