import json

import numpy as np
import pytest
import tokenizers

from taskvec_jax.models import tokenizer as tokenizer_lib

_MERGES = [('l', 'o'), ('lo', 'w</w>'), ('c', 'a'), ('ca', 't</w>')]


def _vocabulary(end='<|endoftext|>'):
  """Every letter, digit and sign in and at the end of a word, four merges."""
  # Printable ASCII stands for its own byte; é is two bytes, written so.
  signs = [chr(code) for code in range(33, 127)] + ['Ã', '©']
  tokens = signs + [f'{sign}</w>' for sign in signs]
  tokens += [''.join(merge) for merge in _MERGES]
  tokens += ['<|startoftext|>', end]
  return {token: number for number, token in enumerate(tokens)}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'vocab.json').write_text(
      json.dumps(_vocabulary(), ensure_ascii=False), encoding='utf-8'
  )
  lines = ['#version: 0.2', *(' '.join(merge) for merge in _MERGES), '']
  (tmp_path / 'merges.txt').write_text('\n'.join(lines), encoding='utf-8')
  return tmp_path


def _words(tokenizer, text, length=30):
  """Returns the tokens of a text as words, without begin, end and fill."""
  (ids,) = tokenizer_lib.tokenize(tokenizer, [text], length=length)
  words = {number: word for word, number in _vocabulary().items()}
  ids = ids.tolist()
  assert ids[0] == tokenizer.begin_token
  return [words[i] for i in ids[1 : ids.index(tokenizer.end_token)]]


def test_pairs_are_merged_in_order_and_a_words_end_is_marked(folder):
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  assert _words(tokenizer, 'low cat') == ['low</w>', 'cat</w>']
  assert _words(tokenizer, 'slow cats') == (
      ['s', 'low</w>'] + ['ca', 't', 's</w>']
  )


def test_text_is_lowered_cleaned_and_cut_into_letters_digits_and_signs(folder):
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  expected = [
      'low</w>',
      '4</w>',
      '2</w>',
      '-',
      '?</w>',
      'cat</w>',
      "'",
      's</w>',
  ]
  assert _words(tokenizer, "  LOW \t42-?\n Cat's  ") == expected
  # é as one letter, and as e and an accent: one thing by Unicode's NFC.
  composed = _words(tokenizer, '\u00e9')
  assert composed == ['Ã', '©</w>'] == _words(tokenizer, 'e\u0301')


def test_texts_become_begin_ids_end_and_a_fill(folder):
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  ids = tokenizer_lib.tokenize(tokenizer, ['low', '', 'low cat'])
  assert ids.dtype == np.int32
  assert ids.shape == (3, 77)
  begin, end = tokenizer.begin_token, tokenizer.end_token
  low, cat = _vocabulary()['low</w>'], _vocabulary()['cat</w>']
  assert ids[:, :5].tolist() == [
      [begin, low, end, end, end],
      [begin, end, end, end, end],
      [begin, low, cat, end, end],
  ]
  assert tokenizer_lib.tokenize(tokenizer, []).shape == (0, 77)


def test_a_long_text_is_cut_and_keeps_its_end_token(folder):
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  (ids,) = tokenizer_lib.tokenize(tokenizer, ['low ' * 200])
  assert ids.tolist() == (
      [tokenizer.begin_token]
      + 75 * [_vocabulary()['low</w>']]
      + [tokenizer.end_token]
  )
  with pytest.raises(ValueError, match='length is 1'):
    tokenizer_lib.tokenize(tokenizer, ['low'], length=1)


def test_the_pad_token_is_the_one_that_the_checkpoint_names(folder):
  before = tokenizer_lib.read_tokenizer(folder)
  (folder / 'special_tokens_map.json').write_text(
      json.dumps({'pad_token': {'content': '!'}})
  )
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  assert tokenizer.pad_token == _vocabulary()['!']
  (ids,) = tokenizer_lib.tokenize(tokenizer, ['low'], length=5)
  assert ids[2:].tolist() == [tokenizer.end_token] + 2 * [tokenizer.pad_token]
  assert tokenizer.digest != before.digest
  (folder / 'tokenizer_config.json').write_text(
      json.dumps({'pad_token': '<none>'})
  )
  with pytest.raises(ValueError, match="pad token '<none>' is not in") as error:
    tokenizer_lib.read_tokenizer(folder)
  assert str(folder) in str(error.value)


