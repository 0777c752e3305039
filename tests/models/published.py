"""Tiny CLIP checkpoints, written tensor by tensor as the libraries do.

Nothing here comes from the code under test: names, transposes and files are
spelled out, from random parameters in the shapes that the modules themselves
ask for.
"""

import functools
import json

from flax import serialization
from flax import traverse_util
import jax
import numpy as np
from safetensors import numpy as safetensors

from taskvec_jax.models import clip_text
from taskvec_jax.models import encoders
from taskvec_jax.models import vit

VISION = vit.ViT(
    patch_size=2,
    width=8,
    depth=2,
    num_heads=2,
    mlp_width=12,
    projection=5,
    # OpenAI's.
    pixel_mean=(0.48145466, 0.4578275, 0.40821073),
    pixel_std=(0.26862954, 0.26130258, 0.27577711),
)
TEXT = clip_text.TextTransformer(
    vocab_size=11,
    width=6,
    depth=3,
    num_heads=3,
    mlp_width=10,
    projection=5,
    max_length=7,
)
LOGIT_SCALE = 2.5
CONFIG = {
    'model_type': 'clip',
    'vision_config': {
        'hidden_size': 8,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'intermediate_size': 12,
        'patch_size': 2,
        'hidden_act': 'quick_gelu',
        'layer_norm_eps': 1e-5,
    },
    'text_config': {'hidden_size': 6, 'num_attention_heads': 3},
}
OPEN_CLIP_CONFIG = {
    'model_cfg': {
        'embed_dim': 5,
        'quick_gelu': True,
        'vision_cfg': {
            'image_size': 4,
            'layers': 2,
            'width': 8,
            'patch_size': 2,
            'head_width': 4,
        },
        'text_cfg': {
            'context_length': 7,
            'vocab_size': 11,
            'width': 6,
            'heads': 3,
            'layers': 3,
        },
    },
    'preprocess_cfg': {},
}


@functools.cache
def _shapes():
  """Returns what the modules initialize, in shapes."""
  images = jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32)
  tokens = jax.ShapeDtypeStruct((1, 7), np.int32)
  key = jax.random.key(0)
  return {
      tower: jax.eval_shape(functools.partial(encoders.init, module), key, x)
      for tower, module, x in (
          ('vision', VISION, images),
          ('text', TEXT, tokens),
      )
  }


def params(seed=0, dtype=np.float32):
  """Returns random parameters {'vision', 'text'} that `dtype` holds exactly."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(dtype).astype(np.float32),
      _shapes(),
  )


def hugging_face(tree, prefix='vision_model.'):
  """Returns the tensors of transformers' CLIPModel."""
  vision, text = tree['vision'], tree['text']
  tensors = {
      'logit_scale': np.float32(LOGIT_SCALE).reshape(()),
      'text_model.embeddings.token_embedding.weight': text['token_embedding'],
      'text_model.embeddings.position_embedding.weight': text[
          'position_embedding'
      ],
      'text_model.final_layer_norm.weight': text['ln_final']['scale'],
      'text_model.final_layer_norm.bias': text['ln_final']['bias'],
      'text_projection.weight': text['projection']['kernel'].T,
      'visual_projection.weight': vision['projection']['kernel'].T,
      f'{prefix}embeddings.class_embedding': vision['class_token'],
      f'{prefix}embeddings.patch_embedding.weight': np.einsum(
          'hwio->oihw', vision['patch_embedding']['kernel']
      ),
      f'{prefix}embeddings.position_embedding.weight': vision[
          'position_embedding'
      ],
      f'{prefix}pre_layrnorm.weight': vision['ln_pre']['scale'],
      f'{prefix}pre_layrnorm.bias': vision['ln_pre']['bias'],
      f'{prefix}post_layernorm.weight': vision['ln_post']['scale'],
      f'{prefix}post_layernorm.bias': vision['ln_post']['bias'],
  }
  for tower, owner, depth in (
      (vision, prefix, 2),
      (text, 'text_model.', 3),
  ):
    for index in range(depth):
      block = tower[f'block_{index}']
      name = f'{owner}encoder.layers.{index}.'
      for theirs, ours in (
          ('self_attn.q_proj', block['attention']['query']),
          ('self_attn.k_proj', block['attention']['key']),
          ('self_attn.v_proj', block['attention']['value']),
          ('self_attn.out_proj', block['attention']['out']),
          ('mlp.fc1', block['mlp']['in']),
          ('mlp.fc2', block['mlp']['out']),
      ):
        tensors[f'{name}{theirs}.weight'] = ours['kernel'].T
        tensors[f'{name}{theirs}.bias'] = ours['bias']
      for number in (1, 2):
        norm = block[f'ln_{number}']
        tensors[f'{name}layer_norm{number}.weight'] = norm['scale']
        tensors[f'{name}layer_norm{number}.bias'] = norm['bias']
  return tensors


