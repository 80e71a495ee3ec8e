"""Products of a loop's elements with constants, computed for all steps before the loop.

A recurrent network multiplies its input by weights at every step, and what it multiplies does not depend on the step
before. With few rows in a product, reading the weights takes most of the time; one product for all steps reads it once.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Literal, Var
from funcgrad.programs.flow import independent_of, size, slice_program, taking
from funcgrad.programs.loop import Loop, program
from funcgrad.programs.thresholds import AHEAD


def ahead(loop: Loop) -> Loop:
    """The loop taking as further elements the products of elements with what does not vary, where that is large."""
    jaxpr = loop.body.jaxpr
    count = loop.num_fixed + loop.num_carry
    elements: dict[Any, int] = {v: i for i, v in enumerate(jaxpr.invars) if i >= count}
    fixed = independent_of(loop.body, range(loop.num_fixed, len(jaxpr.invars)))
    products = [
        eqn
        for eqn in (() if loop.body.effects else jaxpr.eqns)
        if eqn.primitive is lax.dot_general_p
        and eqn.params["dimension_numbers"][1] == ((), ())
        and all(type(x) is not Literal for x in eqn.invars)
        and eqn.invars[0] in elements
        and eqn.invars[1] in fixed
        and size(eqn.invars[1]) >= AHEAD * size(eqn.outvars[0])
    ]
    if not products:
        return loop
    constants = taking(slice_program(loop.body, [eqn.invars[1] for eqn in products]), jaxpr.invars[: loop.num_fixed])

    first = loop.before.jaxpr.outvars
    eqns, fixed_values = loop.first_of(constants)
    stacks = [Var(_jax.stacked_aval(loop.length, eqn.outvars[0].aval)) for eqn in products]
    for eqn, constant, stack in zip(products, fixed_values, stacks, strict=True):
        eqns.append(over_steps(eqn, first[elements[eqn.invars[0]]], constant, stack))
    outvars = [*first[: loop.num_first], *stacks, *first[loop.num_first :]]
    return loop._replace(
        before=program(loop.before, loop.before.jaxpr.invars, outvars, [*loop.before.jaxpr.eqns, *eqns]),
        body=slice_program(loop.body, jaxpr.outvars, [eqn.outvars[0] for eqn in products]),
    )


def over_steps(product: Any, elements: Var, constant: Any, stack: Var) -> Any:
    """The equation that makes the stack of the products of all elements with a constant."""
    (left, right), _ = product.params["dimension_numbers"]
    numbers = ((tuple([d + 1 for d in left]), right), ((), ()))
    params = {**product.params, "dimension_numbers": numbers}
    return product.replace(invars=[elements, constant], outvars=[stack], params=params)
