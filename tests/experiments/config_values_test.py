"""Fields of a config are of their types, and finite."""

import dataclasses

import pytest

from taskvec_jax.experiments import config_values
from tests.experiments import tiny


@dataclasses.dataclass
class _Pairs:
  pairs: tuple[tuple[int, float], ...] = ()
  limit: float | None = None
  seeds: tuple[int, ...] = (0,)


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('seeds', (0.5,), 'each entry of config.seeds must be a whole number'),
        ('seeds', (-1,), r'config.seeds .* from 0 on but is \(-1,\)'),
        ('seeds', 3, 'config.seeds must be a tuple but is 3'),
        ('alphas', (0.5, float('inf')), 'config.alphas .* finite .* is inf'),
        (
            'learning_rate',
            float('nan'),
            'learning_rate must be a finite number',
        ),
        ('learning_rate', True, 'learning_rate must be a finite number'),
        ('num_epochs', 2.0, 'num_epochs must be a whole number but is 2.0'),
        ('tasks', ('digits', 3), 'config.tasks must be text but is 3'),
    ],
)
def test_a_value_of_another_type_is_named(field, value, said):
  config = dataclasses.replace(tiny.config(), **{field: value})
  with pytest.raises(ValueError, match=said):
    config_values.check(config)


def test_nested_fields_and_tuples_of_tuples_are_looked_into():
  config_values.check(_Pairs(((1, 2),), 0.5))
  with pytest.raises(ValueError, match='entry of each entry of config.pairs'):
    config_values.check(_Pairs(((1, 'a'),)))
  with pytest.raises(ValueError, match='config.pairs must hold 2 values'):
    config_values.check(_Pairs(((1,),)))
  with pytest.raises(ValueError, match="config.limit must be .* but is 'a'"):
    config_values.check(_Pairs((), 'a'))
  config = tiny.config()
  config.heads = dataclasses.replace(config.heads, regularization='a')
  with pytest.raises(ValueError, match='config.heads.regularization must be'):
    config_values.check(config)