def vision_alone(tree, prefix=''):
  """Returns the tensors of transformers' CLIPVisionModel."""
  return {
      name: tensor
      for name, tensor in hugging_face(tree, prefix).items()
      if not name.startswith(('text', 'logit', 'visual_'))
  }


def flax(tree):
  """Returns the arrays of transformers' FlaxCLIPModel, nested."""

  def tower(ours, depth):
    layers = {}
    for index in range(depth):
      block = ours[f'block_{index}']
      layers[str(index)] = {
          'self_attn': {
              'k_proj': block['attention']['key'],
              'v_proj': block['attention']['value'],
              'q_proj': block['attention']['query'],
              'out_proj': block['attention']['out'],
          },
          'layer_norm1': block['ln_1'],
          'mlp': {'fc1': block['mlp']['in'], 'fc2': block['mlp']['out']},
          'layer_norm2': block['ln_2'],
      }
    return {'layers': layers}

  vision, text = tree['vision'], tree['text']
  return {
      'text_model': {
          'embeddings': {
              'token_embedding': {'embedding': text['token_embedding']},
              'position_embedding': {'embedding': text['position_embedding']},
          },
          'encoder': tower(text, 3),
          'final_layer_norm': text['ln_final'],
      },
      'vision_model': {
          'embeddings': {
              'class_embedding': vision['class_token'],
              'patch_embedding': vision['patch_embedding'],
              'position_embedding': {'embedding': vision['position_embedding']},
          },
          'pre_layrnorm': vision['ln_pre'],
          'encoder': tower(vision, 2),
          'post_layernorm': vision['ln_post'],
      },
      'visual_projection': vision['projection'],
      'text_projection': text['projection'],
      'logit_scale': np.float32(LOGIT_SCALE).reshape(()),
  }


def open_clip(tree):
  """Returns the tensors of open_clip's CLIP."""
  vision, text = tree['vision'], tree['text']
  tensors = {
      'logit_scale': np.float32(LOGIT_SCALE).reshape(()),
      'positional_embedding': text['position_embedding'],
      'text_projection': text['projection']['kernel'],
      'token_embedding.weight': text['token_embedding'],
      'ln_final.weight': text['ln_final']['scale'],
      'ln_final.bias': text['ln_final']['bias'],
      'visual.class_embedding': vision['class_token'],
      'visual.positional_embedding': vision['position_embedding'],
      'visual.proj': vision['projection']['kernel'],
      'visual.conv1.weight': np.einsum(
          'hwio->oihw', vision['patch_embedding']['kernel']
      ),
      'visual.ln_pre.weight': vision['ln_pre']['scale'],
      'visual.ln_pre.bias': vision['ln_pre']['bias'],
      'visual.ln_post.weight': vision['ln_post']['scale'],
      'visual.ln_post.bias': vision['ln_post']['bias'],
  }
  for tower, owner, depth in ((vision, 'visual.', 2), (text, '', 3)):
    for index in range(depth):
      block = tower[f'block_{index}']
      name = f'{owner}transformer.resblocks.{index}.'
      heads = [block['attention'][key] for key in ('query', 'key', 'value')]
      tensors[f'{name}attn.in_proj_weight'] = np.vstack(
          [head['kernel'].T for head in heads]
      )
      tensors[f'{name}attn.in_proj_bias'] = np.hstack(
          [head['bias'] for head in heads]
      )
      for theirs, ours in (
          ('attn.out_proj', block['attention']['out']),
          ('mlp.c_fc', block['mlp']['in']),
          ('mlp.c_proj', block['mlp']['out']),
      ):
        tensors[f'{name}{theirs}.weight'] = ours['kernel'].T
        tensors[f'{name}{theirs}.bias'] = ours['bias']
      for number in (1, 2):
        norm = block[f'ln_{number}']
        tensors[f'{name}ln_{number}.weight'] = norm['scale']
        tensors[f'{name}ln_{number}.bias'] = norm['bias']
  return tensors


