"""Mutable arrays: each program beside itself on arrays that are replaced, its loops and branches spelled out."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_same, quick_jit

X = np.array([0.7, -1.2, 0.4])


class Held:
    """A reference's content as a value, replaced where the reference would be written to."""

    def __init__(self, x):
        self.x = jnp.asarray(x)

    def __getitem__(self, index):
        return self.x[index]

    def __setitem__(self, index, y):
        self.x = self.x.at[index].set(y)

    def addupdate(self, y, index=...):
        self.x = self.x.at[index].add(y)

    def swap(self, y, index=...):
        old, self[index] = self[index], y
        return old


def unrolled_scan(body, carry, xs=None, length=None, reverse=False):
    refs = isinstance(xs, Held)
    count = length if xs is None else (xs.x if refs else xs).shape[0]
    ys = [None] * count
    for i in reversed(range(count)) if reverse else range(count):
        x = None if xs is None else Held(xs[i]) if refs else xs[i]
        carry, ys[i] = body(carry, x)
        if refs:
            xs[i] = x.x
    return carry, None if not ys or ys[0] is None else jnp.stack(ys)


def unrolled_while(proceeds, body, carry):
    while proceeds(carry):
        carry = body(carry)
    return carry


#: What a program is written in, and the same without references and without programs inside it.
REAL = SimpleNamespace(
    new=jax.new_ref, freeze=jax.freeze, jit=jax.jit, scan=lax.scan, cond=lax.cond, while_loop=lax.while_loop,
    checkpoint=jax.checkpoint,
)  # fmt: skip
PURE = SimpleNamespace(
    new=Held, freeze=lambda r: r.x, jit=lambda f: f, scan=unrolled_scan, while_loop=unrolled_while,
    cond=lambda pred, yes, no, *args: (yes if pred else no)(*args), checkpoint=lambda f, **_: f,
)  # fmt: skip


def whole_content(m, x):
    r = m.new(x)
    y = r[...] * 2
    r[...] = jnp.sin(r[...]) * x
    z = r.swap(x * x)
    r.addupdate(z * y)
    r.addupdate(jnp.ones(3))
    return y * m.freeze(r)


def elements(m, x):
    r = m.new(x)
    r[1] = r[0] * x[2]
    old = r.swap(r[1] * x[:1], slice(2, 3))
    r.addupdate(old * 3, slice(0, 1))
    i = jnp.argmax(x)
    r[i] = r[i] ** 2 * r[i - 1]
    r.addupdate(x[i], i)
    return r[...], r[np.array([0, 2, 0])]


def blocks(m, x):
    r = m.new(jnp.outer(x, x))
    r[1, :2] = r[:2, 1] * x[0]
    r[:, 2] = r[0] * x
    r[np.array([0, 2]), np.array([1, 1])] = x[:2] * r[np.array([0, 1]), 2]
    r.addupdate(x[:2], (np.array([2, 0]), 2))
    return r[1:, :], r[:, np.array([1, 1])]


def overwritten(m, x):
    r = m.new(jnp.exp(x))
    y = r[1]
    r[...] = jnp.zeros(3)
    r[0] = 2.0
    return r[...] + y


def never_read(m, x):
    r = m.new(x)
    r[...] = x * 2
    r[0] = x[1]
    return jnp.sin(x)


def made_of_constants(m, x):
    r, n = m.new(jnp.zeros(3)), m.new(jnp.arange(3))
    r[0] = x[0] ** 2
    n[1] = 2
    r[n[1]] = x[1] * n[2]
    return r[...]


def jitted(m, x):
    r, s, t = m.new(x), m.new(x * 2), m.new(x**2)

    @m.jit
    def f(s, y):
        r[1] = s[0] * y
        s.addupdate(jnp.sin(y) * t[2], 1)
        return m.jit(lambda: jnp.cos(r[...]) * t[...])()

    return f(s, x[0]), f(s, x[2]), r[...], s[...], t[...]


def inner_reference(m, x):
    def f(x):
        r = m.new(x)
        r[0] = r[1] * r[2]
        r[...] = r[...] * 2
        return r[...]

    return m.jit(f)(x), m.checkpoint(f)(x), m.scan(lambda c, _: (f(c), None), x, length=2)[0]


