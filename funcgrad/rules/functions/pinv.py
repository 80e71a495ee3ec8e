"""The pseudoinverse, of matrices of any scale (Golub and Pereyra, "The differentiation of pseudo-inverses", 1973)."""

from __future__ import annotations

from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad.rules.functions.points import Known
from funcgrad.rules.functions.recognition import key_of, primitives_in
from funcgrad.rules.linalg.matrices import adjoint, matmul, textbook
from funcgrad.rules.numbers import const


@textbook
def pull(ct: Any, a: Any, p: Any) -> Any:
    """(1 - ap) ctᴴ p pᴴ + pᴴ p ctᴴ (1 - pa) - pᴴ ct pᴴ

    The cotangent goes first into each product: that of two pseudoinverses overflows before the whole does.
    """
    h, along = adjoint(p), adjoint(ct)
    left, right = matmul(along, p), matmul(p, along)
    outside = matmul(lax.sub(left, matmul(a, matmul(p, left))), h)
    inside = matmul(h, lax.sub(right, matmul(matmul(right, p), a)))
    return lax.sub(lax.add(outside, inside), matmul(matmul(h, ct), h))


def symmetric(x: Any) -> Any:
    return lax.mul(lax.add(x, adjoint(x)), const(x, 0.5))


class Pseudoinverse(Known):
    """That of a matrix that is said to be Hermitian is of its Hermitian part."""

    def __init__(self) -> None:
        super().__init__(_jax.pinv, lambda ct, a, out: pull(ct, a, out), None, None)
        self.hermitian = Known(_jax.pinv, lambda ct, a, out: symmetric(pull(ct, symmetric(a), out)), None, None)

    def record(self, tape, primitive, primals, tracers, params, linear):
        is_hermitian = lax.linalg.eigh_p in primitives_in(params["jaxpr"])
        rule = self.hermitian.record if is_hermitian else super().record
        return rule(tape, primitive, primals, tracers, params, linear)


rules = {key_of(_jax.pinv): Pseudoinverse()}
