"""Eigenvectors and singular vectors of equal values, for losses that do not depend on the choice of a basis.

The vectors of equal values are any basis of their space. A loss that is the same for all of them has a derivative
though they do not: what turns a basis in itself is left out, as in Kasim, "Derivatives of partial
eigendecomposition of a real symmetric matrix for degenerate cases" (arXiv:2011.04366).

That is not enough for a loss of a function of the matrix, v diag(g(w)) vᴴ. There equal values get different cotangents,
the diagonal of a matrix g'(w) c whose other entries are part of the derivative, while the vectors' cotangents have
g(w) c. The basis taken here is a generic one, so that if one diagonal is a multiple of the other then so is the matrix,
and if a diagonal is constant the matrix is a multiple of the identity. If it is neither, the cotangents do not tell the
derivative, and that is an error as well.

Further differentiation needs the equations that the pullback solves, not only their solution, which divides by
differences of values that are equal: one step of Newton's method, which changes no value, has the right derivative.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.control.opened import Opened
from funcgrad.rules.linalg import spectral
from funcgrad.rules.linalg.matrices import (
    add_to_diagonal,
    adjoint,
    cast,
    conj,
    diagonal,
    matmul,
    over,
    real,
    solve_adjoint,
    textbook,
    total,
    transpose,
)  # fmt: skip
from funcgrad.rules.linalg.spectral import Decomposition
from funcgrad.rules.rule import Rule


def epsilon(x):
    return np.finfo(x.dtype).eps


def limit(values):
    """What is zero but for rounding: 8 n eps times the largest."""
    return 8 * values.shape[-1] * epsilon(values) * jnp.max(jnp.abs(values), -1, keepdims=True)


def close(values):
    """Which pairs of values are equal but for rounding."""
    return jnp.abs(values[..., :, None] - values[..., None, :]) <= limit(values)[..., None]


def largest(x):
    """The largest entry of each matrix."""
    return jnp.max(jnp.abs(x), (-2, -1))


def turn(v, same):
    """What turns the vectors ``v`` of equal values into a generic basis of their space, the same for each of its bases.

    They are made of the projections of fixed vectors, in order. Where all values differ it is the identity.
    """
    fixed = np.random.default_rng(0).normal(size=v.shape[-2:]).astype(v.dtype)
    alone = jnp.sum(same, -1, keepdims=True) == 1
    projections = jnp.where(same, matmul(adjoint(lax.stop_gradient(v)), jnp.broadcast_to(fixed, v.shape)), 0)
    projections = jnp.where(alone & same, 1, projections)
    q, r = lax.linalg.qr(projections, full_matrices=False)
    d = diagonal(r)
    return q * jnp.where(d == 0, 1, d / jnp.where(d == 0, 1, jnp.abs(d)))[..., None, :]


class Judge:
    """Gathers, for each matrix of a batch, whether a loss depends on the choice of basis."""

    def __init__(self, like):
        #: How large, of one, what should be zero may be: half the digits of the dtype.
        self.limit = float(np.sqrt(epsilon(like)))
        self.bad = jnp.zeros(like.shape[:-2], bool)

    def expect_zero(self, x, scale):
        self.bad |= largest(x) > self.limit * scale

    def expect(self, holds):
        self.bad |= ~holds

    def sentence(self, x_ct, what):
        known = _jax.to_concrete_value(self.bad)
        if known is not None and np.any(known):
            raise ValueError(
                f"The loss depends on which basis is chosen for the {what} of equal values, or of zero, or on the "
                "phase of one, or tells equal values apart in a way that their cotangents do not determine: it has no "
                "derivative here. Make it a function of what does not depend on that, such as the projection "
                "v @ v.conj().T on all vectors of a value, or move the values apart."
            )
        return jnp.where(self.bad[..., None, None], np.nan, x_ct)


def block_matrix(judge, values_ct, h, same):
    """The Hermitian matrix within blocks whose diagonal is ``values_ct``: constant in each, or a multiple of ``h``."""
    size = jnp.max(jnp.abs(values_ct), -1, keepdims=True)
    within = same.astype(values_ct.dtype)

    def mean(x):
        """The sum over an entry's block."""
        return jnp.sum(within * x[..., None, :], -1)

    along = real(diagonal(h))
    constant = jnp.abs(values_ct - mean(values_ct) / mean(jnp.ones_like(values_ct))) <= judge.limit * size
    constant = mean((~constant).astype(within.dtype)) == 0
    squares = mean(along * along)
    ratio = mean(along * values_ct) / jnp.where(squares == 0, 1, squares)
    fits = jnp.abs(values_ct - ratio * along) <= judge.limit * size
    judge.expect(jnp.all(constant | fits, -1))
    # How the multiple varies is not known: a second derivative is NaN.
    still = lax.stop_gradient(ratio)
    ratio = still + lax.pow(ratio - still, jnp.where(constant, 1.0, 0.5).astype(ratio.dtype))
    multiple = jnp.where(same & ~constant[..., None, :], ratio[..., None, :].astype(h.dtype) * h, 0)
    return add_to_diagonal(multiple, jnp.where(constant, values_ct, 0))


