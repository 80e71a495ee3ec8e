"""Weights that a backward loop multiplies the other way round, turned once before the loop.

The cotangent of ``x @ w`` is ``ct @ w.T``. XLA contracts the last dimensions of both where they are, which on the CPU
takes twice the time of ``ct @ v`` with ``v = w.T`` in memory, if ``ct`` has a few rows: from 2 to 16, as measured. (One
row is a sum of products either way, and many are worth arranging the weights anew each time.) A loop can turn them once
for all its steps.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.programs.flow import Flow
from funcgrad.rules.control.residuals import size

ROWS = range(2, 17)

#: With fewer steps turning the weights costs about what it saves.
FEWEST_STEPS = 8

#: The weights are kept twice, so they are turned where the loop's stacks have at least so many times their bytes.
WORTH = 2


def turned(body: ClosedJaxpr, num_fixed: int, num_carry: int, length: int) -> tuple[ClosedJaxpr, list[int]]:
    """A loop's body that takes some of its ``num_fixed`` constants transposed, and their numbers.

    After the constants it takes and returns ``num_carry`` carried arrays, then come the elements.
    """
    if jax.default_backend() != "cpu" or length < FEWEST_STEPS:
        return body, []
    jaxpr, flow = body.jaxpr, Flow(body)
    step = sum(map(size, jaxpr.invars[num_fixed + num_carry :])) + sum(map(size, jaxpr.outvars[num_carry:]))
    found = {
        v: i
        for i, v in enumerate(jaxpr.invars[:num_fixed])
        if v in flow.uses
        and v not in flow.returned
        and WORTH * size(v) <= length * step
        and all(contracts_last(flow.eqns[k], v) for k in flow.uses[v])
    }
    if not found:
        return body, []
    products = {k for v in found for k in flow.uses[v]}

    def run(*args: Any) -> list[Any]:
        env: dict[Var, Any] = dict(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, body.consts, strict=True))
        for k, eqn in enumerate(jaxpr.eqns):
            values = [x.val if type(x) is Literal else env[x] for x in eqn.invars]
            changed = {}
            if k in products:
                (left, _), batch = eqn.params["dimension_numbers"]
                changed = {"dimension_numbers": ((left, (0,)), batch)}
            env.update(zip(eqn.outvars, _jax.rebind(eqn, values, _jax.current_scope(), **changed), strict=True))
        return [x.val if type(x) is Literal else env[x] for x in jaxpr.outvars]

    avals = [v.aval.update(shape=v.aval.shape[::-1]) if v in found else v.aval for v in jaxpr.invars]
    return _jax.trace_to_jaxpr(run, avals, jaxpr.debug_info), list(found.values())


def contracts_last(eqn: Any, weights: Any) -> bool:
    """Whether an equation contracts a few rows with the last dimension of the matrix ``weights``."""
    if eqn.primitive is not lax.dot_general_p or eqn.invars[0] is weights or weights.aval.ndim != 2:
        return False
    (_, right), batch = eqn.params["dimension_numbers"]
    rows = eqn.outvars[0].aval.size // weights.aval.shape[0]
    return right == (1,) and batch == ((), ()) and rows in ROWS
