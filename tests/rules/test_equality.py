"""When two functions that were made apart are one."""

from __future__ import annotations

import functools
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad.rules.equality import value_of

settings = types.ModuleType("settings")
settings.deeper = types.ModuleType("settings.deeper")
settings.deeper.scale = 1.0
SCALE = 1.0
WEIGHTS = [1.0]
ONES = jnp.ones(3)


def helper(x):
    return SCALE * x


def closing(value):
    return lambda ct: ct * value


def inner(value):
    def outer(ct):
        def of(x):
            return x * value + helper(x)

        return of(ct)

    return outer


def recursive():
    def f(n):
        return n and f(n - 1)

    return f


EQUAL = {
    "of nothing": lambda: lambda ct: lax.neg(ct),
    "of libraries": lambda: lambda ct: jnp.where(ct > 0, lax.exp(ct), np.float32(math.pi)),
    "closing over a number": lambda: closing(2.0),
    "closing over NaN": lambda: closing(math.nan),
    "closing over a tuple": lambda: closing((1, "a", None, (np.float32(2), np.dtype("int8")))),
    "closing over an array": lambda: closing(ONES),
    "closing over another": lambda: closing(closing(2.0)),
    "of a default": lambda: lambda ct, k=2.0, *, m=3: ct * k * m,
    "of a global": lambda: lambda ct: ct * SCALE,
    "of a function that reads a global": lambda: lambda ct: helper(ct),
    "of a module": lambda: lambda ct: ct * settings.deeper.scale,
    "with another inside": lambda: inner(2.0),
    "of itself": recursive,
    "a partial": lambda: functools.partial(closing(2.0), 3.0),
    "one of a library": lambda: lax.neg,
}


@pytest.mark.parametrize("make", EQUAL.values(), ids=EQUAL)
def test_made_anew_it_is_the_same(make):
    assert value_of(make()) == value_of(make()) and hash(value_of(make())) == hash(value_of(make()))


UNEQUAL = {
    "lines": (lambda ct: ct, lambda ct: ct),
    "numbers": (closing(1.0), closing(2.0)),
    "types": (closing(1), closing(1.0)),
    "truth and number": (closing(1), closing(True)),
    "signs of zero": (closing(0.0), closing(-0.0)),
    "arrays": (closing(jnp.ones(3)), closing(jnp.ones(3))),
    "inner functions": (closing(closing(1.0)), closing(closing(2.0))),
    "partials": (functools.partial(helper, 1.0), functools.partial(helper, 2.0)),
}


@pytest.mark.parametrize(("one", "other"), UNEQUAL.values(), ids=UNEQUAL)
def test_others_are_others(one, other):
    assert value_of(one) != value_of(other)


CHANGING = {
    "a list": (lambda: closing(WEIGHTS)),
    "an array of numpy": (lambda: closing(np.ones(3))),
    "a global list": lambda: lambda ct: ct * WEIGHTS[0],
    "an object": lambda: closing(types.SimpleNamespace(scale=1.0)),
    "what is looked up by name": lambda: lambda ct: ct * getattr(settings, "scale"),  # noqa: B009
    "what is not there yet": lambda: lambda ct: ct * LATER,  # noqa: F821
    "a method of an object": lambda: closing(WEIGHTS.pop),
}


@pytest.mark.parametrize("make", CHANGING.values(), ids=CHANGING)
def test_what_may_change_is_never_the_same(make):
    function = make()
    assert value_of(function) != value_of(function)


@pytest.mark.parametrize("name", ["of a global", "of a function that reads a global", "with another inside"])
def test_a_changed_global_makes_another(name, monkeypatch):
    make = EQUAL[name]
    before = value_of(make())
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert value_of(make()) != before


def test_a_changed_module_makes_another(monkeypatch):
    make = EQUAL["of a module"]
    before = value_of(make())
    monkeypatch.setattr(settings.deeper, "scale", 2.0)
    assert value_of(make()) != before


def test_a_function_with_attributes_is_another():
    function = closing(1.0)
    before = value_of(function)
    function.scale = 3.0
    assert value_of(function) != before
