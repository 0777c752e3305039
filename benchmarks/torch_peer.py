"""The same vision transformer in torch: transformers' CLIPVisionModel.

Its weights are random; what reads published checkpoints hands them to this
project, so both compute the same numbers. Needs `pip install -e '.[bench]'`,
torch and transformers, which are imported when a peer is made.
"""

from collections.abc import Callable
import os
import pathlib
import tempfile
from typing import Any
from typing import NamedTuple

import numpy as np

from taskvec_jax.models import pretrained
from taskvec_jax.models import vit
from taskvec_jax.typing import Params


class Peer(NamedTuple):
  """A model in torch, and the functions that it is timed by.

  Batches are pairs of float32 images `[B, C, S, S]` and int64 labels `[B]`,
  as `as_tensors` makes them.
  """

  module: vit.ViT  # of this project
  params: Params  # of `module`, the same weights
  direction: Params  # of `module`, what Hessians are multiplied with
  as_tensors: Callable[[np.ndarray, np.ndarray], Any]
  gradient_fn: Callable[[list[Any]], Any]  # of summed losses -> gradients
  hvp_fn: Callable[[list[Any]], Any]  # -> (gradients, H direction)
  as_params: Callable[[Any], Params]  # gradients -> a tree like `params`


def make(
    *,
    image_size: int,
    num_channels: int,
    module: vit.ViT,
    kernel: np.ndarray,
    twice: bool = False,
) -> Peer:
  """Returns the peer of a vision tower without projection.

  Args:
    image_size: S, side of the images.
    num_channels: C.
    module: its sizes are taken.
    kernel: of the frozen head, `[width, classes]`.
    twice: whether it will be differentiated twice. Attention is the plain one
      then, as the fused one has no second derivative.

  Raises:
    ImportError: torch or transformers is not installed.
  """
  # pylint: disable=import-outside-toplevel
  import torch
  import transformers

  torch.manual_seed(0)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  config = transformers.CLIPVisionConfig(
      hidden_size=module.width,
      intermediate_size=module.mlp_width,
      num_hidden_layers=module.depth,
      num_attention_heads=module.num_heads,
      image_size=image_size,
      num_channels=num_channels,
      patch_size=module.patch_size,
      attn_implementation='eager' if twice else 'sdpa',
  )
  model = transformers.CLIPVisionModel(config).eval()
  head = torch.from_numpy(kernel)
  directions = [0.01 * torch.randn_like(p) for p in model.parameters()]

  def loss_sum(images, labels):
    logits = model(images).pooler_output @ head
    return torch.nn.functional.cross_entropy(logits, labels, reduction='sum')

  def gradients(batches):
    model.zero_grad()
    for images, labels in batches:
      loss_sum(images, labels).backward()
    return [p.grad for p in model.parameters()]

  def hvp(batches):
    parameters = list(model.parameters())
    totals = None
    for images, labels in batches:
      first = torch.autograd.grad(
          loss_sum(images, labels), parameters, create_graph=True
      )
      second = torch.autograd.grad(first, parameters, grad_outputs=directions)
      with torch.no_grad():
        found = [x.detach() for x in (*first, *second)]
        if totals is None:
          totals = found
        else:
          torch._foreach_add_(totals, found)
    return totals[: len(parameters)], totals[len(parameters) :]

  def as_params(tensors) -> Params:
    kept = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
      for parameter, tensor in zip(model.parameters(), tensors, strict=True):
        parameter.copy_(tensor)
    with tempfile.TemporaryDirectory() as folder:
      model.save_pretrained(folder)
      params = pretrained.read(pathlib.Path(folder)).vision
    with torch.no_grad():
      for parameter, tensor in zip(model.parameters(), kept, strict=True):
        parameter.copy_(tensor)
    return params

  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    source = pretrained.open_weights(folder)
    made = pretrained.vision_module(source)
    params = pretrained.read(folder).vision
  return Peer(
      module=made.clone(
          pixel_mean=module.pixel_mean, pixel_std=module.pixel_std
      ),
      params=params,
      direction=as_params(directions),
      as_tensors=lambda images, labels: (
          torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
          torch.from_numpy(labels.astype(np.int64)),
      ),
      gradient_fn=gradients,
      hvp_fn=hvp,
      as_params=as_params,
  )