class Turned(Rule):
    """A decomposition with a generic basis for the vectors of equal values, ``choose(*outs)``."""

    def __init__(self, rule: Rule, choose: Callable):
        self.rule, self.choose = rule, choose

    def record(self, tape, primitive, primals, tracers, params, linear):
        outs = self.rule.record(tape, primitive, primals, tracers, params, linear)
        with _jax.set_current_trace(tape):
            return self.choose(*outs)


# Hermitian matrices.


def choose_eigh(v, w):
    return [matmul(v, turn(v, close(w))), w]


@textbook
def eigh(cts, outs, x, *, lower):
    """As by default, with zero for (vᴴ v̄)_ij / (w_j - w_i) and a matrix for w̄ where w_i = w_j.

    The quotients y are such that y w - w y = vᴴ v̄ for w = vᴴ x v.
    """
    v_ct, w_ct = cts
    v, w = outs
    same, judge = close(w), Judge(v)
    around = turn(v, same)
    v, v_ct = matmul(v, around), jnp.zeros_like(v) if v_ct is None else matmul(v_ct, around)
    w_ct = jnp.zeros_like(w) if w_ct is None else w_ct
    n = matmul(adjoint(v), v_ct)
    judge.expect_zero(jnp.where(same, n - adjoint(n), 0), largest(v_ct))
    gaps = lax.stop_gradient(jnp.where(same, 1, w[..., None, :] - w[..., :, None]))

    def quotients(n):
        return jnp.where(same, 0, over(n, gaps))

    triangle = jnp.tril(x, -1) if lower else jnp.triu(x, 1)
    whole = add_to_diagonal(triangle + adjoint(triangle), real(diagonal(x)))
    y = newton(quotients, lambda y, w: matmul(y, w) - matmul(w, y), n, matmul(matmul(adjoint(v), whole), v))
    inner = y + block_matrix(judge, w_ct, (n + adjoint(n)) / 2, same)
    return [judge.sentence(matmul(matmul(v, inner), adjoint(v)), "eigenvectors")]


def newton(solve, apply, side, matrix):
    """The solution y of apply(y, matrix) = side, which ``solve`` finds for the matrix as it is."""
    y = jax.tree.map(lax.stop_gradient, solve(side))
    return y + solve(jax.tree.map(lax.sub, side, apply(y, matrix)))


# Singular values.


def choose_svd(s, *vectors):
    if not vectors:
        return [s]
    u, vh = vectors
    around = turn(u, close(s))
    return [s, matmul(u, around), matmul(adjoint(around), vh)]


@textbook
def svd(cts, outs, x):
    """As by default, but (a + b)_ij / (s_j - s_i) is zero where s_i = s_j; a = uᴴ ū - ūᴴ u, b = vᴴ v̄ - v̄ᴴ v.

    What is left there is (a - b)_ij / 2 (s_i + s_j). The quotients y are such that y sᴴ - s yᴴ = a and yᴴ s - sᴴ y = b
    for s = uᴴ x v. Nothing may depend on the vectors of singular values that are zero.
    """
    s_ct, u_ct, vh_ct = cts
    s, u, vh = outs
    same, judge = close(s), Judge(u)
    around = turn(u, same)
    u, vh = matmul(u, around), matmul(adjoint(around), vh)
    u_ct = jnp.zeros_like(u) if u_ct is None else matmul(u_ct, around)
    vh_ct = jnp.zeros_like(vh) if vh_ct is None else matmul(adjoint(around), vh_ct)
    s_ct = jnp.zeros_like(s) if s_ct is None else s_ct
    from_u, from_v = matmul(adjoint(u), u_ct), matmul(vh_ct, adjoint(vh))
    a, b = from_u - adjoint(from_u), adjoint(from_v) - from_v
    zero = s <= limit(s)
    both = zero[..., :, None] & zero[..., None, :]
    cts_scale = jnp.maximum(largest(u_ct), largest(vh_ct))
    judge.expect_zero(jnp.where(same, a + b, 0), cts_scale)
    judge.expect_zero(jnp.where(both, a - b, 0), cts_scale)
    judge.expect_zero(jnp.where(zero, s_ct, 0)[..., None], largest(s_ct[..., None]))
    i, j = s[..., :, None], s[..., None, :]
    gaps, sums = jnp.where(same, 1, j - i), jnp.where(both, 1, i + j)
    share, gaps, sums = map(lax.stop_gradient, (j / sums, gaps, sums))

    def quotients(sides):
        a, b = sides
        apart = over(a * share.astype(a.dtype) + b * transpose(share).astype(b.dtype), gaps)
        return jnp.where(same, jnp.where(both, 0, over((a - b) / 2, sums)), apart)

    def equations(y, s):
        first, second = matmul(y, adjoint(s)), matmul(adjoint(y), s)
        return first - adjoint(first), second - adjoint(second)

    matrix = matmul(matmul(adjoint(u), x), adjoint(vh))
    y = newton(quotients, equations, (a, b), matrix)
    h = from_u + adjoint(from_u) + from_v + adjoint(from_v)
    left, right = matmul(u, y + block_matrix(judge, s_ct, h, same)), None
    m, n = x.shape[-2:]
    divisor = lax.stop_gradient(jnp.where(zero, 1, s))
    if m > n:
        beyond = u_ct - matmul(u, from_u)
        judge.expect_zero(jnp.where(zero[..., None, :], beyond, 0), cts_scale)
        left = left + newton(
            lambda z: jnp.where(zero[..., None, :], 0, over(z, divisor[..., None, :])),
            lambda z, s: matmul(z, adjoint(s)), beyond, matrix,
        )  # fmt: skip
    if n > m:
        beyond = vh_ct - matmul(from_v, vh)
        judge.expect_zero(jnp.where(zero[..., :, None], beyond, 0), cts_scale)
        right = matmul(u, newton(
            lambda z: jnp.where(zero[..., :, None], 0, over(z, divisor[..., :, None])),
            lambda z, s: matmul(adjoint(s), z), beyond, matrix,
        ))  # fmt: skip
    return [judge.sentence(total(matmul(left, vh), right), "singular vectors")]