def save(path, tensors):
  """Writes a safetensors file with the reference implementation."""
  arrays = {key: np.ascontiguousarray(v) for key, v in tensors.items()}
  # ascontiguousarray makes a vector of a scalar.
  arrays = {key: v.reshape(tensors[key].shape) for key, v in arrays.items()}
  safetensors.save_file(arrays, path, metadata={'format': 'pt'})


def cast(tensors, dtype):
  """Returns the tensors in another dtype."""
  return jax.tree.map(lambda tensor: np.asarray(tensor).astype(dtype), tensors)


def _folder(path, config, name='config.json'):
  path.mkdir()
  (path / name).write_text(json.dumps(config))
  (path / 'tokenizer.json').write_text('{"version": "1.0"}')
  return path


def hugging_face_folder(path, tree, dtype=np.float32):
  folder = _folder(path, CONFIG)
  tensors = cast(hugging_face(tree), dtype)
  positions = np.arange(5).reshape(1, 5)
  tensors['vision_model.embeddings.position_ids'] = positions
  save(folder / 'model.safetensors', tensors)
  return folder


def sharded_folder(path, tree, dtype=np.float32):
  folder = _folder(path, CONFIG)
  tensors = cast(hugging_face(tree), dtype)
  weight_map = {}
  for number in range(3):
    shard = f'model-0000{number + 1}-of-00003.safetensors'
    names = sorted(tensors)[number::3]
    save(folder / shard, {name: tensors[name] for name in names})
    weight_map |= dict.fromkeys(names, shard)
  index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
  text = json.dumps(index)
  (folder / 'model.safetensors.index.json').write_text(text)
  return folder


def vision_folder(path, tree, dtype=np.float32, prefix=''):
  folder = _folder(
      path, {'model_type': 'clip_vision_model'} | CONFIG['vision_config']
  )
  save(folder / 'model.safetensors', cast(vision_alone(tree, prefix), dtype))
  return folder


def prefixed_vision_folder(path, tree, dtype=np.float32):
  return vision_folder(path, tree, dtype, 'vision_model.')


def flax_folder(path, tree, dtype=np.float32):
  folder = _folder(path, CONFIG)
  # In the order given: `to_bytes` keeps it where `msgpack_serialize` sorts.
  data = serialization.to_bytes(cast(flax(tree), dtype))
  (folder / 'flax_model.msgpack').write_bytes(data)
  return folder


def open_clip_folder(path, tree, dtype=np.float32):
  folder = _folder(path, OPEN_CLIP_CONFIG, 'open_clip_config.json')
  file = folder / 'open_clip_model.safetensors'
  save(file, cast(open_clip(tree), dtype))
  return folder


FOLDERS = {
    'hugging_face': hugging_face_folder,
    'sharded': sharded_folder,
    'vision alone': vision_folder,
    'prefixed vision alone': prefixed_vision_folder,
    'flax': flax_folder,
    'open_clip': open_clip_folder,
}


def contents(folder):
  """Returns the bytes of all files, but for what is written beside Flax's."""
  found = {path.name: path.read_bytes() for path in folder.iterdir()}
  if 'flax_model.msgpack' in found:
    found.pop('model.safetensors', None)
  return found


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')
