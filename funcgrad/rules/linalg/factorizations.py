"""Cholesky, LU and QR."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.linalg.matrices import (
    add_to_diagonal,
    adjoint,
    below,
    columns,
    half_lower,
    lower,
    matmul,
    over,
    put_columns,
    put_rows,
    rows,
    size_of,
    solve_adjoint,
    textbook,
    total,
    triangular_solve,
    unit_lower,
    upper,
)  # fmt: skip
from funcgrad.rules.numbers import const, full_like
from funcgrad.rules.rule import formula, joint

# Cholesky: x = l lᴴ.


@textbook
def cholesky(ct, out):
    """x̄ = l⁻ᴴ Φ(lᴴ l̄) l⁻¹, where Φ takes the lower triangle and half the diagonal (Murray, arXiv:1602.07527).

    It is as large as l̄ / l, so l̄ / c and l / c give it, at a c where lᴴ l̄ is no smaller or larger.
    """
    size = size_of(out)
    l = over(lower(out), size)
    inner = half_lower(matmul(adjoint(l), over(ct, size)))
    x_ct = from_both_sides(l, inner, l)
    # Of x only the lower triangle is read, which stands for the upper one: since 0.11.2 JAX's cotangent says so.
    return half_lower(lax.add(x_ct, adjoint(x_ct))) if _jax.CHOLESKY_IS_OF_LOWER else x_ct


@textbook
def cholesky_update(ct, x, y, out):
    """outᴴ out = xᴴ x + y yᴴ =: z, so x̄ = x (z̄ + z̄ᴴ) and ȳ = (z̄ + z̄ᴴ) y with the z̄ of its factor outᴴ.

    z̄ is as large as the cotangent over ``out``: both are scaled, and so are x and y that multiply it.
    """
    size = size_of(out)
    l, x, y = (over(z, size) for z in (adjoint(upper(out)), x, lax.expand_dims(y, [-1])))
    z_ct = from_both_sides(l, half_lower(matmul(adjoint(l), adjoint(upper(ct)))), l)
    z_ct = lax.add(z_ct, adjoint(z_ct))
    return upper(matmul(upper(x), z_ct)), lax.squeeze(matmul(z_ct, y), [y.ndim - 1])


def from_both_sides(left, x, right):
    """left⁻ᴴ x right⁻¹ for lower triangular matrices."""
    x = triangular_solve(left, x, left_side=True, lower=True, transpose_a=True, conjugate_a=True)
    return triangular_solve(right, x, left_side=False, lower=True)


# LU with row pivots: x[permutation] = l u, with l and u packed in one matrix.


@textbook
def lu(cts, packed, permutation):
    """x̄[permutation] = l⁻ᴴ (tril(lᴴ l̄, -1) + triu(ū uᴴ)) u⁻ᴴ for square x.

    From l⁻¹ ẋ u⁻¹ = l⁻¹ l̇ + u̇ u⁻¹, whose two terms lie in opposite triangles. Rows below the square, x₂ = l₂ u, and
    columns beyond it, x₂ = l u₂, follow it: their cotangents go back to x₂ and, less what u̇ or l̇ moved, to the
    square. All that is of the size of l̄ / u or of ū, so u is scaled, and l̄ alike.
    """
    ct, *_ = cts
    m, n = ct.shape[-2:]
    k = min(m, n)
    size, of_l = size_of(upper(packed)), below(packed)
    packed, ct = lax.select(of_l, packed, over(packed, size)), lax.select(of_l, over(ct, size), ct)
    square, ct_square = columns(rows(packed, 0, k), 0, k), columns(rows(ct, 0, k), 0, k)
    l, u = unit_lower(square), upper(square)
    to_l, to_u = matmul(adjoint(l), ct_square), matmul(ct_square, adjoint(u))
    rest = None
    if m > n:
        ct_rest = rows(ct, k, m)
        to_u = lax.sub(to_u, matmul(adjoint(rows(packed, k, m)), ct_rest))
        rest = times_inverse_adjoint(ct_rest, u)
    elif n > m:
        ct_rest = columns(ct, k, n)
        to_l = lax.sub(to_l, matmul(ct_rest, adjoint(columns(packed, k, n))))
        rest = inverse_adjoint_times(l, ct_rest)
    inner = lax.select(below(to_l), to_l, to_u)
    x_ct = times_inverse_adjoint(inverse_adjoint_times(l, inner), u)
    if rest is not None:
        x_ct = lax.concatenate([x_ct, rest], x_ct.ndim - (2 if m > n else 1))
    return [put_rows(x_ct, permutation)]


def inverse_adjoint_times(l, x):
    """l⁻ᴴ x for unit lower triangular l."""
    return triangular_solve(l, x, left_side=True, lower=True, transpose_a=True, conjugate_a=True, unit_diagonal=True)


def times_inverse_adjoint(x, u):
    """x u⁻ᴴ for upper triangular u."""
    return triangular_solve(u, x, left_side=False, lower=False, transpose_a=True, conjugate_a=True)


# QR: x = q r, or x[:, permutation] = q r with column pivots.


@textbook
def qr(cts, outs, x_aval, *, pivoting, full_matrices):
    """x̄ = (q̄ + q (s + sᴴ)) r⁻ᴴ with s = Φ(r r̄ᴴ - q̄ᴴ q) for the square that is at the left of x.

    It is of the size of q̄ / r or of r̄, so r is scaled, and q̄ alike.
    """
    q_ct, r_ct, *_ = cts
    q, r, *permutation = outs
    size = size_of(r)
    q_ct, r = None if q_ct is None else over(q_ct, size), over(r, size)
    m, n = x_aval.shape[-2:]
    if m < n:
        x_ct = wide_qr(q_ct, r_ct, q, r)
    else:
        if full_matrices and m > n:
            q_ct = None if q_ct is None else fold_complement(q_ct, q, n)
            r_ct = None if r_ct is None else rows(r_ct, 0, n)
            q, r = columns(q, 0, n), rows(r, 0, n)
        x_ct = thin_qr(q_ct, r_ct, q, r)
    return [put_columns(x_ct, *permutation) if pivoting else x_ct]


def thin_qr(q_ct, r_ct, q, r, beyond=None):
    """x̄ = (q̄ + q (s + sᴴ)) r⁻ᴴ with s = Φ(r r̄ᴴ - q̄ᴴ q), for square r (Townsend; Walter and Lehmann, arXiv:1009.6112).

    ``beyond`` is r₂ r̄₂ᴴ of the columns beyond the square: q̄ moves by q r₂ r̄₂ᴴ, since x₂ = q r₂.
    """
    from_r = None if r_ct is None else matmul(r, adjoint(r_ct))
    from_q = None if q_ct is None else lax.neg(matmul(adjoint(q_ct), q))
    from_beyond = None if beyond is None else lax.neg(adjoint(beyond))
    s = half_lower(total(from_r, from_q, from_beyond))
    inside = total(s, adjoint(s), beyond)
    return times_inverse_adjoint(total(q_ct, matmul(q, inside)), r)


def wide_qr(q_ct, r_ct, q, r):
    """x = [x₁ x₂] = q [r₁ r₂]: x₁ is a square factorization and r₂ = qᴴ x₂, so x̄₂ = q r̄₂."""
    m, n = r.shape[-2:]
    r1, r2 = columns(r, 0, m), columns(r, m, n)
    if r_ct is None:
        x1_ct = thin_qr(q_ct, None, q, r1)
        return lax.concatenate([x1_ct, full_like(r2, 0)], r.ndim - 1)
    r1_ct, r2_ct = columns(r_ct, 0, m), columns(r_ct, m, n)
    x1_ct = thin_qr(q_ct, r1_ct, q, r1, beyond=matmul(r2, adjoint(r2_ct)))
    return lax.concatenate([x1_ct, matmul(q, r2_ct)], r.ndim - 1)


def fold_complement(q_ct, q, n):
    """The cotangent of the first n columns of q, given that of all of them.

    Householder reflections make the others a function of these: with the first n rows of q₁ named a, the others b, and
    z = b (a - 1)⁻¹, dq₂ = dq₁ zᴴ - (q₁ + q₂ z) (db - z da)ᴴ (arXiv:2409.13374). This is the adjoint of that.
    """
    m = q.shape[-1]
    q1, q2, q2_ct = columns(q, 0, n), columns(q, n, m), columns(q_ct, n, m)
    a, b = rows(q1, 0, n), rows(q1, n, m)
    z = adjoint(solve_adjoint(add_to_diagonal(a, const(a, -1)), adjoint(b)))
    b_ct = lax.neg(matmul(adjoint(q2_ct), lax.add(q1, matmul(q2, z))))
    a_ct = lax.neg(matmul(adjoint(z), b_ct))
    return total(columns(q_ct, 0, n), matmul(q2_ct, z), lax.concatenate([a_ct, b_ct], q.ndim - 2))


rules = {
    lax.linalg.cholesky_p: formula(cholesky),
    lax.linalg.cholesky_update_p: joint(cholesky_update),
    lax.linalg.lu_p: joint(lu, packed=lambda outs: outs[0], permutation=lambda outs: outs[2]),
    lax.linalg.qr_p: joint(qr),
}
