"""Eigendecompositions and the singular value decomposition, for distinct eigenvalues and singular values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.linalg.matrices import (
    add_to_diagonal,
    adjoint,
    cast,
    conj,
    diagonal,
    matmul,
    over,
    over_gaps,
    real,
    scale_columns,
    scale_rows,
    size_of,
    solve_adjoint,
    textbook,
    total,
    transpose,
    weigh,
)  # fmt: skip
from funcgrad.rules.numbers import full_like, is_complex, nonzero
from funcgrad.rules.rule import Rule, joint
from funcgrad.rules.signature import shape_of


class Decomposition(Rule):
    """A decomposition that may have to be recorded with more outputs than were asked for.

    ``prepare`` takes the operand's shape and the parameters; it returns the parameters to record with and how many of
    the outputs to hand on, or raises where there is no derivative.
    """

    def __init__(self, pullback: Callable, prepare: Callable):
        self.rule = joint(pullback)
        self.prepare = prepare

    def record(self, tape, primitive, primals, slots, params, linear):
        params, wanted = self.prepare(shape_of(primals[0]), **params)
        return self.rule.record(tape, primitive, primals, slots, params, linear)[:wanted]


# Hermitian matrices: x = v diag(w) vᴴ.


def prepare_eigh(shape, *, subset_by_index, **params):
    if subset_by_index not in (None, (0, shape[-1])):
        raise NotImplementedError(
            f"eigh has no derivative with subset_by_index={subset_by_index}: it needs all eigenvectors. Compute the "
            "whole decomposition and take the eigenvalues you want from it."
        )
    return dict(params, subset_by_index=subset_by_index), 2


@textbook
def eigh(cts, outs):
    """x̄ = v (diag(w̄) + (vᴴ v̄)_ij / (w_j - w_i)) vᴴ."""
    v_ct, w_ct = cts
    v, w = outs
    if v_ct is None:
        return [matmul(scale_columns(v, w_ct), adjoint(v))]
    inner = over_gaps(matmul(adjoint(v), v_ct), w)
    inner = inner if w_ct is None else add_to_diagonal(inner, w_ct)
    return [matmul(matmul(v, inner), adjoint(v))]


# General matrices: x v = v diag(w) and uᴴ x = diag(w) uᴴ.


def prepare_eig(shape, *, compute_left_eigenvectors, compute_right_eigenvectors, enable_eigvec_derivs, **params):
    if not (compute_left_eigenvectors or compute_right_eigenvectors):
        # Eigenvalues do not depend on the scale of the eigenvectors, so neither do their second derivatives.
        compute_right_eigenvectors = enable_eigvec_derivs = True
        wanted = 1
    elif enable_eigvec_derivs:
        wanted = 1 + compute_left_eigenvectors + compute_right_eigenvectors
    else:
        raise NotImplementedError(
            "Derivatives of non-symmetric eigenvectors hold only for distinct eigenvalues and eigenvectors whose "
            "largest component is unique, which cannot be checked here. Pass enable_eigvec_derivs=True to "
            "jax.lax.linalg.eig if yours are, or use jnp.linalg.eigvals if you only want the eigenvalues."
        )
    return dict(
        params,
        compute_left_eigenvectors=compute_left_eigenvectors,
        compute_right_eigenvectors=compute_right_eigenvectors,
        enable_eigvec_derivs=enable_eigvec_derivs,
    ), wanted


class Eig(Decomposition):
    """Of a matrix of entries near one: LAPACK, as JAX calls it, scales very small or large ones, but not the result."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        with _jax.set_current_trace(tape):
            x = primals[0] if tracers[0] is None else tracers[0]
            size = size_of(x)
            scaled = over(x, size)
            w, *vectors = super().record(tape, primitive, [tape.strip(scaled)[0]], [scaled], params, linear)
            return [lax.mul(w, cast(lax.squeeze(size, [x.ndim - 1]), w)), *vectors]


@textbook
def eig(cts, outs, x, *, compute_left_eigenvectors, compute_right_eigenvectors):
    """x̄ = v⁻ᴴ (diag(w̄) + (vᴴ v̄)_ij / (w_j - w_i)*) vᴴ; left eigenvectors are those of xᴴ, eigenvalues conjugate."""
    return by_side(eigenvectors, cts, outs, x, compute_left_eigenvectors, compute_right_eigenvectors)


def by_side(pull, cts, outs, x, left, right):
    """The sum of what ``pull(w̄, v̄, w, v, x)`` makes of the eigenvectors on each side; one of them has w̄."""
    (w_ct, *vector_cts), (w, *vectors) = cts, outs
    x_ct = None
    if right:
        x_ct = pull(w_ct, vector_cts[-1], w, vectors[-1], x)
        w_ct = None
    if left:
        of_left = pull(None if w_ct is None else conj(w_ct), vector_cts[0], conj(w), vectors[0], adjoint(x))
        x_ct = total(x_ct, None if of_left is None else adjoint(of_left))
    return [x_ct if is_complex(x) else real(x_ct)]


