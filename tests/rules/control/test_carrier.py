"""What all carriers of programs share: nothing is computed that nobody wants, and nothing stays when a program goes."""

from __future__ import annotations

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import PartitionSpec

import funcgrad as fg
from funcgrad._jax import typeof
from funcgrad.engine.split import Split, split
from funcgrad.programs.memo import memo
from funcgrad.rules.control.carrier import Carrier, Halves, present, spread
from tests.agreement import assert_same

N = 16
X = np.linspace(0.1, 1.0, N * N, dtype=np.float32).reshape(N, N)


def layer(x, w):
    return jnp.tanh(x @ w)


def scanned(x, w):
    return lax.scan(lambda c, _: (layer(c, w), None), x, None, length=4)[0]


def scanned_elements(x, w):
    return lax.scan(lambda c, a: (layer(c, a), None), x, jnp.stack([w, w / 2]))[0]


def dynamic(x, w):
    return lax.while_loop(lambda s: s[1] < 3, lambda s: (layer(s[0], w), s[1] + 1), (x, 0))[0]


def branched(x, w):
    return lax.cond(x[0, 0] > 0, layer, lambda x, w: x * jnp.sum(w), x, w)


def mapped(x, w):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = PartitionSpec("i"), PartitionSpec()
    return jax.shard_map(layer, mesh=mesh, in_specs=(rows, whole), out_specs=rows)(x, w)


def solved(x, w):
    solve = lambda matvec, b: b / 3  # noqa: E731
    return lax.custom_linear_solve(lambda v: v * 3 + 0 * (w @ v), x, solve, solve)


CARRIERS = {
    "jit": jax.jit(layer),
    "inlined": jax.jit(layer, inline=True),
    "scan": scanned,
    "scan over elements": scanned_elements,
    "while": dynamic,
    "cond": branched,
    "checkpoint": jax.checkpoint(layer),
    "shard_map": mapped,
    "linear solve": solved,
}


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def products(program):
    """How many contractions are written down in a program, at any depth."""
    programs = jax.tree.leaves([eqn.params for eqn in program.eqns], is_leaf=lambda x: hasattr(x, "eqns"))
    inside = sum(products(x) for x in programs if hasattr(x, "eqns"))
    return inside + sum(eqn.primitive is lax.dot_general_p for eqn in program.eqns)


@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize("wanted", [0, 1], ids=["x", "w"])
def test_cotangents_that_nobody_wants_are_not_computed(name, wanted):
    f = CARRIERS[name]

    def of_both(x, w):
        out, pullback = fg.vjp(f, x, w)
        targets = [jax.ad.GradValue() if i == wanted else jax.ad.DontWant() for i in range(2)]
        return pullback.with_refs(*targets)(jnp.cos(out))[wanted]

    def of_one(x, w):
        args = [x, w]
        out, pullback = fg.vjp(lambda y: f(*args[:wanted], y, *args[wanted + 1 :]), args[wanted])
        return pullback(jnp.cos(out))[0]

    assert_same(of_both(X, X), of_one(X, X), 1e-5)
    assert_same(fg.vjp(f, X, X)[1](np.cos(f(X, X)))[wanted], of_one(X, X), 1e-5)
    assert flops(of_both, X, X) == flops(of_one, X, X)
    assert products(jax.make_jaxpr(of_both)(X, X)) == products(jax.make_jaxpr(of_one)(X, X))


def test_carried_cotangents_that_lead_nowhere_are_not_carried():
    def f(x, w):
        def step(c, _):
            a, b = c
            return (layer(a, w), jnp.tanh(b @ b)), None

        return jnp.sum(lax.scan(step, (x, x), None, length=3)[0][0])

    def only_w(x, w):
        _, pullback = fg.vjp(f, x, w)
        return pullback.with_refs(jax.ad.DontWant(), jax.ad.GradValue())(1.0)[1]

    assert flops(only_w, X, X) == flops(fg.grad(f, 1), X, X)


MAKING = {
    "jit": jax.jit,
    "scan": lambda f: lambda x: lax.scan(lambda c, a: (f(c * a), None), x, jnp.ones(3))[0],
    "while": lambda f: lambda x: lax.while_loop(lambda s: s[1] < 3, lambda s: (f(s[0]), s[1] + 1), (x, 0))[0],
    "cond": lambda f: lambda x: lax.cond(x > 0, lambda x: f(x), lambda x: f(2 * x), x),
    "cond, twice the same": lambda f: lambda x: lax.cond(x > 0, f, f, x),
    "checkpoint": jax.checkpoint,
}


@pytest.mark.parametrize("name", MAKING)
def test_nothing_stays_of_a_program_that_is_gone(name):
    def differentiate():
        program = jax.make_jaxpr(MAKING[name](lambda x: jnp.sin(x)))(0.5)
        f = lambda x: jax.core.eval_jaxpr(program.jaxpr, program.consts, x)[0]  # noqa: E731
        jax.make_jaxpr(fg.grad(f))(0.5)
        jax.make_jaxpr(fg.grad(fg.grad(f)))(0.5)
        return made()

    # What belongs to JAX's own functions stays with them.
    differentiate()
    gc.freeze()
    try:
        new = differentiate()
        assert new
        # A program inside of a program is free only when the outer one has been.
        while gc.collect():
            pass
        assert not [program for program in new if program() is not None]
    finally:
        gc.unfreeze()


def made():
    """The programs that are split, but for those that were there when the collector was frozen."""
    return {weakref.ref(x) for x in gc.get_objects() if isinstance(x, Split | Halves)}


# A carrier of another primitive, as CONTRIBUTING.md tells it.


called_p = Primitive("called")
called_p.multiple_results = True


@called_p.def_impl
def run_called(*xs, jaxpr):
    return jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *xs)


called_p.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)
mlir.register_lowering(called_p, mlir.lower_fun(run_called, multiple_results=True))


@memo
def split_call(program, activity, rules):
    return Halves(split(program, activity, rules))


class Called(Carrier):
    formula = "the backward half of the function"

    def halves(self, tape, params, activity):
        return split_call(params["jaxpr"], activity, tape.rules)

    def forward(self, halves, primitive, primals, params):
        results = primitive.bind(*primals, **{**params, "jaxpr": halves.split.forward})
        return results[: len(halves.out_avals)], halves.split.residuals(primals, results)

    def backward(self, node, halves, cts, ct_avals, wanted):
        program, mask = halves.split.backward(tuple(map(typeof, node.residuals)), ct_avals, wanted)
        return spread(node.primitive.bind(*node.residuals, *present(cts), **{**node.params, "jaxpr": program}), mask)


def test_a_carrier_of_another_primitive_says_only_what_is_its_own():
    rules = fg.rules.default.override({called_p: Called()})
    program = jax.make_jaxpr(lambda x, w: jnp.tanh(x) * w)(X, X)

    def loss(call):
        return lambda x, w: jnp.sum(call(x, w) ** 2)

    def called(x, w):
        return called_p.bind(x, w, jaxpr=program)[0]

    expected = jax.grad(loss(lambda x, w: jnp.tanh(x) * w), (0, 1))(X, X)
    assert_same(fg.grad(loss(called), (0, 1), rules=rules)(X, X), expected, 1e-6)
    assert_same(jax.jit(fg.grad(loss(called), (0, 1), rules=rules))(X, X), expected, 1e-6)
    steps = fg.explain(loss(called), rules=rules)(X, X).steps
    assert [step.primitive for step in steps if step.depth == 1] == ["mul", "tanh"]
