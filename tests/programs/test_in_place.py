"""Loops that fill an array in place: the gradient is jax.grad's and the array is not copied at every step."""

from __future__ import annotations

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.programs.in_place import body_in_place
from tests.agreement import assert_agrees, assert_same

N = 300
START = np.linspace(0.5, 1, N).astype(np.float32)


def filled(step, n=N):
    """The array that ``step(i, y, x)`` fills, for i from 2 on."""
    return lambda x: lax.fori_loop(2, n, lambda i, y: step(i, y, x), START * x)


def nested(x):
    side = 18

    def cell(i, j, y):
        return y.at[i, j].set(jnp.sin(y[i - 1, j]) * x + 0.5 * y[i, j - 1])

    row = lambda i, y: lax.fori_loop(1, side, lambda j, y: cell(i, j, y), y)  # noqa: E731
    return lax.fori_loop(1, side, row, START[0] * jnp.ones((side, side)) * x)


def rows(x):
    start = x * jnp.ones((20, 16))
    return lax.fori_loop(1, 20, lambda i, y: y.at[i].set(jnp.sin(y[i - 1]) * x), start)


def with_a_sum(x):
    def step(carry, i):
        y, total = carry
        return (y.at[i].set(jnp.sin(y[i - 1]) * x), total + y[i - 2] ** 2 * y[0]), y[i - 1]

    (y, total), seen = lax.scan(step, (START * x, 0.0), jnp.arange(2, N))
    return y[:-2] * seen + total


def from_a_table(x):
    table = START * x
    return filled(lambda i, y, x: y.at[i].set(jnp.sin(y[i - 1]) * table[i] + table[N - i] * table[3]))(x)


def two_arrays(x):
    def step(i, carry):
        y, z = carry
        return y.at[i].set(z[i - 1] * x), z.at[i].set(jnp.sin(y[i - 1]) + z[i - 2])

    return jnp.stack(lax.fori_loop(2, N, step, (START * x, START)))


def slices(i, y, x):
    return lax.dynamic_update_slice(y, jnp.sin(lax.dynamic_slice(y, (i - 2,), (2,))) * x, (i,))


programs = {
    "set": filled(lambda i, y, x: y.at[i].set(jnp.sin(y[i - 1]) * x)),
    "set after several reads": filled(lambda i, y, x: y.at[i].set(jnp.sin(y[i - 1]) * x + 0.3 * y[i - 2] * y[0])),
    "set twice": filled(lambda i, y, x: y.at[i].set(y[i - 1] * x).at[i - 1].set(y[i] + y[i - 2])),
    "add": filled(lambda i, y, x: y.at[i].add(jnp.sin(y[i - 1]) * x)),
    "multiply": filled(lambda i, y, x: y.at[i].multiply(jnp.sin(y[i - 1]) * x)),
    "max": filled(lambda i, y, x: y.at[i].max(jnp.sin(y[i - 1]) * 2 * x)),
    "set some": filled(lambda i, y, x: y.at[jnp.array([i, i + 5])].set(y[i - 1] * x)),
    "dropped where out of bounds": filled(lambda i, y, x: y.at[2 * i].set(jnp.sin(y[i - 1]) * x)),
    "slices": filled(slices),
    "jitted step": filled(jax.jit(lambda i, y, x: y.at[i].set(jnp.sin(y[i - 1]) * x))),
    "an index that was read": filled(lambda i, y, x: y.at[(y[i - 1] * 7).astype(int) + 2].set(jnp.sin(y[i - 2]) * x)),
    "rows": rows,
    "nested": nested,
    "with a sum": with_a_sum,
    "from a table": from_a_table,
    "two arrays": two_arrays,
}


#: Compiling second derivatives of loops takes long.
SECOND_ORDER = ("set after several reads", "set twice", "from a table")


@pytest.mark.parametrize("name", programs)
def test_gradient_of_a_filled_array_agrees(name):
    loss = lambda x: jnp.sum(jnp.cos(jnp.arange(programs[name](x).size)) * programs[name](x).ravel() ** 2)  # noqa: E731
    assert_agrees(loss, 0.9, second=name in SECOND_ORDER, tolerance=2e-6)


