"""Containers that are passed instead of their leaves."""

from __future__ import annotations

import jax

from funcgrad.inspect.printing import lines_of
from funcgrad.inspect.source.containers import Place, accessed, container_name, numbers_in, unpacking
from funcgrad.inspect.source.trees import expression

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
