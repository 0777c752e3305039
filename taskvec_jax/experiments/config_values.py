"""Values of a config's fields: of the declared types, and finite.

The command line checks the type of a single value, but not of what a tuple
holds, and takes a NaN for a number like any other.
"""

import dataclasses
import math
import types
import typing
from typing import Any

_WORDS = {
    int: 'a whole number',
    float: 'a finite number',
    str: 'text',
    bool: 'True or False',
}


def check(config: Any) -> None:
  """Raises a ValueError that names a field with a value of another type.

  Args:
    config: a dataclass of numbers, texts, tuples of them, and dataclasses. A
      field called seeds holds whole numbers from 0 on.
  """
  _check_fields(config, 'config')


def _check_fields(config: Any, name: str) -> None:
  kinds = typing.get_type_hints(type(config))
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    _check_value(value, kinds[field.name], f'{name}.{field.name}')
    if field.name == 'seeds' and any(seed < 0 for seed in value):
      raise ValueError(
          f'{name}.seeds must hold whole numbers from 0 on but is {value}.'
      )


def _check_value(value: Any, kind: Any, name: str) -> None:
  if dataclasses.is_dataclass(value):
    _check_fields(value, name)
  elif typing.get_origin(kind) is tuple:
    if not isinstance(value, tuple):
      raise ValueError(f'{name} must be a tuple but is {value!r}.')
    kinds = typing.get_args(kind)
    if kinds[-1] is Ellipsis:
      kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
      raise ValueError(
          f'{name} must hold {len(kinds)} values but is {value!r}.'
      )
    for entry, entry_kind in zip(value, kinds, strict=True):
      _check_value(entry, entry_kind, f'each entry of {name}')
  elif isinstance(kind, types.UnionType):
    if not any(_is_of(value, one) for one in typing.get_args(kind)):
      raise ValueError(f'{name} must be {kind} but is {value!r}.')
  elif not _is_of(value, kind):
    raise ValueError(f'{name} must be {_WORDS[kind]} but is {value!r}.')


def _is_of(value: Any, kind: Any) -> bool:
  if kind is float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, kind)
