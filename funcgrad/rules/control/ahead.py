"""Products of a loop's elements with constants, computed for all steps before the loop.

A recurrent network multiplies its input by weights at every step, and what it multiplies does not depend on the step
before. With few rows in a product, reading the weights takes most of the time; one product for all steps reads it once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.programs.flow import slice_program
from funcgrad.rules.control.residuals import size

#: A product is computed ahead where the constant has at least so many times its bytes: the products of all steps are
#: written and read again.
WORTH = 64


class Ahead(NamedTuple):
    """A contraction of element number ``element`` with ``constant``, a variable that does not vary."""

    eqn: Any
    element: int
    constant: Var

    def over_steps(self, elements: Any, constant: Any) -> Any:
        """The stack of its values, given the stack of elements."""
        (left, right), _ = self.eqn.params["dimension_numbers"]
        numbers = ((tuple([d + 1 for d in left]), right), ((), ()))
        return _jax.rebind(self.eqn, [elements, constant], _jax.current_scope(), dimension_numbers=numbers)[0]


def split_ahead(body: ClosedJaxpr, num_before: int, fixed: Collection[Var]) -> tuple[ClosedJaxpr, list[Ahead]]:
    """A loop's body that takes some products as further elements, and what they are products of.

    Before its elements it takes ``num_before`` constants and carried arrays; the variables ``fixed`` do not vary.
    """
    elements: dict[Any, int] = {v: i for i, v in enumerate(body.jaxpr.invars[num_before:])}
    found = []
    for eqn in () if body.effects else body.jaxpr.eqns:
        if eqn.primitive is not lax.dot_general_p or eqn.params["dimension_numbers"][1] != ((), ()):
            continue
        element, constant = eqn.invars
        if any(type(x) is Literal for x in eqn.invars) or element not in elements or constant not in fixed:
            continue
        if size(constant) >= WORTH * size(eqn.outvars[0]):
            found.append(Ahead(eqn, elements[element], constant))
    if not found:
        return body, []
    return slice_program(body, body.jaxpr.outvars, [a.eqn.outvars[0] for a in found]), found


def over_steps(found: Sequence[Ahead], xs: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
    return [a.over_steps(xs[a.element], constant) for a, constant in zip(found, constants, strict=True)]
