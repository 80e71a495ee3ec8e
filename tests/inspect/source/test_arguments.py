"""What the function of a source takes and gives."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg
from tests.inspect.source.sources import check, run


def test_an_argument_called_like_a_module_gets_another_name():
    def loss(lax):
        return jnp.sum(jnp.sin(lax))

    assert "def value_and_grad(lax_):" in check(loss, jnp.ones(2))


def test_leaves_of_the_same_name_are_told_apart_by_what_leads_to_them():
    params = [{"a": {"w": 1.0}, "b": {"w": 2.0}}, {"a": {"w": 3.0}, "b": {"w": 4.0}}]
    source = check(lambda params: params[0]["a"]["w"] * params[0]["b"]["w"] * params[1]["a"]["w"], params)
    for name in ("a_w_0", "b_w_0", "a_w_1"):
        assert f"{name} = params" in source
    assert '"w": jnp.zeros(())' in source or "jnp.float32(0.0)" in source


def test_keyword_arguments_stay_keywords():
    def loss(x, *, scale):
        return jnp.sum(x) * scale

    source = fg.backward_source(loss)(jnp.ones(2), scale=3.0)
    assert "def value_and_grad(x, *, scale):" in source
    assert run(source)(jnp.ones(2), scale=2.0)[0] == 4


def test_arguments_that_are_no_arrays_are_held_fixed():
    def loss(x, kind):
        return jnp.sum(jnp.sin(x) if kind == "sine" else x)

    source = fg.backward_source(loss)(jnp.ones(2), "sine")
    value, _ = run(source)(jnp.ones(2), "sine")
    np.testing.assert_allclose(value, 2 * np.sin(1.0), rtol=1e-6)


def test_auxiliary_outputs_come_along():
    def loss(x):
        return jnp.sum(x**2), {"twice": 2 * x, "one": 1.0}

    check(loss, jnp.arange(3.0), has_aux=True)


class Point(NamedTuple):
    x: Any
    y: Any


def test_gradients_have_the_structure_of_any_tree():
    for params in (Point(1.0, 2.0), OrderedDict(b=1.0, a=2.0), (1.0, [2.0, {"c": 3.0}]), {"n": None, "a": (1.0,)}):
        check(lambda params: sum(jax.tree.leaves(params)) ** 2, params)


def test_it_takes_numpy_arrays_and_python_numbers():
    source = fg.backward_source(lambda w, x: jnp.sum(w * x))(2.0, np.ones(3))
    value, ct = run(source)(3.0, np.ones(3))
    assert value == 9 and ct == 3
