"""``fg.rules.torch`` beside PyTorch, and the page of the differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn

import funcgrad as fg
from tests.rules.torch_cases import CASES, REASONS, array

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def pages():
    """The module that compares; it needs PyTorch."""
    from docs import generate_torch

    generate_torch.torch.set_num_threads(1)
    return generate_torch


@pytest.fixture(scope="module")
def found(pages):
    """The cases and the differences found in each."""
    return [(case, pages.differences(case)) for case in CASES]


def test_the_table_is_torch_wherever_jax_is_not(found):
    wrong = {d.key for _, ds in found for d in ds if not d.agrees}
    assert wrong == set(REASONS)


def test_run_one_by_one_it_is_the_same(pages, found):
    for case, differences in found:
        for d in differences:
            out, cts = pages.with_jax(case, case.points[d.point], fg.rules.torch, compiled=False)
            eager = np.where(np.isnan(out), 0, cts[d.operand]) if case.elementwise else cts[d.operand]
            np.testing.assert_allclose(eager[d.where], d.table[d.where], rtol=1e-4, err_msg=str(d.key))


def test_the_differences_known_when_this_was_begun_are_found(found):
    known = [
        "jnp.abs(x)", "jnp.clip(x, -1, 1)", "jnp.max(x, axis=1)", "jnp.linalg.norm(x)", "x ** 0.0", "nn.hard_tanh(x)",
        "nn.leaky_relu(x)", "jnp.median(x)", "jnp.std(x, axis=1)", "jnp.arctan2(x, y)",
        "jnp.linalg.norm(x[:, None] - y, axis=-1)",
    ]  # fmt: skip
    assert {case.jax for case, ds in found if ds} >= set(known)


def test_the_page_is_what_the_comparison_gives(pages, found):
    text = pages.page([d for _, ds in found for d in ds])
    assert pages.PATH.read_text(encoding="utf-8") == text, "stale: run python -m docs.generate_torch"


# The table in programs. Each function has at these points another derivative under the default rules.


def spread(x):
    return jnp.std(x) + jnp.linalg.norm(x - 2)


AT_KINKS = {
    "std and norm of a constant": (spread, array(2, 2, 2), [0, 0, 0]),
    "clip at a bound": (lambda x: jnp.sum(jnp.clip(x, -1, 1)), array(-1, 0, 1), [1, 1, 1]),
    "leaky_relu at 0": (lambda x: jnp.sum(nn.leaky_relu(x, 0.5)), array(-1, 0, 1), [0.5, 0.5, 1]),
    "first of equal maxima": (lambda x: jnp.max(x[None], axis=1)[0], array(1, 3, 3), [0, 1, 0]),
}
PROGRAMS = {
    "as it is": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: jax.jit(f)(x)),
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda x: jnp.sum(jax.vmap(f)(x[None])),
    "vmap of jit": lambda f: lambda x: jnp.sum(jax.vmap(jax.jit(f), in_axes=1)(x[:, None])),
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (c + f(x), None), 0.0, None, 1)[0],
    "while": lambda f: lambda x: lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, s[1] + f(x)), (0, 0.0))[1],
    "cond": lambda f: lambda x: lax.cond(x[1] > -9, f, lambda x: 0.0, x),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", AT_KINKS)
def test_the_table_reaches_into_programs(name, program):
    f, x, expected = AT_KINKS[name]
    f = PROGRAMS[program](f)
    assert fg.grad(f, rules=fg.rules.torch)(x).tolist() == expected
    assert np.any(np.asarray(fg.grad(f)(x)) != np.array(expected))


def test_away_from_kinks_nothing_changes():
    def f(x):
        return (
            spread(x) + jnp.sum(jnp.clip(x, -1, 1) * jnp.abs(x) ** 1.5) + jnp.max(x) + jnp.median(x) * jnp.hypot(*x[:2])
        )

    @jax.jit
    def derivatives(x):
        return [(fg.grad(f, rules=r)(x), fg.hvp(f, (x,), (x,), rules=r)) for r in (fg.rules.torch, fg.rules.default)]

    mine, default = derivatives(jnp.array([0.3, -1.7, 2.2]))
    np.testing.assert_allclose(mine, default, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.complex64])
def test_other_dtypes_are_taken(dtype):
    functions = [jnp.abs, jnp.sign, lambda x: x**1.5, lambda x: 2.0**x, jnp.max, lambda x: lax.cummax(x), jnp.std]
    functions += [jnp.linalg.norm, lambda x: jnp.linalg.norm(x, 3)]
    if dtype is not np.complex64:
        functions += [jnp.median, lambda x: jnp.clip(x, -1, 1), lambda x: jnp.arctan2(x, x[::-1]), nn.leaky_relu]
        functions += [
            nn.hard_tanh,
            lambda x: jnp.fmax(x, 1),
            lambda x: jnp.hypot(x, x[::-1]),
            lambda x: jnp.ldexp(x, 2),
        ]
        functions += [lax.lgamma, lax.digamma, lambda x: jnp.copysign(x, -1)]
    f = lambda x: sum(jnp.real(jnp.sum(f(x))) for f in functions)  # noqa: E731
    x = jnp.array([0.5, 2.5, 1.25, 1.75], dtype)
    mine, default = jax.jit(lambda x: [fg.grad(f, rules=rules)(x) for rules in (fg.rules.torch, fg.rules.default)])(x)
    assert mine.dtype == dtype
    # A sign turns a complex number, in PyTorch.
    turns = fg.grad(lambda x: jnp.real(jnp.sum(jnp.sign(x))), rules=fg.rules.torch)(x)
    np.testing.assert_allclose((mine - turns).astype(np.complex64), default.astype(np.complex64), rtol=0.02, atol=0.02)


def test_a_root_of_ones_own_is_not_that_of_std():
    assert fg.grad(jnp.sqrt, rules=fg.rules.torch)(0.0) == np.inf
