"""Where programs are cut into segments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from funcgrad.budgets.segments import boundaries, bytes_between, segments_of

X = jnp.ones((8, 8))


def chain(steps):
    def f(x):
        for _ in range(steps):
            x = x @ x
        return x

    return jax.make_jaxpr(f)(X)


def parts(program, copies=1, alone=()):
    starts = boundaries(program, [k in alone for k in range(len(program.eqns))], copies)
    return [len(segment.eqns) for segment in segments_of(program, starts)]


@pytest.mark.parametrize("steps", [16, 64, 144])
def test_a_chain_is_cut_into_about_as_many_segments_as_each_has_steps(steps):
    found = parts(chain(steps))
    assert sum(found) == steps
    assert steps**0.5 / 2 <= len(found) <= 2 * steps**0.5
    assert max(found) <= 2 * steps**0.5


def test_what_is_handed_on_many_times_is_handed_on_less_often():
    assert len(parts(chain(64), copies=64)) < len(parts(chain(64)))


def test_a_cut_is_where_little_is_handed_on():
    """Between the pairs of a wide and a narrow value, and never in one."""

    def f(x):
        for _ in range(12):
            x = jnp.sum(jnp.broadcast_to(x[:, None], (8, 64, 8)) * 2.0, 1)
        return x

    program = jax.make_jaxpr(f)(X)
    between = bytes_between(program)
    starts = boundaries(program, [False] * len(program.eqns), 1)
    assert len(starts) > 2 and {between[k] for k in starts[1:]} == {X.nbytes}


def test_some_equations_are_segments_of_their_own():
    found = parts(chain(20), alone=(3, 4, 19))
    assert found[-1] == 1 and sum(found[: found.index(1) + 2]) >= 5
    for k in (3, 4, 19):
        assert k in [sum(found[:i]) for i, n in enumerate(found) if n == 1]


def test_equal_segments_are_of_one_program():
    program = chain(16)
    segments = segments_of(program, [0, 4, 8, 12])
    assert len({id(segment.program) for segment in segments}) == 1
    last = segments[-1]
    assert last.own(last.program.jaxpr.outvars) == last.outvars == program.jaxpr.outvars
    assert [segment.invars for segment in segments[1:]] == [segment.outvars for segment in segments[:-1]]


def test_nothing_is_in_no_segment():
    program = jax.make_jaxpr(lambda x: x)(X)
    assert segments_of(program, boundaries(program, [], 1)) == []
