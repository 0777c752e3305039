"""Random CLIPs of transformers, their files, and what they predict."""

import json

from flax import serialization
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors
import torch
import transformers

from taskvec_jax.models import encoders
from taskvec_jax.models import pretrained

SMALL = dict(
    vision_config=dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
    ),
    text_config=dict(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        vocab_size=99,
        max_position_embeddings=12,
        bos_token_id=97,
        eos_token_id=98,
    ),
    projection_dim=20,
)

encode = jax.jit(encoders.encode, static_argnums=0)


def clip(seed=0, **config):
  """Returns a CLIP in which no bias is zero and no scale is one."""
  torch.manual_seed(seed)
  model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if name != 'logit_scale' and parameter.ndim == 1:
        parameter += 0.2 * torch.randn_like(parameter)
  return model


def images(model, num_images):
  size = model.config.vision_config.image_size
  rng = np.random.default_rng(0)
  return rng.normal(size=(num_images, size, size, 3)).astype(np.float32)


def channels_first(images):
  return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def tokens_of(model, num_texts):
  """Returns texts `[N, L]` that begin, end and go on after that."""
  config = model.config.text_config
  length, end = config.max_position_embeddings, config.vocab_size - 1
  rng = np.random.default_rng(2)
  tokens = rng.integers(0, end - 1, size=(num_texts, length))
  tokens[:, 0] = end - 1
  ends = [3, length - 1, 1, 7]
  tokens[np.arange(num_texts), ends[:num_texts]] = end
  return tokens


def predictions(weights, images, tokens):
  """Returns our embeddings of images and texts, and CLIP's logits."""
  source = weights.source
  text = encode(
      pretrained.text_module(source), weights.text, jnp.asarray(tokens)
  )
  module = pretrained.vision_module(source)
  image = encode(module, weights.vision, images)
  unit = encode(module.clone(normalize=True), weights.vision, images)
  cosines = unit @ (text / jnp.linalg.norm(text, axis=1, keepdims=True)).T
  return image, text, np.exp(weights.logit_scale) * cosines


def predictions_of_transformers(model, images, tokens):
  """Returns what `predictions` does, of transformers' model."""
  pixels, tokens = channels_first(images), torch.from_numpy(tokens)
  with torch.no_grad():
    image = model.get_image_features(pixels).pooler_output
    text = model.get_text_features(tokens).pooler_output
    logits = model(input_ids=tokens, pixel_values=pixels).logits_per_image
  return image.numpy(), text.numpy(), logits.numpy()


def relative(found, expected):
  found, expected = np.asarray(found), np.asarray(expected)
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _open_clip(state):
  """Returns the tensors that open_clip would have of the same CLIP."""
  tensors = {
      'logit_scale': state['logit_scale'],
      'token_embedding.weight': state[
          'text_model.embeddings.token_embedding.weight'
      ],
      'positional_embedding': state[
          'text_model.embeddings.position_embedding.weight'
      ],
      'ln_final.weight': state['text_model.final_layer_norm.weight'],
      'ln_final.bias': state['text_model.final_layer_norm.bias'],
      'text_projection': state['text_projection.weight'].T,
      'visual.class_embedding': state[
          'vision_model.embeddings.class_embedding'
      ],
      'visual.positional_embedding': state[
          'vision_model.embeddings.position_embedding.weight'
      ],
      'visual.conv1.weight': state[
          'vision_model.embeddings.patch_embedding.weight'
      ],
      'visual.ln_pre.weight': state['vision_model.pre_layrnorm.weight'],
      'visual.ln_pre.bias': state['vision_model.pre_layrnorm.bias'],
      'visual.ln_post.weight': state['vision_model.post_layernorm.weight'],
      'visual.ln_post.bias': state['vision_model.post_layernorm.bias'],
      'visual.proj': state['visual_projection.weight'].T,
  }
  for theirs, ours in (('vision_model', 'visual.'), ('text_model', '')):
    for index in range(len(state)):
      block = f'{theirs}.encoder.layers.{index}.'
      if f'{block}mlp.fc1.bias' not in state:
        break
      name = f'{ours}transformer.resblocks.{index}.'
      for part in ('weight', 'bias'):
        tensors[f'{name}attn.in_proj_{part}'] = np.concatenate(
            [state[f'{block}self_attn.{x}_proj.{part}'] for x in 'qkv']
        )
        for old, new in (
            ('self_attn.out_proj', 'attn.out_proj'),
            ('mlp.fc1', 'mlp.c_fc'),
            ('mlp.fc2', 'mlp.c_proj'),
            ('layer_norm1', 'ln_1'),
            ('layer_norm2', 'ln_2'),
        ):
          tensors[f'{name}{new}.{part}'] = state[f'{block}{old}.{part}']
  return tensors


def _flax(state):
  """Returns what transformers 4 kept of the same CLIP in Flax, nested."""
  arrays = {}
  for name, tensor in state.items():
    *owner, last = name.split('.')
    if last == 'weight':
      if tensor.ndim == 4:
        last, tensor = 'kernel', tensor.transpose(2, 3, 1, 0)
      elif 'norm' in owner[-1]:
        last = 'scale'
      elif 'embedding' in owner[-1]:
        last = 'embedding'
      else:
        last, tensor = 'kernel', tensor.T
    arrays[(*owner, last)] = np.ascontiguousarray(tensor).reshape(tensor.shape)
  return traverse_util.unflatten_dict(arrays)


def write_open_clip(model, folder):
  folder.mkdir()
  state = {name: t.numpy() for name, t in model.state_dict().items()}
  tensors = {
      name: np.ascontiguousarray(tensor).reshape(tensor.shape)
      for name, tensor in _open_clip(state).items()
  }
  safetensors.save_file(tensors, folder / 'open_clip_model.safetensors')
  config, text = model.config.vision_config, model.config.text_config
  vision_cfg = {
      'width': config.hidden_size,
      'layers': config.num_hidden_layers,
      'patch_size': config.patch_size,
      'head_width': config.hidden_size // config.num_attention_heads,
      'image_size': config.image_size,
      'mlp_ratio': config.intermediate_size / config.hidden_size,
  }
  text_cfg = {
      'width': text.hidden_size,
      'heads': text.num_attention_heads,
      'layers': text.num_hidden_layers,
      'context_length': text.max_position_embeddings,
      'vocab_size': text.vocab_size,
      'mlp_ratio': text.intermediate_size / text.hidden_size,
  }
  model_cfg = {
      'embed_dim': model.config.projection_dim,
      'quick_gelu': True,
      'vision_cfg': vision_cfg,
      'text_cfg': text_cfg,
  }
  (folder / 'open_clip_config.json').write_text(
      json.dumps({'model_cfg': model_cfg})
  )


def write_flax(model, folder):
  model.config.save_pretrained(folder)
  state = {name: t.numpy() for name, t in model.state_dict().items()}
  data = serialization.to_bytes(_flax(state))
  (folder / 'flax_model.msgpack').write_bytes(data)
