"""Gradients of random programs beside JAX's, and beside differences along a random direction.

The programs are the same each time, unless the environment variable FUNCGRAD_PROGRAMS asks for a number of others.
"""

from __future__ import annotations

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import funcgrad as fg
from tests.rules.against_jax import draw, weighted
from tests.rules.programs import Program
from tests.rules.random_programs import programs

COUNT = int(os.environ.get("FUNCGRAD_PROGRAMS", "0"))


def count(share: float, otherwise: int):
    """Settings for a share of the programs that are asked for, or for a fixed set of programs."""
    return settings(
        max_examples=max(1, round(share * COUNT)) if COUNT else otherwise,
        derandomize=not COUNT,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


# Compiling takes most of the time. Without the last option some roundings to bfloat16 are left out, and others not.
compiled = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_parallel_codegen_split_count": 1,
        "xla_allow_excess_precision": False,
    },
)
seeds = st.integers(0, 2**32 - 1)


@contextlib.contextmanager
def where_xla_can():
    """XLA's Fourier transforms refuse some layouts that XLA itself gives to what they transform."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "fft_thunk" not in str(error):
            raise
        event("a Fourier transform that XLA refuses")


def point(program: Program, seed: int) -> list[np.ndarray]:
    return [
        np.tanh(draw(*shape, dtype=np.complex128 if program.is_complex else np.float64, seed=seed + (i << 32)))
        for i, shape in enumerate(program.shapes[: program.count])
    ]


def largest(tree) -> float:
    return max((float(np.max(np.abs(x), initial=0)) for x in jax.tree.leaves(tree)), default=0.0)


def difference(got, expected) -> float:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_array_equal(np.isfinite(x), np.isfinite(y))
    return largest(
        [np.where(np.isfinite(y), x, 0) - np.where(np.isfinite(y), y, 0) for x, y in zip(got, expected, strict=True)]
    )


def gradient(grad, program: Program):
    return grad(weighted(program), tuple(range(program.count)))


@count(0.55, 140)
@given(programs([np.float64, np.complex128]), seeds)
@where_xla_can()
def test_gradient_is_that_of_jax_and_the_slope(program, seed):
    at = point(program, seed)
    towards = point(program, seed + 1)
    steps = 1e-5 * np.array([-2, -1, 1, 2])

    def everything(*at):
        along = jax.vmap(lambda t: weighted(program)(*(x + t * d for x, d in zip(at, towards, strict=True))))
        return gradient(fg.grad, program)(*at), gradient(jax.grad, program)(*at), along(steps)

    mine, theirs, values = compiled(everything)(*at)
    size = 1 + largest(theirs)
    if difference(mine, theirs) > 1e-10 * size:
        # What XLA computes in two places it rounds in two ways where it does not optimise, so what is equal is not.
        mine, theirs, values = jax.jit(everything)(*at)
        size = 1 + largest(theirs)
    assert difference(mine, theirs) <= 1e-10 * size
    slopes = [(values[2] - values[1]) / (steps[2] - steps[1]), (values[3] - values[0]) / (steps[3] - steps[0])]
    tolerance = 1e-6 * (size + abs(values[1]))
    if not abs(slopes[0] - slopes[1]) <= tolerance:
        # There is a kink or a jump nearby, or the function is too rough.
        event("differences do not converge")
        return
    event("differences converge")
    along = sum(jnp.sum(jnp.real(x * d)) for x, d in zip(mine, towards, strict=True))
    assert abs(along - slopes[0]) <= 2 * tolerance


@count(0.08, 20)
@given(programs([np.float64, np.complex128], steps=5), seeds)
@where_xla_can()
def test_gradient_of_a_gradient_is_that_of_jax(program, seed):
    at, towards = point(program, seed), point(program, seed + 1)

    def twice(grad):
        def slope(*at):
            cts = gradient(grad, program)(*at)
            return sum(jnp.sum(jnp.real(ct * d)) for ct, d in zip(cts, towards, strict=True))

        return grad(slope, tuple(range(program.count)))

    mine, theirs = compiled(lambda *at: (twice(fg.grad)(*at), twice(jax.grad)(*at)))(*at)
    assert difference(mine, theirs) <= 1e-9 * (1 + largest(theirs))


@count(0.08, 20)
@given(programs([np.float64, np.float32]), seeds)
@where_xla_can()
def test_gradient_taken_eagerly_is_the_compiled_one(program, seed):
    at = [x.astype(program.dtype) for x in point(program, seed)]
    theirs = compiled(gradient(jax.grad, program))(*at)
    tolerance = 1e-10 if program.dtype == np.float64 else 1e-3
    assert difference(gradient(fg.grad, program)(*at), theirs) <= tolerance * (1 + largest(theirs))


@count(0.2, 40)
@given(programs([np.float32, jnp.bfloat16]), seeds)
@where_xla_can()
def test_gradient_in_low_precision_is_as_good_as_in_jax(program, seed):
    exact = point(program, seed)
    at = [x.astype(program.dtype) for x in exact]

    def everything(at, exact):
        return gradient(fg.grad, program)(*at), gradient(jax.grad, program)(*at), gradient(jax.grad, program)(*exact)

    mine, theirs, best = compiled(everything)(at, [x.astype(np.float64) for x in at])
    best = [np.asarray(x, np.float64) for x in best]
    errors = [
        largest([np.asarray(x, np.float64) - y for x, y in zip(got, best, strict=True)]) for got in (mine, theirs)
    ]
    assert errors[0] <= 3 * errors[1] + 8 * float(jnp.finfo(program.dtype).eps) * (1 + largest(best))