def looped(m, x):
    r, s = m.new(x), m.new(jnp.zeros(3))

    def body(c, y):
        r[...] = r[...] * jnp.sin(y)
        s[0] = c + s[0] * r[1]
        s.addupdate(y * c, 1)
        return c * r[2], s[...] * r[0]

    c, ys = m.scan(body, x[0], x)
    return c, ys, r[...], s[...]


def looped_backwards(m, x):
    r, t = m.new(x), m.new(x * 2)

    def body(c, y):
        r[0] = y * r[1] * t[2]
        return c + r[0] * t[0], None

    return m.scan(body, x[1], x * x, reverse=True)[0], m.scan(body, x[1], x[:0])[0], r[...]


def elements_of_a_reference(m, x):
    xs, ys, r = m.new(jnp.outer(x, x)), m.new(x), m.new(x)

    def body(c, x):
        x[0] = x[1] * c
        r.addupdate(x[...])
        return jnp.sin(c) * x[2], c * x[...]

    c, zs = m.scan(body, x[0], xs)
    total, _ = m.scan(lambda c, y: (c + y[...] ** 2, None), 0.0, ys)
    return c, zs, total, xs[...], r[...]


def branches(m, x):
    r, s, t = m.new(x), m.new(x), m.new(x)

    def yes(y):
        r[0] = y * t[1]
        return jnp.sin(r[...])

    def no(y):
        s[...] = y * s[...] * r[0]
        return s[...]

    out = [m.cond(pred, yes, no, x[i]) for i, pred in enumerate([np.True_, np.False_, np.True_])]
    return *out, r[...], s[...], t[...]


def dynamic_loop(m, x):
    r, s = m.new(x), m.new(x)

    def body(c):
        i, y = c
        r[...] = r[...] * y * s[0]
        r.addupdate(y, i % 3)
        return i + 1, jnp.sin(y) * r[1]

    return m.while_loop(lambda c: c[0] < 4, body, (0, x[0]))[1], r[...], s[...]


def checkpointed(m, x):
    r, s = m.new(x), m.new(x * 2)

    def f(y):
        t, u = m.new(y), m.new(y)
        r[0] = jnp.sin(y[1]) * r[2]
        t[...] = t[...] * r[...]
        u[1] = jnp.sin(y[1]) * u[2]
        r.addupdate(y * s[...])

        def body(c, _):
            t[0] = t[1] * c
            u[0] = jnp.cos(c) * u[1]
            return jnp.sin(t[0] * u[0]), None

        c, _ = m.scan(body, y[0], length=2)
        return jnp.exp(t[...] * u[...] * c) * r[1]

    saving = jax.checkpoint_policies.save_anything_except_these_names
    return m.checkpoint(f)(x), m.checkpoint(f, policy=saving())(x), m.checkpoint(f, policy=lambda p, *_, **__: p is lax.sin_p)(x), r[...]


def complex_content(m, x):
    r = m.new(x * (1 + 2j))
    r[0] = jnp.exp(r[1]) * x[2]
    r.addupdate(x[1] * 1j, 2)
    return jnp.real(r[...] * (3 - 1j))


PROGRAMS = [
    whole_content, elements, blocks, overwritten, never_read, made_of_constants, jitted, inner_reference, looped,
    looped_backwards, elements_of_a_reference, branches, dynamic_loop, checkpointed, complex_content,
]  # fmt: skip


def weigh(program, m):
    """A scalar of all that ``program`` returns."""
    return lambda x: sum(jnp.sum(jnp.sin(y + i) * (i + 2)) for i, y in enumerate(jax.tree.leaves(program(m, x))))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_on_references_has_the_derivatives_of_one_on_values(program):
    real, pure = weigh(program, REAL), weigh(program, PURE)
    twice = lambda grad, f: grad(lambda x: jnp.sum(jnp.cos(grad(f)(x))))  # noqa: E731
    assert_same(fg.value_and_grad(real)(X), jax.value_and_grad(pure)(X), 1e-12)
    assert_same(quick_jit(fg.grad(real))(X), jax.grad(pure)(X), 1e-12)
    assert_same(quick_jit(twice(fg.grad, real))(X), twice(jax.grad, pure)(X), 1e-11)
