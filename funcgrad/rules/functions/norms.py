"""Norms: the root of a sum of powers, over any axes, as one operation.

Of x, the operand, and its norm n the slope is (x / n)^(p-1), and needs no power of x itself: those overflow and vanish
long before the norm does. Where they did, n is computed again, of x over its largest entry.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Literal
from funcgrad.programs.memo import memo
from funcgrad.rules import elementwise
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.control.jit import rules as jit_rules
from funcgrad.rules.functions.recognition import key_of
from funcgrad.rules.numbers import const, full_like, inverse, is_complex, transposed
from funcgrad.rules.reductions import spread
from funcgrad.rules.rule import Rule

mul, div = lax.mul, lax.div
SHAPING = {lax.broadcast_in_dim_p, lax.reshape_p, lax.squeeze_p, lax.transpose_p}


class Norm(NamedTuple):
    """Of which order, by which root, over which axes, and how the sums are shaped then: to an order or a shape."""

    order: float
    root: Any
    axes: tuple[int, ...]
    shaping: tuple[tuple[bool, tuple[int, ...]], ...]

    def of_sums(self, x: Any) -> Any:
        """What is shaped as the result, shaped as the sums are."""
        for permutes, how in reversed(self.shaping):
            x = transposed(x, inverse(how)) if permutes else lax.reshape(x, how)
        return x


@memo
def norm_of(program: Any) -> Norm | None:
    """The norm that a program is, batched or not; None where it is none of a sum of powers."""
    jaxpr = program.jaxpr
    eqns = [eqn for eqn in jaxpr.eqns if eqn.primitive is not lax.convert_element_type_p]
    names = [str(eqn.primitive) for eqn in eqns]
    sums = names.index("reduce_sum") if "reduce_sum" in names else 0
    powers, shaped = eqns[:sums], eqns[sums + 1 :]
    roots = [eqn for eqn in shaped if eqn.primitive not in SHAPING]
    if len(jaxpr.invars) != 1 or len(jaxpr.outvars) != 1 or len(roots) != 1:
        return None
    kind, root = tuple(names[:sums]), roots[0]
    if kind in (("mul",), ("conj", "mul", "real"), ("square",)) and root.primitive is lax.sqrt_p:
        order = 2.0
        if kind == ("mul",) and set(powers[0].invars) != {jaxpr.invars[0]}:
            return None
    elif kind == ("abs", "pow") and root.primitive is lax.pow_p:
        exponent = powers[1].invars[1]
        if not isinstance(exponent, Literal) or not isinstance(root.invars[1], Literal):
            return None
        order = float(exponent.val)
    else:
        return None
    shaping = []
    for eqn in shaped:
        if eqn.primitive is lax.transpose_p:
            shaping.append((True, tuple(eqn.params["permutation"])))
        elif eqn.primitive in SHAPING:
            shaping.append((False, eqn.invars[0].aval.shape))
    return Norm(order, root.primitive, tuple(map(int, eqns[sums].params["axes"])), tuple(shaping))


@jax.custom_batching.custom_vmap
def everywhere(mask: Any) -> Any:
    """Whether a mask holds at all places, and in all examples of a batch: else ``vmap`` runs both branches for each."""
    return lax.reduce_and(mask, range(mask.ndim))


@everywhere.def_vmap
def everywhere_in_batch(size: int, batched: Sequence[bool], mask: Any) -> tuple[Any, bool]:
    return everywhere(mask), False


def is_exact(out: Any, order: float) -> Any:
    """Whether no power overflowed on the way to the norm, and none that counts vanished."""
    info = jnp.finfo(out.dtype)
    with np.errstate(all="ignore"):
        least, most = float(info.tiny) / float(info.eps) ** 2, float(info.max) / 4
        ends = [float(np.clip(np.float64(end) ** (1 / order), 0, float(info.max))) for end in (least, most)]
    return lax.bitwise_and(lax.ge(out, const(out, min(ends))), lax.le(out, const(out, max(ends))))


def rescaled(x: Any, norm: Norm, dtype: Any) -> Any:
    """The norm of x, by way of x over the entry that counts most."""
    a = lax.abs(x)
    a = lax.convert_element_type(a, np.promote_types(a.dtype, np.float32))
    largest = lax.stop_gradient((lax.reduce_max if norm.order > 0 else lax.reduce_min)(a, norm.axes))
    largest = lax.select(lax.is_finite(largest), largest, full_like(largest, 1))
    powers = power(div(a, spread_over(largest, a, norm)), norm.order)
    size = mul(largest, power(lax.reduce_sum(powers, norm.axes), 1 / norm.order))
    return lax.convert_element_type(size, dtype)


def spread_over(sums: Any, x: Any, norm: Norm) -> Any:
    return spread(sums, _jax.typeof(x), norm.axes)


def power(x: Any, exponent: float) -> Any:
    """x^exponent for positive x"""
    if exponent == 0.5:
        return lax.sqrt(x)
    return lax.integer_pow(x, int(exponent)) if exponent == int(exponent) else lax.pow(x, const(x, exponent))


@functools.partial(jax.jit, static_argnums=3, inline=True)
def pull(ct: Any, x: Any, out: Any, norm: Norm) -> Any:
    ct, out = norm.of_sums(ct), norm.of_sums(out)
    exact = everywhere(is_exact(lax.stop_gradient(out), norm.order))
    size = lax.cond(exact, lambda x, out: out, lambda x, out: rescaled(x, norm, out.dtype), x, out)
    ct, size = spread_over(ct, x, norm), spread_over(size, x, norm)
    if norm.order == 2 and not is_complex(x):
        return mul(ct, div(x, size))
    a = lax.abs(x)
    along = mul(ct, power(div(a, size), norm.order - 1))
    return elementwise.absolute(along, elementwise.absolute_slope(x, a))


class NormRule(Rule):
    formula = "ct (x / out)^(p - 1)"
    saved = ("x", "out")

    def known_as(self, primitive, params):
        norm = norm_of(params["jaxpr"])
        return str(primitive if norm is None else norm.root)

    def record(self, tape, primitive, primals, tracers, params, linear):
        norm = norm_of(params["jaxpr"])
        if norm is None or _jax.is_reduced(primals[0]):
            return Carrier.record(jit_rules[_jax.jit_p], tape, primitive, primals, tracers, params, linear)
        outs = tape.evaluate(primitive, primals, params, linear)
        return tape.emit(self, primitive, params, norm, (*primals, *outs), tracers, outs)

    def pullback(self, node, cts):
        return [pull(*cts, *node.residuals, node.static)]


rules = {key_of(jnp.linalg.norm): NormRule()}
