"""Containers that are passed instead of their leaves, and residuals that are handed over together."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from funcgrad.inspect.printing import lines_of
from funcgrad.inspect.source.expressions import expression
from funcgrad.inspect.source.packing import Place, accessed, container_name, numbers_in, unpacking
from tests.inspect.source.sources import check, code_of

PATH = tuple(jax.tree_util.tree_flatten_with_path({"layers": [{"w": 1.0}]})[0][0][0])


def test_a_leaf_is_reached_by_its_keys():
    assert accessed("params", PATH) == "params['layers'][0]['w']"
    assert accessed("params", (jax.tree_util.FlattenedIndexKey(0),)) is None


def test_a_container_is_called_after_its_last_key_in_the_singular():
    place = Place("params", PATH[:2])
    assert container_name(place) == "layer" and numbers_in(place) == "_0"
    assert container_name(Place("params", ())) == "params"


def test_few_leaves_are_unpacked_in_one_statement_and_many_in_one_each():
    def statements(count):
        pairs = [(f"x_{i}", expression(f"xs[{i}]")) for i in range(count)]
        return [line for statement in unpacking(pairs) for line in lines_of(statement)]

    assert statements(2) == ["x_0, x_1 = xs[0], xs[1]"]
    assert statements(5)[:2] == ["x_0 = xs[0]", "x_1 = xs[1]"]


def source_of(steps: int) -> str:
    """The source of a function that keeps ``steps`` values for its way back, called three times."""

    @jax.jit
    def wave(w, x):
        for _ in range(steps):
            x = jnp.sin(w * x) * jnp.exp(x)
        return x + jnp.tanh(w)

    return code_of(check(lambda w: wave(w, wave(w, wave(w, w))), 0.3, tolerance=1e-5))


def test_many_residuals_are_passed_as_one_value_and_taken_apart_where_they_are_used():
    source = source_of(4)
    head = source.partition("def wave_backward(")[2].partition("):")[0]
    assert "residuals" in head and len(head.split(",")) <= 4
    assert " = residuals\n" in source