def test_tokenizer_json_comes_first_and_gives_the_same_ids(folder):
  texts = ["Low cat's 42", 'slow', '']
  from_parts = tokenizer_lib.read_tokenizer(folder)
  expected = tokenizer_lib.tokenize(from_parts, texts)
  bpe = from_parts.bpe
  # As some are published: cutting and filling by themselves.
  bpe.enable_padding(length=9)
  bpe.enable_truncation(max_length=3)
  bpe.save(str(folder / 'tokenizer.json'))
  (folder / 'merges.txt').write_text('nonsense')
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  np.testing.assert_array_equal(
      tokenizer_lib.tokenize(tokenizer, texts), expected
  )
  assert tokenizer.end_token == from_parts.end_token


def test_a_tokenizer_that_does_not_fit_the_text_tower_is_refused(folder):
  tokenizer = tokenizer_lib.read_tokenizer(folder)
  largest = len(_vocabulary()) - 1
  tokenizer_lib.check_fits(tokenizer, vocab_size=largest + 1, end_token=None)
  tokenizer_lib.check_fits(tokenizer, vocab_size=500, end_token=largest)
  with pytest.raises(ValueError, match=f'up to {largest} .* has 100 token'):
    tokenizer_lib.check_fits(tokenizer, vocab_size=100, end_token=None)
  with pytest.raises(ValueError, match=f'is {largest} but .* at token 2;'):
    tokenizer_lib.check_fits(tokenizer, vocab_size=500, end_token=2)
  # Of a tower that reads at the largest of a text, that is its last.
  with pytest.raises(ValueError, match=f'is {largest} but .* at token 499;'):
    tokenizer_lib.check_fits(tokenizer, vocab_size=500, end_token=None)


def test_a_folder_without_a_tokenizer_says_which_files_are_needed(tmp_path):
  (tmp_path / 'vocab.json').write_text('{}')
  with pytest.raises(ValueError, match='has no tokenizer') as error:
    tokenizer_lib.read_tokenizer(tmp_path)
  message = str(error.value)
  for part in (str(tmp_path), 'tokenizer.json', 'merges.txt', 'vocab.json'):
    assert part in message
  with pytest.raises(ValueError, match='none of these'):
    tokenizer_lib.read_tokenizer(tmp_path / 'absent')


@pytest.mark.parametrize(
    ('name', 'text', 'sentence'),
    [
        ('tokenizer.json', '{', 'tokenizer.json'),
        ('vocab.json', '{"a": ', 'cannot be used'),
        ('merges.txt', 'l o w', r"merge 0, 'l o w', must be two tokens"),
        ('merges.txt', 'q z', "merge 0, 'q z'"),
        (
            'vocab.json',
            json.dumps(_vocabulary(end='<end>')),
            r'none of its \d+ tokens is the end token',
        ),
    ],
)
def test_files_that_make_no_tokenizer_are_refused_in_one_sentence(
    folder, name, text, sentence
):
  (folder / name).write_text(text, encoding='utf-8')
  with pytest.raises(ValueError, match=sentence) as error:
    tokenizer_lib.read_tokenizer(folder)
  message = str(error.value)
  assert str(folder) in message
  assert message.count('\n') == 0


def test_the_digest_says_what_the_tokenizer_is_made_of(folder):
  first = tokenizer_lib.read_tokenizer(folder)
  assert first.digest == tokenizer_lib.read_tokenizer(folder).digest
  lines = (folder / 'merges.txt').read_text().splitlines()
  (folder / 'merges.txt').write_text('\n'.join(lines[:-1]))
  assert tokenizer_lib.read_tokenizer(folder).digest != first.digest
  assert isinstance(first.bpe, tokenizers.Tokenizer)
