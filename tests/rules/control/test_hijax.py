"""Types and primitives of hijax: what an array is not, and what is changed in place."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src import hijax

import funcgrad as fg
from tests.agreement import assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)

#: As jax 0.12 spells it, and as it was spelled before.
HiPrimitive = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive


class Multiply(HiPrimitive):
    def __init__(self, x, y):
        self.in_avals = (jax.typeof(x), jax.typeof(y))
        self.out_aval = jax.typeof(x)
        self.params = {}
        super().__init__()

    def expand(self, x, y):
        return x * y

    def vjp_fwd(self, nonzero, x, y):
        return self(x, y), (x, y)

    def vjp_bwd_retval(self, residuals, ct):
        x, y = residuals
        return 10 * ct * y, 20 * ct * x


def multiply(x, y):
    return Multiply(x, y)(x, y)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_a_hijax_primitive_goes_back_its_own_way(argnums):
    x, y = jnp.asarray(V), jnp.asarray(V + 1)
    f = lambda x, y: jnp.sum(jnp.sin(multiply(x, y)))  # noqa: E731
    for wrap in (lambda f: f, jax.jit):
        mine, theirs = (wrap(m.grad(f, argnums))(x, y) for m in (fg, jax))
        assert_same(mine, theirs, 1e-6)


# A pair of arrays of one shape, as a type.


@dataclasses.dataclass(frozen=True)
class Pair:
    one: Any
    two: Any


@dataclasses.dataclass(frozen=True)
class PairTy(hijax.HiType):
    of: Any

    #: What scan and cond ask of a type.
    mat = property(lambda self: self.of.mat)

    def __hash__(self):
        return hash(self.of)

    def lo_ty(self):
        return [self.of, self.of]

    def lower_val(self, pair):
        return [pair.one, pair.two]

    def raise_val(self, one, two):
        return Pair(one, two)

    def to_tangent_aval(self):
        return PairTy(self.of.to_tangent_aval())

    def normalize(self):
        return self

    def vspace_zero(self):
        return pair(jnp.zeros(self.of.shape, self.of.dtype), jnp.zeros(self.of.shape, self.of.dtype))

    def vspace_add(self, a, b):
        return pair(*map(jnp.add, parts(a), parts(b)))

    def dec_rank(self, size, spec):
        return PairTy(self.of.update(shape=self.of.shape[1:]))

    def inc_rank(self, size, spec):
        return PairTy(self.of.update(shape=(size, *self.of.shape)))

    def leading_axis_spec(self):
        return hijax.MappingSpec()


hijax.register_hitype(Pair, lambda p: PairTy(jax.typeof(p.one).strip_weak_type()))


class Make(HiPrimitive):
    """Differentiated forward only, and transposed."""

    def __init__(self, of):
        self.in_avals, self.out_aval, self.params = (of, of), PairTy(of), {"of": of}
        super().__init__()

    def expand(self, one, two):
        return Pair(one, two)

    def jvp(self, primals, tangents):
        return self(*primals), self(*map(hijax.ad.instantiate_zeros, tangents))

    def transpose(self, ct, *sums):
        for total, part in zip(sums, parts(ct), strict=True):
            if isinstance(total, hijax.ad.GradAccum):
                total.accum(part)


class Parts(HiPrimitive):
    def __init__(self, ty):
        self.in_avals, self.out_aval, self.params = (ty,), [ty.of, ty.of], {"ty": ty}
        super().__init__()

    def expand(self, p):
        return [p.one, p.two]

    def vjp_fwd(self, nonzero, p):
        return self(p), None

    def vjp_bwd_retval(self, residuals, cts):
        return (pair(*map(hijax.ad.instantiate_zeros, cts)),)


def pair(one, two):
    return Make(jax.typeof(one).strip_weak_type())(one, two)


def parts(p):
    return Parts(jax.typeof(p))(p)


@hijax.custom_vjp3
def passed(p):
    return p


passed.defvjp(lambda p: (p, None), lambda _, ct: (ct,))

PROGRAMS = {
    "operations": lambda f, p: f(f(p)),
    "jit": lambda f, p: jax.jit(f)(f(p)),
    "scan": lambda f, p: lax.scan(lambda c, _: (f(c), None), p, None, length=3)[0],
    "cond": lambda f, p: lax.cond(True, f, lambda p: p, p),
    "custom_vjp": lambda f, p: passed(f(p)),
}


def of_pairs(program, x):
    def turned(p):
        one, two = parts(p)
        return pair(jnp.sin(two) * one, one + 2 * two)

    one, two = parts(program(turned, pair(x, x * 2)))
    return jnp.sum(one * two)


def of_tuples(program, x):
    def turned(p):
        one, two = p
        return jnp.sin(two) * one, one + 2 * two

    one, two = program(turned, (x, x * 2))
    return jnp.sum(one * two)


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_of_another_type_are_differentiated_as_the_arrays_in_them(name):
    mine, plain = (partial(of, PROGRAMS[name]) for of in (of_pairs, of_tuples))
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        assert_same(wrap(fg.grad(mine))(V), fg.grad(plain)(V), 1e-5)
        assert_same(fg.grad(wrap(mine))(V), fg.grad(plain)(V), 1e-5)


def test_a_value_of_another_type_is_an_argument_to_differentiate():
    def f(p):
        one, two = parts(p)
        return jnp.sum(one * jnp.sin(two))

    for wrap in (lambda f: f, jax.jit):
        found = wrap(fg.grad(f))(Pair(jnp.asarray(V), jnp.asarray(V + 1)))
        assert_same((found.one, found.two), (np.sin(V + 1), V * np.cos(V + 1)), 1e-6)


def test_a_primitive_adds_to_no_cotangent_that_nobody_wants():
    asked = []

    class Asked(Multiply):
        def vjp_bwd(self, residuals, ct, *sums):
            asked.append([type(total) is hijax.ad.NullAccum for total in sums])
            for total in sums:
                if isinstance(total, hijax.ad.GradAccum):
                    total.accum(ct)

        vjp_bwd_retval = HiPrimitive.vjp_bwd_retval

    x = jnp.asarray(V)
    _, pullback = fg.vjp(lambda x, y: Asked(x, y)(x, y), x, x)
    for unwanted in (jax.ad.DontWant(), hijax.ad.NullAccum(jax.typeof(x))):
        pullback.with_refs(unwanted, jax.ad.GradValue())(x)
    assert asked == [[True, False]] * 2


def test_a_function_that_is_checkpointed_by_its_own_rule_is_run_forward_as_itself():
    @hijax.custom_vjp3
    def f(x):
        return jnp.tan(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (jnp.cos(x) * ct,), optimize_remat=True)
    value, ct = fg.value_and_grad(lambda x: jax.checkpoint(f)(x))(0.5)
    np.testing.assert_allclose((value, ct), (np.tan(0.5), np.cos(0.5)), 1e-6)
    np.testing.assert_allclose(fg.value_and_grad(f)(0.5), (np.sin(0.5), np.cos(0.5)), 1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(fg.grad(f)))(V), np.cos(V), 1e-6)
    np.testing.assert_allclose(fg.grad(fg.grad(f))(0.5), -np.sin(0.5), 1e-6)


class Twice(HiPrimitive):
    """Says how it is differentiated both ways, which is not the same."""

    def __init__(self, x):
        self.in_avals, self.out_aval, self.params = (jax.typeof(x),), jax.typeof(x), {}
        super().__init__()

    def expand(self, x):
        return 2 * x

    def jvp(self, primals, tangents):
        return self(*primals), 20 * tangents[0]

    def vjp_fwd(self, nonzero, x):
        return self(x), None

    def vjp_bwd_retval(self, residuals, ct):
        return (200 * ct,)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["itself", "jitted"])
def test_a_checkpointed_primitive_is_differentiated_by_its_jvp(wrap):
    f = wrap(lambda x: Twice(x)(x))
    for module in (jax, fg):
        assert module.grad(f)(1.0) == 200 and module.grad(jax.checkpoint(f))(1.0) == 20


# What is changed in place, which jax 0.11.1 has no more.

has_boxes = pytest.mark.skipif(not hasattr(hijax, "Box"), reason="this jax has no boxes")


def recorder():
    """A function of a box or a log and a number, whose way back puts the cotangent there."""

    @jax.custom_vjp
    def put(there, x):
        return x

    def bwd(there, ct):
        there.set(ct) if isinstance(there, hijax.Box) else there.append("ct", ct)
        return None, ct

    put.defvjp(lambda there, x: (x, there), bwd)
    return put


IN_PLACE = {
    "operations": lambda f, there, x: f(there, x),
    "jit": lambda f, there, x: jax.jit(f)(there, x),
    "jit, closed over": lambda f, there, x: jax.jit(lambda x: f(there, x))(x),
    "inlined": lambda f, there, x: jax.jit(f, inline=True)(there, x),
    "scan": lambda f, there, x: lax.scan(lambda c, _: (f(there, c), None), x, None, length=3)[0],
}


def incremented(box, x):
    box.set(box.get() + 1.0)
    return x


eager_and_jitted = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])


@has_boxes
@eager_and_jitted
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_box_is_changed_on_the_way_forward_and_back(name, wrap):
    program, put, box, steps = IN_PLACE[name], recorder(), hijax.Box(0.0), 3 if name == "scan" else 1
    assert wrap(fg.grad(lambda x: program(incremented, box, x)))(1.0) == 1
    assert box.get() == steps
    ct = wrap(fg.grad(lambda x: 3 * program(lambda box, x: put(box, incremented(box, x) * 2), box, x)))(1.0)
    assert ct == 3 * 2**steps and box.get() == 3 * 2 ** (steps - 1)


@has_boxes
@eager_and_jitted
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_the_way_back_logs_is_in_the_log(name, wrap):
    program, put, log = IN_PLACE[name], recorder(), hijax.Log()
    wrap(fg.grad(lambda x: 3 * program(lambda log, x: put(log, x * 2), log, x)))(1.0)
    (logged,) = log._dct["ct"]
    assert np.ravel(logged).tolist() == ([12, 6, 3] if name == "scan" else [3])
