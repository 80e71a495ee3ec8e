"""Gradients of random programs with shardings in types, with open dimensions, and with rules of users."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import event, given
from jax import export, lax
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from tests.rules.against_jax import draw
from tests.rules.test_properties import compiled, count, difference, double, gradient, largest, seeds, where_xla_can  # noqa: F401
from tests.rules.typed_programs import open_programs, ruled_programs, sharded_programs, sized


def values(shapes: Any, seed: int) -> list[np.ndarray]:
    return [np.tanh(draw(*shape, seed=seed + (i << 32))) for i, shape in enumerate(shapes)]


def told_apart(f, whole=lambda x: x):
    """A sum of all that ``f`` returns with other weights everywhere, whatever the sizes are."""

    def scalar(*args):
        total = 0.0
        for i, x in enumerate(f(*args)):
            x = whole(x)
            place = sum((lax.broadcasted_iota(x.dtype, x.shape, d) * (d + 1.7) for d in range(x.ndim)), i + 1.0)
            total += jnp.sum(jnp.cos(place) * x)
        return total

    return scalar


def whole(x):
    return reshard(x, P(*[None] * x.ndim))


def attempt(f, *args):
    """What a function returns, or the exception that it raises."""
    try:
        return f(*args)
    except Exception as error:
        return error


@pytest.fixture
def mesh():
    with jax.set_mesh(jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)):
        yield


@count(0.03, 15)
@given(sharded_programs(), seeds)
@where_xla_can()
def test_gradient_of_sharded_values_is_that_of_jax_in_value_and_type(mesh, program, seed):
    at = values(program.shapes[: program.count], seed)
    laid_out = [reshard(x, kind.sharding.spec) for x, kind in zip(at, program.types, strict=False)]
    loss = told_apart(program, whole)

    def found(grad, *at):
        """Types and values: one that is unreduced can't be looked at."""
        types = []

        def function(*at):
            cts = grad(loss, tuple(range(program.count)))(*at)
            types.extend(jax.typeof(ct) for ct in cts)
            return [whole(ct) for ct in cts]

        return compiled(function)(*at), types

    if isinstance(attempt(compiled(loss), *laid_out), Exception):
        event("not even the program itself")
        return
    theirs, mine = (attempt(found, grad, *laid_out) for grad in (jax.grad, fg.grad))
    if isinstance(theirs, Exception):
        event(f"{'neither' if isinstance(mine, Exception) else 'only funcgrad'} has a gradient")
        theirs = attempt(found, jax.grad, *at)
    elif isinstance(mine, Exception):
        raise mine
    else:
        assert mine[1] == theirs[1]
    if not isinstance(mine, Exception) and not isinstance(theirs, Exception):
        assert difference(mine[0], theirs[0]) <= 1e-10 * (1 + largest(theirs[0]))


@count(0.03, 15)
@given(open_programs(), seeds)
@where_xla_can()
def test_gradient_exported_for_all_sizes_is_that_of_each(program, seed):
    loss = told_apart(program)
    types = program.types[: program.count]
    everywhere = tuple(range(program.count))
    forward = attempt(export.export(jax.jit(loss)), *types)
    if isinstance(forward, Exception):
        event("not even the program itself")
        return
    exported = attempt(export.export(jax.jit(fg.grad(loss, everywhere))), *types)
    if isinstance(exported, Exception):
        theirs = attempt(export.export(jax.jit(jax.grad(loss, everywhere))), *types)
        if isinstance(theirs, Exception):
            event("neither has a gradient")
            return
        raise exported
    for more in (0, 1):
        at = values(sized(program, more), seed)
        if abs(compiled(loss)(*at) - compiled(forward.call)(*at)) > 1e-10:
            event("sizes that happen to be equal make it another program")
            continue
        expected = compiled(jax.grad(loss, everywhere))(*at)
        assert difference(compiled(exported.call)(*at), expected) <= 1e-10 * (1 + largest(expected))


@count(0.03, 15)
@given(ruled_programs(), seeds)
@where_xla_can()
def test_functions_with_rules_are_as_by_custom_vjp(program, seed):
    at = values(program.shapes[: program.count], seed)
    rules = fg.rules.default.override(program.rules())
    theirs = compiled(gradient(jax.grad, program.by_custom_vjp()))(*at)
    mine = gradient(lambda f, argnums: fg.grad(f, argnums, rules=rules), program)
    for found in (compiled(mine)(*at), mine(*at)):
        assert difference(found, theirs) <= 1e-10 * (1 + largest(theirs))
