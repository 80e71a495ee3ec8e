"""Functions that make a table from a table: every rule as it was, with something done to the cotangents around it.

They wrap the pullbacks of single operations. Rules that carry a program (``jit``, ``scan``, ``cond``, ...) need
nothing: what is inside of them is looked up in the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules import (
    contractions,
    convolutions,
    cumulative,
    elementwise,
    indexing,
    ordering,
    reductions,
    shaping,
    special,
    windows,
)
from funcgrad.rules.control.rewriting import Recompute, Rewrite
from funcgrad.rules.functions.rules import entry
from funcgrad.rules.numbers import full_like, is_complex
from funcgrad.rules.rule import Formula, Rule, Wrapped
from funcgrad.rules.signature import Signature
from funcgrad.rules.table import RuleTable

#: What of a bfloat16 backward pass is computed in it. Factorizations and special functions need more digits.
HALVED = (
    elementwise, shaping, reductions, contractions, indexing, windows, cumulative, convolutions,
    ordering,
)  # fmt: skip


def rules_of(table: RuleTable, families: Sequence[ModuleType]) -> dict[Any, Rule]:
    return {key: table[key] for family in families for key in family.rules if key in table}


def on_cotangents(table: RuleTable, changes: Mapping[Any, Callable[[Any], Any]]) -> RuleTable:
    """``table`` with a function applied to every cotangent that the rules of some primitives or functions give."""

    def around(rule: Rule, change: Callable[[Any], Any]) -> Rule:
        def pull(inner, node, cts):
            return [None if ct is None else change(ct) for ct in inner.pullback(node, cts)]

        return Wrapped(rule, pull=pull)

    keys = {key: entry(key, identity)[0] for key in changes}
    missing = [str(key) for key in changes if keys[key] not in table]
    if missing:
        raise TypeError(f"the table has no rule of its own for {', '.join(missing)}: override it first")
    return table.replacing({keys[key]: around(table[key], change) for key, change in changes.items()})


def identity(ct):
    return ct


def clipped(table: RuleTable, bounds: Mapping[Any, float]) -> RuleTable:
    """``table`` with the cotangents that some rules give clipped, entry by entry.

    Args:
      table: a rule table, such as ``fg.rules.default``.
      bounds: for each primitive, or function that the table has a rule for, the largest absolute value of a cotangent
        that goes from it to an operand.

    Raises:
      TypeError: a key is not in the table.
      ValueError: a bound is not positive.

    >>> import funcgrad as fg
    >>> import jax.numpy as jnp
    >>> from jax import lax
    >>> table = fg.rules.clipped(fg.rules.default, {lax.log_p: 10.0})
    >>> print(fg.grad(jnp.log)(0.03125), fg.grad(jnp.log, rules=table)(0.03125))
    32.0 10.0
    """
    for key, bound in bounds.items():
        if not bound > 0:
            raise ValueError(f"the bound of a cotangent must be positive; got {bound} for {key}")

    def clip(bound: float) -> Callable[[Any], Any]:
        return lambda ct: lax.clamp(full_like(ct, -bound), ct, full_like(ct, bound)) if is_real(ct) else ct

    return on_cotangents(table, {key: clip(bound) for key, bound in bounds.items()})


def noisy(table: RuleTable, scales: Mapping[Any, float], seed: int = 0) -> RuleTable:
    """``table`` with normal noise added to the cotangents that some rules give.

    Noise is drawn anew for every cotangent, by ``seed`` and the cotangent itself: the same program on the same data
    gets the same noise, and every step of a loop or of a training another one.

    Args:
      table: a rule table, such as ``fg.rules.default``.
      scales: for each primitive, or function that the table has a rule for, the standard deviation of the noise.
      seed: an integer.

    Raises:
      TypeError: a key is not in the table.
      ValueError: a scale is negative.

    >>> import funcgrad as fg
    >>> import jax.numpy as jnp
    >>> from jax import lax
    >>> table = fg.rules.noisy(fg.rules.default, {lax.sin_p: 0.1})
    >>> x = jnp.zeros(1000)
    >>> noise = fg.grad(lambda x: jnp.sum(jnp.sin(x)), rules=table)(x) - 1
    >>> print(f"{jnp.std(noise):.2f}")
    0.10
    """
    for key, scale in scales.items():
        if not scale >= 0:
            raise ValueError(f"the scale of noise must not be negative; got {scale} for {key}")

    def add_noise(number: int, scale: float) -> Callable[[Any], Any]:
        def change(ct: Any) -> Any:
            if not is_real(ct):
                return ct
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), fingerprint(ct))
            return lax.add(ct, (scale * jax.random.normal(key, ct.shape, np.float32)).astype(ct.dtype))

        return change

    return on_cotangents(table, {key: add_noise(i, scale) for i, (key, scale) in enumerate(scales.items())})


def fingerprint(x: Any) -> Any:
    """A number that is another one for other arrays, nearly always."""
    bits = lax.bitcast_convert_type(lax.convert_element_type(x, np.float32), np.uint32)
    places = lax.iota(np.uint32, bits.size).reshape(bits.shape)
    return jnp.sum(bits * (places * np.uint32(2654435761) + np.uint32(40503)), dtype=np.uint32)


def is_real(x: Any) -> bool:
    return np.issubdtype(x.dtype, np.floating) or x.dtype == jnp.bfloat16


def nan_safe(table: RuleTable) -> RuleTable:
    """``table`` with elementwise rules in which a cotangent that is zero stays zero, whatever the slope is.

    A value that is not used, such as the logarithm of zero in the branch of ``jnp.where`` that was not taken, has the
    cotangent 0 and an infinite slope, and 0 * inf is NaN: the usual reason for a NaN in a gradient of a function whose
    value is finite. It does not reach into contractions, where zeros are summed with other terms.

    >>> import funcgrad as fg
    >>> import jax.numpy as jnp
    >>> f = lambda x: jnp.where(x > 0, x * jnp.log(x), 0.0)
    >>> print(fg.grad(f)(0.0), fg.grad(f, rules=fg.rules.nan_safe(fg.rules.default))(0.0))
    nan 0.0
    """
    rules = rules_of(table, (elementwise, special))
    return table.replacing({key: safe(rule) for key, rule in rules.items() if isinstance(rule, Formula)})


def safe(rule: Formula) -> Formula:
    def guarded(signature: Signature | None) -> Signature | None:
        if signature is None:
            return None

        def function(ct: Any, *residuals: Any, **params: Any) -> Any:
            x_ct = signature.function(ct, *residuals, **params)
            if x_ct.shape != ct.shape:
                return x_ct
            return lax.select(lax.eq(ct, full_like(ct, 0)), full_like(x_ct, 0), x_ct)

        return Signature(function, signature.names, signature.keywords)

    other = Formula([], {}, rule.broadcasts, rule.fuses)
    other.derived = rule.derived
    other.signatures = tuple(map(guarded, rule.signatures))
    return other


def in_bfloat16(table: RuleTable) -> RuleTable:
    """``table`` with a backward pass in bfloat16.

    Each rule gets its cotangents and what it saved in bfloat16, computes in it, and its result is given back in the
    operand's own dtype, in which cotangents are summed. The way forward is not changed. Factorizations, special
    functions, transforms and complex numbers stay as they are.

    >>> import funcgrad as fg
    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(0.0, 1.0, 5)
    >>> table = fg.rules.in_bfloat16(fg.rules.default)
    >>> error = fg.grad(lambda x: jnp.sum(jnp.sin(x)), rules=table)(x) - jnp.cos(x)
    >>> bool(0 < jnp.max(jnp.abs(error)) < 2**-8)
    True
    """
    rules = rules_of(table, HALVED)
    # Rules by way of other operations use the table for those.
    single = {key: rule for key, rule in rules.items() if not isinstance(rule, Rewrite | Recompute)}
    return table.replacing({key: Wrapped(rule, pull=pull_in_bfloat16) for key, rule in single.items()})


def pull_in_bfloat16(rule: Any, node: Any, cts: Sequence[Any]) -> Sequence[Any]:
    if any(is_complex(x) for x in (*cts, *node.residuals, *node.avals) if hasattr(x, "dtype")):
        return rule.pullback(node, cts)
    halved = node.replace(residuals=tuple(map(halve, node.residuals)))
    halved.avals = [halve(aval) for aval in node.avals]
    pulled = rule.pullback(halved, [None if ct is None else halve(ct) for ct in cts])
    return [
        None if ct is None else _jax.match(ct, _jax.ct_type(aval)) for ct, aval in zip(pulled, node.avals, strict=True)
    ]


def halve(x: Any) -> Any:
    """An array of float32 or float64, or the type of one, in bfloat16; anything else as it is."""
    if getattr(x, "dtype", None) not in (np.float32, np.float64):
        return x
    if isinstance(x, jax.core.AbstractValue):
        return x.update(dtype=jnp.bfloat16)
    return lax.convert_element_type(x, jnp.bfloat16)
