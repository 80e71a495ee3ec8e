"""Every tool by every table: what is shown of a gradient is the gradient that the same table gives."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad as fg
from tests.inspect.source.sources import run

# On the kinks of clip and relu, where tables differ, and beside them.
X = jnp.array([[0.3, -0.7, 0.5], [1.2, -0.5, 0.0]])
SHIFT = jnp.zeros_like(X)


@jax.jit
def squashed(x):
    return jnp.tanh(x)


def body(x, shift):
    hidden = checkpoint_name(squashed(x) + shift, "hidden")
    return hidden * jnp.clip(x, -0.5, 0.5) + jnp.round(x)


def trapped(x, shift):
    return body(x, shift) + jnp.sqrt(x - x)  # planted


@jax.custom_vjp
def cubed(x):
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, ct: (2.5 * ct * x**2,))


def scanned(body, x, shift):
    return lax.scan(lambda c, k: (body(c, shift) * k, None), x, jnp.array([0.5, 2.0]))[0]


def repeated(body, x, shift):
    return lax.while_loop(lambda state: state[1] < 2, lambda state: (body(state[0], shift), state[1] + 1), (x, 0))[0]


#: What is made of the values that are squared and added up, from an operation of one entry each.
PROGRAMS = {
    "elementwise": lambda body, x, shift: body(x, shift),
    "jit": lambda body, x, shift: jax.jit(body)(x, shift),
    "scan": scanned,
    "cond": lambda body, x, shift: lax.cond(x[0, 0] > 0, body, lambda x, shift: x, x, shift),
    "while": repeated,
    "checkpoint": lambda body, x, shift: jax.checkpoint(body)(x, shift),
    "custom_vjp": lambda body, x, shift: cubed(body(x, shift)),
    "custom_jvp": lambda body, x, shift: jax.nn.relu(body(x, shift)),
    "vmap": lambda body, x, shift: jax.vmap(jax.jit(body))(x, shift),
    "in place": lambda body, x, shift: x.at[:, 1:].set(body(x, shift)[:, :2]),
}

TABLES = {
    "default": fg.rules.default,
    "torch": fg.rules.torch,
    "straight_through": fg.rules.straight_through,
    "noisy": fg.rules.noisy(fg.rules.default, {lax.tanh_p: 0.1}),
    "a function's rule": fg.rules.default.override({jnp.clip: lambda ct: ct}),
    "rules in a function": fg.rules.default.override({squashed: {lax.tanh_p: lambda ct: 3 * ct}}),
}


every_program = pytest.mark.parametrize("program", PROGRAMS)
every_table = pytest.mark.parametrize("table", TABLES)


@functools.cache
def loss(program, inner=body):
    def loss(x, shift):
        return jnp.sum(PROGRAMS[program](inner, x, shift) ** 2)

    return loss


@functools.cache
def gradient(program, table):
    return jax.device_get(fg.grad(loss(program), (0, 1), rules=TABLES[table])(X, SHIFT))


def assert_agree(table, found, wanted, again=None):
    """``found`` is ``wanted``; noise, drawn by the bits of a cotangent, is only the same ``again``."""
    if table == "noisy":
        assert np.all(np.isfinite(found))
        np.testing.assert_array_equal(found, again())
    else:
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


@every_table
@every_program
def test_a_table_changes_the_gradient(program, table):
    x_ct, _ = gradient(program, table)
    assert np.all(np.isfinite(x_ct))
    assert np.array_equal(x_ct, gradient(program, "default")[0]) == (table == "default")


@every_table
@every_program
def test_explain_measures_the_gradient(program, table):
    def measured():
        report = fg.explain(loss(program), (0, 1), rules=TABLES[table])(X, SHIFT)
        return [(s.norm, s.min, s.max) for s in (p.gradient for p in report.parameters)]

    wanted = [(np.linalg.norm(ct), ct.min(), ct.max()) for ct in gradient(program, table)]
    assert_agree(table, measured(), wanted, measured)


@every_table
@every_program
def test_backward_source_computes_the_gradient(program, table):
    value_and_grad = jax.jit(run(fg.backward_source(loss(program), (0, 1), rules=TABLES[table])(X, SHIFT)))
    value, found = value_and_grad(X, SHIFT)
    np.testing.assert_allclose(value, loss(program)(X, SHIFT), rtol=1e-5)
    assert_agree(table, found, gradient(program, table), lambda: value_and_grad(X, SHIFT)[1])


@every_table
@every_program
def test_find_nonfinite_finds_what_is_planted_and_nothing_else(program, table):
    assert fg.find_nonfinite(loss(program), rules=TABLES[table])(X, SHIFT) is None
    found = fg.find_nonfinite(loss(program, trapped), rules=TABLES[table])(X, SHIFT)
    lines, first = inspect.getsourcelines(trapped)
    planted = first + next(i for i, line in enumerate(lines) if "# planted" in line)
    assert (found.file, found.line, found.primitive, found.direction) == (__file__, planted, "sqrt", "backward")


@every_table
@every_program
def test_cotangents_are_gradients_with_respect_to_a_shift(program, table):
    def named():
        cts = fg.cotangents(loss(program), "hidden", rules=TABLES[table])(X, SHIFT)["hidden"]
        return jnp.sum(cts.reshape(-1, *SHIFT.shape), axis=0)  # a loop's are stacked, and all have the one shift

    assert_agree(table, named(), gradient(program, table)[1], named)
