"""Householder reflections: their products, and the reductions that are made of them.

A reflection is 1 - τ v vᴴ, where v is zero, then one, then what is stored below the diagonal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.linalg.matrices import (
    add_to_diagonal,
    adjoint,
    below,
    columns,
    diagonal,
    lower,
    matmul,
    over,
    real,
    scale_rows,
    size_of,
    textbook,
    triangular_solve,
    unit_lower,
    upper,
)  # fmt: skip
from funcgrad.rules.numbers import const, full_like, is_complex
from funcgrad.rules.rule import Rule, joint

# Products of reflections: h₁ h₂ … = 1 - v s vᴴ with s = (1 + d u)⁻¹ d, d = diag(τ) and u what of vᴴ v is above the
# diagonal (Schreiber and Van Loan, "A storage-efficient WY representation", 1989, but for zeros of τ).


def compact(a, taus):
    """v, s and u of the reflections stored in ``a``."""
    v = unit_lower(columns(a, 0, taus.shape[-1]))
    u = upper(matmul(adjoint(v), v), 1)
    return v, solve_unit_upper(scale_rows(u, taus), add_to_diagonal(full_like(u, 0), taus)), u


def solve_unit_upper(x, y, adjoint=False):
    """(1 + x)⁻¹ y, or (1 + x)⁻ᴴ y, for x above the diagonal."""
    along = dict(left_side=True, lower=False, unit_diagonal=True)
    return triangular_solve(x, y, transpose_a=adjoint, conjugate_a=adjoint, **along)


def apply(ct, a, taus, c, inverse):
    """The pullback of b = c - v s vᴴ c, or, for the inverse, with sᴴ in place of s.

    With p = (1 + d u)⁻¹, ds = p dd (1 - u s) - s du s.
    """
    v, s, u = compact(a, taus)
    middle = adjoint(s) if inverse else s
    vc, vb = matmul(adjoint(v), c), matmul(adjoint(v), ct)
    s_ct = lax.neg(matmul(vb, adjoint(vc)))
    s_ct = adjoint(s_ct) if inverse else s_ct
    v_ct = lax.add(matmul(ct, adjoint(matmul(middle, vc))), matmul(c, adjoint(matmul(adjoint(middle), vb))))
    u_ct = upper(matmul(matmul(adjoint(s), s_ct), adjoint(s)), 1)
    v_ct = lax.neg(lax.add(v_ct, matmul(v, lax.add(u_ct, adjoint(u_ct)))))
    rest = add_to_diagonal(lax.neg(matmul(u, s)), const(u, 1))
    taus_ct = diagonal(matmul(solve_unit_upper(scale_rows(u, taus), s_ct, adjoint=True), adjoint(rest)))
    a_ct = lax.pad(lower(v_ct, 1), const(a, 0), [(0, n - m, 0) for m, n in zip(v.shape, a.shape, strict=True)])
    return a_ct, taus_ct, lax.sub(ct, matmul(v, matmul(adjoint(middle), vb)))


@textbook
def householder_product(ct, x, y):
    identity = add_to_diagonal(full_like(ct, 0), const(ct, 1))
    return apply(ct, x, y, identity, inverse=False)[:2]


@textbook
def ormqr(ct, x, y, z, *, left, transpose):
    if left:
        return apply(ct, x, y, z, transpose)
    a_ct, taus_ct, c_ct = apply(adjoint(ct), x, y, adjoint(z), not transpose)
    return a_ct, taus_ct, adjoint(c_ct)


# Reductions, by LAPACK's conventions. Recorded as the program below, they need no rule of their own.


class Reduction(Rule):
    """An operation that is recorded as a program in ``lax`` that computes the same."""

    formula = "that of a loop of reflections"

    def __init__(self, program: Callable):
        self.program = program

    def record(self, tape, primitive, primals, tracers, params, linear):
        with _jax.set_current_trace(tape):
            x = primals[0] if tracers[0] is None else tracers[0]
            return list(self.program(x, **params))


def reduce(x, offset, similar):
    """x with its columns reduced to ``offset`` below the diagonal, the reflections below that, and their τ.

    Where ``similar``, x is reduced to hᴴ x h, otherwise to hᴴ x.
    """
    if x.ndim > 2:
        return jax.vmap(functools.partial(reduce, offset=offset, similar=similar))(x)
    m, n = x.shape
    row, column = np.arange(m)[:, None], np.arange(n)

    def step(x, i):
        pivot = i + offset
        entries = jnp.sum(jnp.where(column == i, x, 0), 1, keepdims=True)
        beta, tau, v = reflection(entries, row == pivot, row > pivot)
        left = x - jnp.conj(tau) * matmul(v, matmul(adjoint(v), x))
        moved = left - tau * matmul(matmul(left, v), adjoint(v)) if similar else left
        reduced = jnp.where(row > pivot, v, jnp.where(row == pivot, beta, x))
        # The columns before hold reflections.
        return jnp.where(column > i, moved, jnp.where(column == i, reduced, x)), tau

    return lax.scan(step, x, np.arange(min(m - offset, n), dtype=np.int32))


def reflection(x, first, rest):
    """β, τ and v with (1 - τ* v vᴴ) x = β where ``first``, and zero where ``rest`` (LAPACK's ``larfg``)."""
    alpha, tail = jnp.sum(jnp.where(first, x, 0)), jnp.where(rest, x, 0)
    done = jnp.all(tail == 0) & (jnp.imag(alpha) == 0)
    size = jnp.max(size_of(jnp.where(first | rest, x, 0)))
    scaled, tail = jnp.where(done, 1, over(alpha, size)), over(tail, size)
    beta = -jnp.sign(jnp.real(scaled) + 0.5 * (jnp.real(scaled) == 0)) * jnp.sqrt(squares(scaled) + squares(tail))
    tau = jnp.where(done, 0, (beta - scaled) / beta)
    v = jnp.where(first, 1, jnp.where(done, 0, over(tail, scaled - beta)))
    return jnp.where(done, alpha, beta * size), tau, v


def squares(x):
    return jnp.sum(lax.square(jnp.real(x)) + (lax.square(jnp.imag(x)) if is_complex(x) else 0))


def hessenberg(x):
    return reduce(x, offset=1, similar=True)


def tridiagonal(x, *, lower):
    """The reduction of a Hermitian matrix of which one triangle is read. That of the upper one begins at the end."""
    if not lower:
        reduced, d, e, taus = tridiagonal(lax.rev(x, [x.ndim - 2, x.ndim - 1]), lower=True)
        vectors = (lax.rev(y, [y.ndim - 1]) for y in (d, e, taus))
        return lax.rev(reduced, [x.ndim - 2, x.ndim - 1]), *vectors
    strict = jnp.tril(x, -1)
    whole = add_to_diagonal(lax.add(strict, adjoint(strict)), real(diagonal(x)))
    reduced, taus = hessenberg(whole)
    d = real(diagonal(reduced))
    e = real(diagonal(lax.slice_in_dim(columns(reduced, 0, x.shape[-1] - 1), 1, None, axis=-2)))
    return jnp.where(below(x, -1), add_to_diagonal(jnp.tril(reduced, -1), d), x), d, e, taus


rules = {
    lax.linalg.householder_product_p: joint(householder_product),
    lax.linalg.ormqr_p: joint(ormqr),
    lax.linalg.hessenberg_p: Reduction(hessenberg),
    lax.linalg.tridiagonal_p: Reduction(tridiagonal),
    _jax.geqrf_p: Reduction(functools.partial(reduce, offset=0, similar=False)),
}
