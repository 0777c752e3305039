"""The same vision transformer in torch: transformers' CLIPVisionModel.

Its weights are random; what reads published checkpoints hands them to this
project, so both compute the same numbers. Needs `pip install -e '.[bench]'`,
torch and transformers, which are imported when a peer is made. Where JAX uses a
GPU torch does too, both with float32 products of full precision.
"""

from collections.abc import Callable
import os
import pathlib
import tempfile
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from taskvec_jax.models import pretrained
from taskvec_jax.models import vit
from taskvec_jax.typing import Params


def device() -> str:
  """Returns the torch device that is JAX's: 'cuda', or 'cpu'.

  Raises:
    RuntimeError: JAX has a GPU, and this torch was built for CPUs.
  """
  import torch  # pylint: disable=import-outside-toplevel

  if jax.default_backend() == 'cpu':
    return 'cpu'
  if not torch.cuda.is_available():
    raise RuntimeError(
        f'JAX runs on {jax.local_devices()[0].device_kind}, but torch'
        f' {torch.__version__} sees no GPU; install a torch that does, or set'
        ' JAX_PLATFORMS=cpu.'
    )
  torch.backends.cuda.matmul.allow_tf32 = False
  torch.backends.cudnn.allow_tf32 = False
  return 'cuda'


def finished(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `fn`, whose calls last until the GPU has done what they asked."""
  import torch  # pylint: disable=import-outside-toplevel

  def call(*args):
    result = fn(*args)
    if torch.cuda.is_initialized():
      torch.cuda.synchronize()
    return result

  return call


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

  place = device()
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
  model = transformers.CLIPVisionModel(config).eval().to(place)
  head = torch.from_numpy(kernel).to(place)
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
          torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(place),
          torch.from_numpy(labels.astype(np.int64)).to(place),
      ),
      gradient_fn=finished(gradients),
      hvp_fn=finished(hvp),
      as_params=as_params,
  )
