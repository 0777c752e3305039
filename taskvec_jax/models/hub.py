"""Checkpoints by name: a path on this machine, or a repository of the hub.

A path is always taken as it is. A name such as 'openai/clip-vit-base-patch32'
is downloaded once by `huggingface_hub`, into its cache: one file of weights (or
its shards) in the first format there is, configs and tokenizer, never a pickle.
A revision other than the newest follows an '@', 'OWNER/NAME@refs/pr/66'.
Without a network what was downloaded before is used.
"""

import os
import pathlib
import re

import huggingface_hub

# In order of preference. A repository may hold its weights in all of them.
_WEIGHTS = (
    (
        'model.safetensors',
        'model.safetensors.index.json',
        'model-*-of-*.safetensors',
    ),
    ('open_clip_model.safetensors',),
    ('flax_model.msgpack',),
)
# Configs, tokenizers.
_BESIDE = ('*.json', 'merges.txt', 'vocab.txt')


def fetch(name: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the file or folder that holds a checkpoint, downloaded if need be.

  Args:
    name: a local path, or the name of a repository, 'OWNER/NAME' or
      'OWNER/NAME@REVISION'.

  Raises:
    ValueError: it is on neither; the sentence says which files to put where.
  """
  path = pathlib.Path(name).expanduser()
  if path.exists():
    return path
  reason = (
      'it is not the name of a repository, OWNER/NAME or OWNER/NAME@REVISION'
  )
  found = re.fullmatch(r'([\w.-]+/[\w.-]+)(?:@(\S+))?', os.fspath(name))
  if found:
    folder, reason = _download(*found.groups())
    if folder is not None:
      return folder
  raise ValueError(
      f"There is no checkpoint '{name}' on this machine and none came from the"
      f' hub ({reason}); put config.json with model.safetensors or'
      ' flax_model.msgpack, or open_clip_config.json with'
      ' open_clip_model.safetensors, and the tokenizer.json of a text tower,'
      f' into {path.absolute()}.'
  )


def _download(
    name: str, revision: str | None
) -> tuple[pathlib.Path | None, str]:
  """Returns the folder of a repository, or None and the reason why not."""
  reason = 'it has no safetensors and no msgpack, and pickles are never read'
  for local_files_only in (False, True):
    for weights in _WEIGHTS:
      try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_BESIDE, *weights],
            local_files_only=local_files_only,
        )
      # The hub's own errors, those of its HTTP library, or of the system.
      except Exception as error:  # pylint: disable=broad-exception-caught
        if not local_files_only:
          lines = str(error).strip().splitlines()
          reason = lines[0].rstrip('.') if lines else type(error).__name__
          break
        continue
      folder = pathlib.Path(folder)
      # An index alone came with the other JSON files.
      if any(
          any(folder.glob(pattern))
          for pattern in weights
          if not pattern.endswith('.json')
      ):
        return folder, ''
  return None, reason
