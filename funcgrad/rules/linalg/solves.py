"""Triangular and tridiagonal solves, linear in the right-hand side, the last operand; symmetric products."""

from __future__ import annotations

from jax import lax

from funcgrad.rules.linalg.matrices import conj, lower, matmul, transpose, upper
from funcgrad.rules.numbers import const
from funcgrad.rules.rule import Rule, formula, joint, no_derivative

triangular_solve_p = lax.linalg.triangular_solve_p
tridiagonal_solve_p = lax.linalg.tridiagonal_solve_p


class Solve(Rule):
    """``wrt_rhs`` alone, which does not need the solution, or ``wrt_all`` operands, which share a solve."""

    def __init__(self, operands, wrt_rhs, wrt_all):
        self.wrt_rhs = formula(*[None] * (operands - 1), wrt_rhs)
        self.wrt_all = joint(wrt_all)

    def record(self, tape, primitive, primals, slots, params, linear):
        rhs_only = all(slot is None for slot in slots[:-1])
        rule = self.wrt_rhs if rhs_only else self.wrt_all
        return rule.record(tape, primitive, primals, slots, params, linear)


def triangular_rhs(ct, x, *, transpose_a, **params):
    """op(x) out = y: the transposed system, op(x)ᵀ ȳ = ct."""
    return triangular_solve_p.bind(x, ct, transpose_a=not transpose_a, **params)


def triangular_all(ct, x, out, **params):
    """op(x)̄ = -ȳ outᵀ, or -outᵀ ȳ where op(x) is on the right; only the triangle that was read gets it."""
    rhs_ct = triangular_rhs(ct, x, **params)
    x_ct = lax.neg(matmul(rhs_ct, transpose(out)) if params["left_side"] else matmul(transpose(out), rhs_ct))
    x_ct = transpose(x_ct) if params["transpose_a"] else x_ct
    x_ct = conj(x_ct) if params["conjugate_a"] else x_ct
    triangle = lower if params["lower"] else upper
    return triangle(x_ct, int(params["unit_diagonal"])), rhs_ct


def tridiagonal_rhs(ct, x, y, z, **params):
    """The transposed system. Row i of the system is x_i, y_i, z_i, in columns i-1, i, i+1."""
    return tridiagonal_solve_p.bind(shift_down(z, -1), y, shift_up(x, -1), ct, **params)


def tridiagonal_all(ct, x, y, z, out, active, **params):
    """The diagonals of -b̄ outᵀ."""
    rhs_ct = tridiagonal_rhs(ct, x, y, z, **params)

    def diagonal_ct(neighbour):
        return lax.neg(lax.reduce_sum(lax.mul(rhs_ct, neighbour), [out.ndim - 1]))

    return (
        diagonal_ct(shift_down(out, -2)) if active[0] else None,
        diagonal_ct(out) if active[1] else None,
        diagonal_ct(shift_up(out, -2)) if active[2] else None,
        rhs_ct if active[3] else None,
    )


def shift_down(x, axis):
    """x_{i-1}, zero for the first."""
    return shift(x, axis, 1)


def shift_up(x, axis):
    """x_{i+1}, zero for the last."""
    return shift(x, axis, -1)


def shift(x, axis, steps):
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (steps, -steps, 0)
    return lax.pad(x, const(x, 0), config)


def symmetric_a(ct, x, *, alpha):
    """x̄ = alpha (ct + ctᵀ) x"""
    return lax.mul(const(x, alpha), matmul(lax.add(ct, transpose(ct)), x))


rules = {
    lax.linalg.symmetric_product_p: formula(symmetric_a, lambda ct, *, beta: lax.mul(const(ct, beta), ct)),
    triangular_solve_p: Solve(2, triangular_rhs, triangular_all),
    tridiagonal_solve_p: Solve(4, tridiagonal_rhs, tridiagonal_all),
    lax.linalg.lu_pivots_to_permutation_p: no_derivative,
}