# General matrices. Vectors of equal eigenvalues may be mixed by any matrix, so vᴴ v̄ is zero for them.


def choose_eig(w, *vectors):
    """Vectors of equal eigenvalues are mixed, then scaled as LAPACK does: of unit length, the largest entry real."""
    same = close(w)
    alone = jnp.sum(same, -2, keepdims=True) == 1

    def mixed(v):
        mixture = matmul(v, turn(v, same))
        component = jnp.take_along_axis(mixture, jnp.argmax(jnp.abs(mixture), -2, keepdims=True), -2)
        length = jnp.sqrt(jnp.sum(lax.square(jnp.real(mixture)) + lax.square(jnp.imag(mixture)), -2, keepdims=True))
        return jnp.where(alone, v, mixture * (jnp.conj(component) / (jnp.abs(component) * length)))

    return [w, *map(mixed, vectors)]


def eigenvectors(w_ct, v_ct, w, v, x):
    """As by default, with zero for (vᴴ v̄')_ij / (w_j - w_i)* where w_i = w_j, and the same w̄ for all of them.

    The quotients y are such that y wᴴ - wᴴ y = vᴴ v̄' for w = v⁻¹ x v.
    """
    same, judge = close(w), Judge(v)
    w_ct = jnp.zeros_like(w) if w_ct is None else w_ct
    v_ct = jnp.zeros_like(v) if v_ct is None else v_ct
    side = matmul(adjoint(v), spectral.unnormalized(v_ct, v))
    alike = same & ~np.eye(w.shape[-1], dtype=bool)
    judge.expect_zero(jnp.where(alike, side, 0), largest(v_ct))
    unlike = jnp.where(same, w_ct[..., :, None] - w_ct[..., None, :], 0)
    judge.expect_zero(unlike, largest(w_ct[..., None]))
    gaps = lax.stop_gradient(jnp.where(same, 1, conj(w[..., None, :] - w[..., :, None])))
    matrix = solve_adjoint(adjoint(v), matmul(cast(x, v), v))
    y = newton(
        lambda side: jnp.where(same, 0, over(side, gaps)),
        lambda y, w: matmul(y, adjoint(w)) - matmul(adjoint(w), y), side, matrix,
    )  # fmt: skip
    x_ct = solve_adjoint(v, matmul(add_to_diagonal(y, w_ct), adjoint(v)))
    return judge.sentence(x_ct, "eigenvectors")


@textbook
def eig(cts, outs, x, *, compute_left_eigenvectors, compute_right_eigenvectors):
    return spectral.by_side(eigenvectors, cts, outs, x, compute_left_eigenvectors, compute_right_eigenvectors)


decompositions = {
    lax.linalg.eigh_p: Turned(Decomposition(eigh, spectral.prepare_eigh), choose_eigh),
    lax.linalg.svd_p: Turned(Decomposition(svd, spectral.prepare_svd), choose_svd),
    lax.linalg.eig_p: Turned(spectral.Eig(eig, spectral.prepare_eig), choose_eig),
}
rules = {**decompositions, _jax.jit_p: Opened(frozenset(decompositions))}
