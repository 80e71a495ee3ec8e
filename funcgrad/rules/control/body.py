"""The body of a loop: what it carries that is active, and what of that is needed on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.engine.split import Activity, Split, split
from funcgrad.engine.tape import is_differentiable
from funcgrad.programs.flow import fixpoint


def split_body(
    body: ClosedJaxpr, num_consts: int, num_carry: int, activity: Sequence[Activity], rules: Any
) -> tuple[Split, tuple[bool, ...]]:
    """The halves of a loop's body, and which of what it carries is active: at first, or made so in the loop."""
    first, last = num_consts, num_consts + num_carry
    can = [is_differentiable(aval) for aval in body.in_avals[first:last]]

    def halves_for(carry: tuple[bool, ...]) -> Split:
        return split(body, (*activity[:first], *map(Activity, carry), *activity[last:]), rules)

    def grown(carry: tuple[bool, ...]) -> list[bool]:
        return [a and c for a, c in zip(halves_for(carry).out_active, can, strict=False)]

    start = tuple([a is not Activity.NONE and c for a, c in zip(activity[first:last], can, strict=True)])
    carry = fixpoint(start, grown)
    return halves_for(carry), carry


def needed(
    body: Split, num_consts: int, carry_active: Sequence[bool], wanted: Sequence[bool]
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Of which inputs of the body the cotangents are needed for those operands that are ``wanted``, and of which carry.

    A carried value's cotangent is on the way to those of the values of the steps before.
    """
    first, last = num_consts, num_consts + len(carry_active)
    start = tuple([a and w for a, w in zip(carry_active, wanted[first:last], strict=True)])

    def before(carry: tuple[bool, ...]) -> list[bool]:
        leading = body.leading_to((*wanted[:first], *carry, *wanted[last:]))[: len(carry)]
        return [a and n for a, n in zip(carry_active, leading, strict=True)]

    carry = fixpoint(start, before)
    return (*wanted[:first], *carry, *wanted[last:]), carry


def varying(body: ClosedJaxpr, num_consts: int, num_carry: int) -> list[bool]:
    """What of the carry changes from step to step: the rest the body passes through."""
    carried = zip(body.jaxpr.invars[num_consts:], body.jaxpr.outvars[:num_carry], strict=False)
    return [invar is not outvar for invar, outvar in carried]


def check_repeatable(body: ClosedJaxpr, way_out: str) -> None:
    """Refuse a body ``without_effects`` that still has some, since its steps are to be run again."""
    found = _jax.effects_to_happen_once(body.effects)
    if found:
        raise NotImplementedError(
            f"reverse mode through a loop that uses what its side effects return ({found}): its steps are computed "
            f"again on the way back, and these would happen twice. Have them before the loop, or {way_out}."
        )


def split_at(xs: Sequence[Any], *counts: int) -> tuple[list[Any], ...]:
    parts, start = [], 0
    for count in counts:
        parts.append(list(xs[start : start + count]))
        start += count
    return (*parts, list(xs[start:]))
