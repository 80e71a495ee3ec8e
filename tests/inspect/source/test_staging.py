"""The pass that is written down."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg
from tests.inspect.source.sources import check


def test_another_rule_table_is_written_as_it_is():
    through = fg.rules.default.override({lax.round_p: lambda ct: ct})
    source = check(lambda x: jnp.sum(jnp.round(x) ** 2), jnp.array([0.3, 1.6]), rules=through)
    assert "ct_x = " in source


def test_it_raises_what_value_and_grad_does():
    with pytest.raises(TypeError, match="scalar-output"):
        fg.backward_source(lambda x: x)(jnp.ones(2))
