"""CLIP's byte-pair tokenizer: texts in, int32 ids `[n, 77]` out.

A checkpoint brings its own tokenizer in its folder:

  tokenizer.json               all of it; read as it is
  vocab.json and merges.txt    else: the vocabulary and its merges, to which
                               CLIP's rules are added

The rules: Unicode NFC, white space to one space, lower case; then pieces by a
regular expression (contractions, runs of letters, single digits, runs of other
signs); each piece's bytes are merged pair by pair, the last one marked `</w>`.
A text becomes [begin] ids [end]; a longer one is cut so that the end token is
the last. The rest is filled with the pad token, which is the one that
tokenizer_config.json or special_tokens_map.json names, else the end token, as
in transformers (OpenAI's code and open_clip fill with 0); as the text
transformer is causal, features do not depend on it.

Ids equal those of transformers' CLIPTokenizer on the same files. OpenAI's first
tokenizer also repaired broken Unicode and HTML entities, which neither does.

Cost: tens of thousands of prompts a second.

Source: Radford et al., arXiv:2103.00020; Sennrich et al., "Neural Machine
Translation of Rare Words with Subword Units", arXiv:1508.07909.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

_BEGIN = ('<|startoftext|>', '<start_of_text>')
_END = ('<|endoftext|>', '<end_of_text>')
_PIECES = (
    r'<\|startoftext\|>|<\|endoftext\|>'
    r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
# The files that say what the tokenizer is; those of the second line say only
# which token fills.
_FILES = ('tokenizer.json', 'vocab.json', 'merges.txt')
_CONFIGS = ('tokenizer_config.json', 'special_tokens_map.json')


class Tokenizer(NamedTuple):
  """A byte-pair tokenizer and its special tokens."""

  bpe: tokenizers.Tokenizer
  begin_token: int
  end_token: int
  pad_token: int
  max_token: int  # the largest id
  digest: str  # of what it was made from, for caches


def read_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
  """Returns the tokenizer in a checkpoint's folder.

  Raises:
    ValueError: one sentence that names folder and files, if they are missing,
      cannot be read, or have no begin or end token.
  """
  folder = pathlib.Path(folder)
  texts = {}
  for name in (*_FILES, *_CONFIGS):
    try:
      texts[name] = (folder / name).read_text(encoding='utf-8')
    except (FileNotFoundError, NotADirectoryError):
      continue
    except (OSError, ValueError) as error:
      raise ValueError(f'{folder / name} cannot be read: {error}.') from error
  try:
    pad_name = _pad_name([texts[name] for name in _CONFIGS if name in texts])
    if 'tokenizer.json' in texts:
      return from_json(texts['tokenizer.json'], pad_name=pad_name)
    if 'vocab.json' in texts and 'merges.txt' in texts:
      lines = texts['merges.txt'].splitlines()
      merges = [
          tuple(line.split())
          for line in lines
          if line.strip() and not line.startswith('#version')
      ]
      return from_vocabulary(
          json.loads(texts['vocab.json']), merges, pad_name=pad_name
      )
  except ValueError as error:
    reason = ' '.join(str(error).split()).rstrip('.')
    raise ValueError(
        f'The tokenizer in {folder} cannot be used: {reason}.'
    ) from error
  found = ', '.join(sorted(texts)) or 'none of these'
  raise ValueError(
      f'{folder} has no tokenizer: tokenizer.json, or vocab.json and'
      f" merges.txt, are needed, and {found} found; copy the checkpoint's own"
      ' there.'
  )


def from_json(text: str, *, pad_name: str | None = None) -> Tokenizer:
  """Returns the tokenizer that a tokenizer.json describes.

  Raises:
    ValueError: if it describes none, or one without a begin or end token.
  """
  try:
    bpe = tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # The library raises plain Exceptions.
    raise ValueError(f'tokenizer.json: {error}') from error
  bpe.no_padding()
  bpe.no_truncation()
  return _tokenizer(bpe, pad_name, text)


def from_vocabulary(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, ...]],
    *,
    pad_name: str | None = None,
) -> Tokenizer:
  """Returns CLIP's tokenizer of a vocabulary.

  Args:
    vocabulary: token to id.
    merges: pairs of tokens, the first merged first.
    pad_name: the token that fills; None for the end token.

  Raises:
    ValueError: if a merge is no pair or makes no token of the vocabulary, or
      there is no begin or end token.
  """
  for number, merge in enumerate(merges):
    if len(merge) != 2 or ''.join(merge) not in vocabulary:
      raise ValueError(
          f'merge {number}, {" ".join(merge)!r}, must be two tokens that'
          ' together are a token of the vocabulary'
      )
  end_name, _ = _special(vocabulary, _END, 'end')
  begin_name, _ = _special(vocabulary, _BEGIN, 'begin')
  try:
    model = models.BPE(
        vocab=dict(vocabulary),
        merges=[(first, second) for first, second in merges],
        continuing_subword_prefix='',
        end_of_word_suffix='</w>',
        unk_token=end_name,
    )
  except Exception as error:  # The library raises plain Exceptions.
    raise ValueError(f'vocabulary and merges: {error}') from error
  bpe = tokenizers.Tokenizer(model)
  bpe.normalizer = (
      normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
          [
              normalizers.NFC(),
              normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
              normalizers.Lowercase(),
          ]
      )
  )
  bpe.pre_tokenizer = (
      pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
          [
              pre_tokenizers.Split(
                  tokenizers.Regex(_PIECES), behavior='removed', invert=True
              ),
              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
          ]
      )
  )
  bpe.add_special_tokens([begin_name, end_name])
  text = json.dumps([sorted(vocabulary.items()), list(merges)])
  return _tokenizer(bpe, pad_name, text)


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], *, length: int = 77
) -> np.ndarray:
  """Returns int32 `[n, length]`: [begin] ids [end] pad ... of each text.

  Args:
    tokenizer: of the checkpoint whose text tower reads the ids.
    texts: n of them.
    length: L, at least 2; longer texts are cut, their end token kept.

  Raises:
    ValueError: if `length` leaves no place for begin and end.
  """
  if length < 2:
    raise ValueError(
        f'length is {length}, but begin and end tokens need at least 2.'
    )
  tokens = np.full((len(texts), length), tokenizer.pad_token, np.int32)
  encoded = tokenizer.bpe.encode_batch(list(texts), add_special_tokens=False)
  for row, encoding in zip(tokens, encoded, strict=True):
    ids = encoding.ids[: length - 2]
    row[: len(ids) + 2] = [tokenizer.begin_token, *ids, tokenizer.end_token]
  return tokens


def check_fits(
    tokenizer: Tokenizer, *, vocab_size: int, end_token: int | None
) -> None:
  """Raises a ValueError unless a text tower can read the tokenizer's ids.

  Args:
    tokenizer: the tokenizer.
    vocab_size: number of the tower's token embeddings.
    end_token: the id at which the tower reads its features; None for the
      largest of a text, which is then the last that the tower knows.
  """
  if tokenizer.max_token >= vocab_size:
    raise ValueError(
        f'The tokenizer has ids up to {tokenizer.max_token} but the text tower'
        f" has {vocab_size} token embeddings; use the checkpoint's own"
        ' tokenizer.'
    )
  read_at = vocab_size - 1 if end_token is None else end_token
  if read_at != tokenizer.end_token:
    raise ValueError(
        f"The tokenizer's end token is {tokenizer.end_token} but the text tower"
        f' reads its features at token {read_at}; use the'
        " checkpoint's own tokenizer."
    )


def _tokenizer(
    bpe: tokenizers.Tokenizer, pad_name: str | None, text: str
) -> Tokenizer:
  vocabulary = bpe.get_vocab(with_added_tokens=True)
  _, begin = _special(vocabulary, _BEGIN, 'begin')
  end_name, end = _special(vocabulary, _END, 'end')
  pad_name = end_name if pad_name is None else pad_name
  if pad_name not in vocabulary:
    raise ValueError(f'the pad token {pad_name!r} is not in its vocabulary')
  text = f'{pad_name}\n{text}'
  return Tokenizer(
      bpe=bpe,
      begin_token=begin,
      end_token=end,
      pad_token=vocabulary[pad_name],
      max_token=max(vocabulary.values()),
      digest=hashlib.sha256(text.encode()).hexdigest(),
  )


def _special(
    vocabulary: Mapping[str, int], names: tuple[str, ...], what: str
) -> tuple[str, int]:
  """Returns the name and id of a special token."""
  for name in names:
    if name in vocabulary:
      return name, vocabulary[name]
  raise ValueError(
      f'none of its {len(vocabulary)} tokens is the {what} token,'
      f' {" or ".join(names)}'
  )


def _pad_name(configs: Sequence[str]) -> str | None:
  """Returns the name of the pad token that the first config gives."""
  for text in configs:
    config: Any = json.loads(text)
    pad = config.get('pad_token') if isinstance(config, dict) else None
    if isinstance(pad, dict):
      pad = pad.get('content')
    if isinstance(pad, str):
      return pad
  return None