def eigenvectors(w_ct, v_ct, w, v, x):
    """x̄ = v⁻ᴴ (diag(w̄) + (vᴴ v̄')_ij / (w_j - w_i)*) vᴴ, where v̄' allows for the normalization of v."""
    if v_ct is None:
        return None if w_ct is None else solve_adjoint(v, scale_rows(adjoint(v), w_ct))
    inner = over_gaps(matmul(adjoint(v), unnormalized(v_ct, v)), conj(w))
    inner = inner if w_ct is None else add_to_diagonal(inner, w_ct)
    return solve_adjoint(v, matmul(inner, adjoint(v)))


def unnormalized(v_ct, v):
    """The cotangent of eigenvectors before LAPACK scales them to unit length and a real largest component.

    To first order the scaling of u + du, u = v, adds c v with c = -Re(vᴴ du) - i Im(du_k) / v_k, k the largest
    component.
    """
    along = diagonal(matmul(adjoint(v), v_ct))
    size = lax.abs(v)
    largest = lax.argmax(size, v.ndim - 2, np.int32)
    is_largest = lax.eq(lax.broadcasted_iota(np.int32, v.shape, v.ndim - 2), lax.expand_dims(largest, [-2]))
    phase = lax.div(lax.imag(along), real(lax.reduce_sum(lax.select(is_largest, v, full_like(v, 0)), [v.ndim - 2])))
    turned = lax.mul(full_like(v, 1j), cast(lax.expand_dims(phase, [-2]), v))
    v_ct = lax.sub(v_ct, scale_columns(v, lax.real(along)))
    return lax.select(is_largest, lax.sub(v_ct, turned), v_ct)


# Singular values: x = u diag(s) vᴴ.


def prepare_svd(shape, *, full_matrices, compute_uv, subset_by_index, **params):
    m, n = shape[-2:]
    if compute_uv and full_matrices and m != n:
        raise NotImplementedError(
            "Singular value decomposition: the vectors that complete a basis (full_matrices=True of a matrix that is "
            "not square) have no derivative. Pass full_matrices=False."
        )
    if compute_uv and subset_by_index not in (None, (0, min(m, n))):
        raise NotImplementedError(
            "Singular value decomposition: singular vectors have no derivative with "
            f"subset_by_index={subset_by_index}, it needs all of them. Compute the whole decomposition and take those "
            "you want from it."
        )
    wanted = 3 if compute_uv else 1
    return dict(params, full_matrices=False, compute_uv=True, subset_by_index=subset_by_index), wanted


def shares(s):
    """s_j / (s_j + s_i)"""
    others = lax.expand_dims(s, [-2])
    return lax.div(others, nonzero(lax.add(others, lax.expand_dims(s, [-1]))))


@textbook
def svd(cts, outs):
    """x̄ = u (diag(s̄) + e_ij / (s_j - s_i)) vᴴ with e = (uᴴ ū - ūᴴ u)_ij p_ij + (vᴴ v̄ - v̄ᴴ v)_ij p_ji.

    The weights p_ij = s_j / (s_j + s_i) stand for s_j / (s_j² - s_i²), whose squares vanish or overflow where its value
    does not. What of ū lies outside the span of u (a tall x has that) adds (1 - u uᴴ) ū s⁻¹ vᴴ; a wide x, the same with
    u and v exchanged. For complex x, of the phase that u and v share v keeps its part: i Im(uᴴ ū)_jj / s_j joins the
    diagonal.
    """
    s_ct, u_ct, vh_ct = cts
    s, u, vh = outs
    if u_ct is None and vh_ct is None:
        return [matmul(scale_columns(u, s_ct), vh)]
    from_u = None if u_ct is None else matmul(adjoint(u), u_ct)
    from_v = None if vh_ct is None else matmul(vh_ct, adjoint(vh))
    p = shares(s)
    turning = total(
        None if from_u is None else weigh(lax.sub(from_u, adjoint(from_u)), p),
        None if from_v is None else weigh(lax.sub(adjoint(from_v), from_v), transpose(p)),
    )
    inner = over_gaps(turning, s)
    if s_ct is not None:
        inner = add_to_diagonal(inner, s_ct)
    if is_complex(u) and from_u is not None:
        phase = lax.div(lax.imag(diagonal(from_u)), nonzero(s))
        inner = add_to_diagonal(inner, lax.complex(full_like(phase, 0), phase))
    left, right = matmul(u, inner), None
    m, n = u.shape[-2], vh.shape[-1]
    if m > n and from_u is not None:
        left = lax.add(left, over(lax.sub(u_ct, matmul(u, from_u)), lax.expand_dims(s, [-2])))
    if n > m and from_v is not None:
        right = matmul(u, over(lax.sub(vh_ct, matmul(from_v, vh)), lax.expand_dims(s, [-1])))
    return [total(matmul(left, vh), right)]


rules = {
    lax.linalg.eigh_p: Decomposition(eigh, prepare_eigh),
    lax.linalg.eig_p: Eig(eig, prepare_eig),
    lax.linalg.svd_p: Decomposition(svd, prepare_svd),
}