@pytest.mark.parametrize("name", [name for name in programs if name not in ("set some", "an index that was read")])
def test_no_step_of_the_gradient_copies_the_array(name):
    """In XLA's program for the CPU. What is computed outside of loops is done in the entry computation."""
    y = jax.eval_shape(programs[name], 0.9)
    shape = (N,) if name in ("with a sum", "two arrays") else y.shape
    text = jax.jit(fg.grad(lambda x: jnp.sum(programs[name](x) ** 2))).lower(0.9).compile().as_text()
    array = f"f32[{','.join(map(str, shape))}]"
    loops = text[: text.index("\nENTRY")]
    assert array in loops
    assert not re.findall(rf"{re.escape(array)}\S* copy\(", loops)


def test_small_arrays_and_whole_array_steps_are_left_alone():
    small = lambda x: lax.fori_loop(1, 9, lambda i, y: y.at[i].set(y[i - 1] * x), jnp.ones(9))  # noqa: E731
    whole = lambda x: lax.fori_loop(1, N, lambda i, y: (y * x).at[i].set(y[i - 1]), START * x)  # noqa: E731
    for f in (small, whole):
        assert "platform_index" not in str(jax.make_jaxpr(fg.grad(lambda x, f=f: jnp.sum(f(x))))(0.9))
        assert_agrees(lambda x, f=f: jnp.sum(f(x) ** 2), 0.9)


def test_gradients_of_a_batch_of_filled_arrays_agree():
    loss = lambda x: jnp.sum(programs["set after several reads"](x) ** 2)  # noqa: E731
    xs = np.linspace(0.5, 0.9, 3, dtype=np.float32)
    assert_same(jax.jit(jax.vmap(fg.grad(loss)))(xs), jax.jit(jax.vmap(jax.grad(loss)))(xs), 1e-5)


def test_not_a_number_passes_through():
    loss = lambda x: jnp.sum(programs["set"](x))  # noqa: E731
    assert np.isnan(fg.grad(loss)(np.float32(np.nan)))
    weights = np.where(np.arange(N) == 50, np.nan, 1).astype(np.float32)
    assert np.isnan(jax.jit(fg.grad(lambda x: jnp.sum(programs["set"](x) * weights)))(0.9))


def updated(count):
    """A loop with so many updates in a step."""

    def step(i, y, x):
        for j in range(count):
            y = y.at[i + j].set(jnp.sin(y[i - 1]) * x + y[0])
        return y

    return filled(step, N - count)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_only_the_program_for_the_cpu_has_borders(platform):
    """Elsewhere, for any number of updates, there is one conditional in each loop: the choice itself."""

    def counts(count, platform):
        traced = jax.jit(fg.grad(lambda x: jnp.sum(updated(count)(x) ** 2))).trace(0.9)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return [text.count(word) for word in ("stablehlo.case", "stablehlo.if", "stablehlo.or")]

    (cases, *others), (same_cases, *others_of_four) = counts(1, platform), counts(4, platform)
    assert others == others_of_four == [0, 0]
    assert cases == same_cases
    (cases, _, fences), (cases_of_four, _, fences_of_four) = counts(1, "cpu"), counts(4, "cpu")
    # Three more updates are three more blocks that read, forward and backward.
    assert cases_of_four == cases + 6
    assert fences_of_four > fences > 0


def test_sums_may_have_thousands_of_terms():
    n = 5000

    def loss(x):
        step = lambda y, _: (functools.reduce(lax.add, [x] * n, y), None)  # noqa: E731
        return jnp.sum(lax.scan(step, START, None, length=2)[0])

    assert_same(jax.jit(fg.grad(loss))(START), np.full(N, 2 * n, np.float32), 1e-6)


def test_the_work_of_rewriting_grows_with_the_updates():
    """Counted in calls that Python makes, and in equations of what comes out."""

    def work(count):
        calls = 0

        def count_call(frame, event, arg):
            nonlocal calls
            calls += event in ("call", "c_call")

        def step(i, y):
            for j in range(count):
                y = y.at[i + j].set(jnp.sin(y[i - 1]) + y[0])
            return y

        program = jax.make_jaxpr(step)(2, START)
        sys.setprofile(count_call)
        try:
            rewritten = body_in_place(program, [(1, 0)])
        finally:
            sys.setprofile(None)
        return calls, number_of_equations(rewritten.jaxpr)

    work(2)
    (calls, eqns), (twice_calls, twice_eqns) = work(80), work(160)
    assert eqns > 80 * 10
    assert twice_calls <= 2.1 * calls
    assert twice_eqns <= 2.1 * eqns


def number_of_equations(jaxpr):
    inner = [p for eqn in jaxpr.eqns for p in eqn.params.get("branches", ())]
    return len(jaxpr.eqns) + sum(number_of_equations(p.jaxpr) for p in inner)
