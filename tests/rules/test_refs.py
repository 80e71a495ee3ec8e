"""Mutable arrays: each program beside itself on arrays that are replaced, its loops and branches spelled out."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_same

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

    def swap(self, index, y):
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
    new=jax.new_ref, freeze=jax.freeze, swap=jax.ref.swap, jit=jax.jit, scan=lax.scan, cond=lax.cond,
    while_loop=lax.while_loop, checkpoint=jax.checkpoint,
)  # fmt: skip
PURE = SimpleNamespace(
    new=Held, freeze=lambda r: r.x, swap=Held.swap, jit=lambda f: f, scan=unrolled_scan, while_loop=unrolled_while,
    cond=lambda pred, yes, no, *args: (yes if pred else no)(*args), checkpoint=lambda f, **_: f,
)  # fmt: skip


def whole_content(m, x):
    r = m.new(x)
    y = r[...] * 2
    r[...] = jnp.sin(r[...]) * x
    z = m.swap(r, ..., x * x)
    r.addupdate(z * y)
    r.addupdate(jnp.ones(3))
    return y * m.freeze(r)


def elements(m, x):
    r = m.new(x)
    r[1] = r[0] * x[2]
    old = m.swap(r, slice(2, 3), r[1] * x[:1])
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


def backwards_and_not_at_all(m, x):
    r, t, u = m.new(x), m.new(x * 2), m.new(x)

    def body(c, y):
        r[0] = y * r[1] * t[2]
        return c + r[0] * t[0], None

    def erase(c, y):
        u[...] = jnp.zeros(3)
        return c, None

    backwards = m.scan(body, x[1], x * x, reverse=True)[0]
    return backwards, m.scan(body, x[1], x[:0])[0], m.scan(erase, x[1], x[:0])[0], r[...], u[...]


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

    everything, sines = jax.checkpoint_policies.everything_saveable, lambda p, *_, **__: p is lax.sin_p
    return m.checkpoint(f)(x), m.checkpoint(f, policy=everything)(x), m.checkpoint(f, policy=sines)(x), r[...]


def complex_content(m, x):
    r = m.new(x * (1 + 2j))
    r[0] = jnp.exp(r[1]) * x[2]
    r.addupdate(x[1] * 1j, 2)
    return jnp.real(r[...] * (3 - 1j))


PROGRAMS = [
    whole_content, elements, blocks, overwritten, never_read, made_of_constants, jitted, inner_reference, looped,
    backwards_and_not_at_all, elements_of_a_reference, branches, dynamic_loop, checkpointed, complex_content,
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
    assert_same(jax.jit(fg.grad(real))(X), jax.grad(pure)(X), 1e-12)
    assert_same(jax.jit(twice(fg.grad, real))(X), twice(jax.grad, pure)(X), 1e-11)


def test_views_of_views_agree():
    rows = np.array([0, 1, 0])

    @jax.jit
    def real(x):
        r = jax.new_ref(jnp.outer(x, x))
        y = r.at[1:3].at[rows][:, 1]
        r.at[1:].at[0][1] = y[0] * x[0]
        return jnp.sum(jnp.sin(y) * r.at[1:][0, :2].sum()) + jnp.sum(jnp.cos(r[...]))

    def pure(x):
        r = jnp.outer(x, x)
        y = r[1:3][rows, 1]
        r = r.at[1, 1].set(y[0] * x[0])
        return jnp.sum(jnp.sin(y) * r[1, :2].sum()) + jnp.sum(jnp.cos(r))

    assert_same(fg.grad(real)(X), jax.grad(pure)(X), 1e-12)


def test_an_empty_reference_may_be_written_read_and_freed():
    def f(x):
        r = jax.empty_ref(jax.ShapeDtypeStruct((3,), x.dtype))
        r[...] = x * x
        y = r[...] * r[0]
        jax.free_ref(r)
        return jnp.sum(y)

    assert_same(fg.grad(jax.jit(f))(X), jax.grad(lambda x: jnp.sum(x * x) * x[0] ** 2)(X), 1e-12)


def test_references_batch_inside_and_outside_of_the_derivative():
    real, pure = weigh(elements, REAL), weigh(elements, PURE)
    xs = np.stack([X, X[::-1], 2 * X])
    expected = jax.vmap(jax.grad(pure))(xs)
    assert_same(jax.vmap(fg.grad(real))(xs), expected, 1e-12)
    assert_same(fg.grad(lambda xs: jnp.sum(jax.vmap(real)(xs)))(xs), expected, 1e-12)


def test_custom_rules_see_references():
    @jax.custom_vjp
    def twice(r, x):
        return 2 * r[...] * x

    twice.defvjp(lambda r, x: (twice(r, x), (r[...], x)), lambda saved, ct: (2 * ct * saved[1], 2 * ct * saved[0]))

    @jax.custom_jvp
    def shift(r, x):
        r[0] = x * r[2]
        return r[1] * x

    @shift.defjvp
    def _(primals, tangents):
        (r, x), (r_dot, x_dot) = primals, tangents
        before, before_dot = r[...], r_dot[...]
        r_dot[0] = x_dot * before[2] + x * before_dot[2]
        return shift(r, x), before_dot[1] * x + before[1] * x_dot

    def f(x):
        r = jax.new_ref(x * x)
        y = twice(r, x) + shift(r, x[1])
        return jnp.sum(y * r[...])

    def pure(x):
        r = x * x
        y = 2 * r * x + r[1] * x[1]
        return jnp.sum(y * r.at[0].set(x[1] * r[2]))

    assert_same(fg.grad(f)(X), jax.grad(pure)(X), 1e-12)


def update(r, x):
    y = r[1] * 2
    r[1] = x * x
    r[...] = r[...] * x
    return jnp.sin(y)


def updated(content, x):
    return jnp.sin(content[1] * 2), jnp.asarray(content).at[1].set(x * x) * x


@pytest.mark.parametrize("f", [update, jax.jit(update)])
def test_a_reference_may_be_an_argument(f):
    _, expected = jax.vjp(updated, X, 2.0)
    for cts in (jnp.zeros(3), jnp.array([1.0, 2.0, 3.0])):
        r, r_ct = jax.new_ref(X), jax.new_ref(cts)
        y, pullback = fg.vjp(f, r, 2.0)
        assert_same((y, r[...]), updated(X, 2.0), 1e-15)
        placeholder, x_ct = pullback.with_refs(r_ct, jax.ad.GradValue())(1.0)
        assert placeholder == jax.ad.GradRef()
        assert_same((r_ct[...], x_ct), expected((jnp.ones(()), cts)), 1e-12)
    r = jax.new_ref(X)
    assert_same(fg.grad(f)(r, 2.0), expected((jnp.ones(()), jnp.zeros(3)))[0], 1e-12)


def test_a_pullback_of_references_crosses_a_jit_boundary():
    real, pure = weigh(looped, REAL), weigh(looped, PURE)
    pullback = jax.jit(lambda x: fg.vjp(real, x)[1])(X)
    assert_same(jax.jit(lambda p: p(jnp.ones(())))(pullback)[0], jax.grad(pure)(X), 1e-12)


def carriers(f):
    """``f``, of one argument, in everything that carries a program."""
    return {
        "jit": jax.jit(f),
        "scan": lambda x: lax.scan(lambda c, _: (f(c), None), x, length=1)[0],
        "cond": lambda x: lax.cond(True, f, lambda x: x, x),
        "while": lambda x: lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x))[1],
        "checkpoint": jax.checkpoint(f),
        "checkpoint with a policy": jax.checkpoint(f, policy=jax.checkpoint_policies.everything_saveable),
    }


@pytest.mark.parametrize("kind", ["jit", "scan", "cond", "while", "checkpoint", "checkpoint with a policy"])
def test_a_reference_from_outside_is_written_to_once_and_not_differentiated(kind):
    count, seen = jax.new_ref(1.0), jax.new_ref(X, kind="no_grad_no_remat")

    def f(x):
        count[...] = count[...] + 1
        return jnp.sin(x) * count[...]

    def stores(x):
        seen[...] = x
        return x * seen[0]

    assert_same(fg.grad(lambda x: jnp.sum(carriers(f)[kind](x)))(X), jnp.cos(X) * 2, 1e-12)
    assert count[...] == 2.0
    if kind != "while":
        assert_same(fg.grad(lambda x: jnp.sum(carriers(stores)[kind](x)))(X), jnp.full(3, X[0]), 1e-12)
        assert_same(seen[...], jnp.asarray(X))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_storing_an_active_value_outside_is_refused_before_it_is_done(wrap):
    r = jax.new_ref(jnp.zeros(3))

    def f(x, add):
        r.addupdate(x) if add else jax.ref.swap(r, ..., x)
        return jnp.sum(x)

    for add in (True, False):
        with pytest.raises(ValueError, match="Move the array reference to be an argument"):
            fg.grad(wrap(lambda x: f(x, add)))(X)  # noqa: B023
    assert_same(r[...], jnp.zeros(3))


def test_a_loop_whose_condition_reads_a_reference_is_refused():
    def f(x):
        r = jax.new_ref(x)

        def body(y):
            r[0] = r[0] + 1
            return y * r[0]

        return jnp.sum(lax.while_loop(lambda y: r[0] < 3, body, x))

    with pytest.raises(NotImplementedError, match="carry the value instead"):
        fg.grad(f)(X)


def test_elements_read_in_a_loop_cost_no_array_of_zeros_each():
    def f(x):
        r = jax.new_ref(x)
        return lax.scan(lambda c, i: (c + jnp.sin(r[i]), None), 0.0, jnp.arange(50))[0]

    _, backward = [e for e in jax.make_jaxpr(fg.grad(f))(jnp.zeros(50)).jaxpr.eqns if e.primitive is lax.scan_p]
    made = [e.primitive for e in backward.params["jaxpr"].jaxpr.eqns if e.outvars[0].aval.shape == (50,)]
    assert made == [lax.dynamic_update_slice_p]


def test_a_reference_may_be_sharded():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def f(x):
        r = jax.new_ref(x * 2)

        def on_each(r, x):
            r[0] = jnp.sin(x[0])
            r[...] = r[...] * x
            return r[1] * x

        y = jax.shard_map(on_each, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(r, x)
        return jnp.sum(y * r[...])

    def pure(x):
        r = (x * 2).at[0].set(jnp.sin(x[0])) * x
        return jnp.sum(r[1] * x * r)

    np.testing.assert_allclose(jax.jit(fg.grad(f))(X), jax.grad(pure)(X), rtol=1e-12)
