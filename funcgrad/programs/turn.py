"""Weights that a backward loop multiplies the other way round, turned once before the loop.

The cotangent of ``x @ w`` is ``ct @ w.T``. XLA contracts the last dimensions of both where they are, which on the CPU
takes twice the time of ``ct @ v`` with ``v = w.T`` in memory, if ``ct`` has a few rows. (One row is a sum of products
either way, and many are worth arranging the weights anew each time.) A loop can turn them once for all its steps.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from funcgrad._jax import Literal, Var
from funcgrad.programs.evaluation import program_of
from funcgrad.programs.flow import Flow, size
from funcgrad.programs.loop import Loop, program
from funcgrad.programs.platform import choice
from funcgrad.programs.thresholds import TURN_ROWS, TURN_STACKS, TURN_STEPS


def turn(loop: Loop) -> Loop:
    """The loop with matrices among its fixed values taken transposed where that is faster on the CPU."""
    if not isinstance(loop.length, int) or loop.length < TURN_STEPS:
        return loop
    jaxpr, flow = loop.body.jaxpr, Flow(loop.body)
    count = loop.num_fixed + loop.num_carry
    step = sum(map(size, jaxpr.invars[count:])) + sum(map(size, jaxpr.outvars[loop.num_carry :]))
    found: dict[Any, int] = {
        v: i
        for i, v in enumerate(jaxpr.invars[: loop.num_fixed])
        if v in flow.uses
        and v not in flow.returned
        and TURN_STACKS * size(v) <= loop.length * step
        and all(contracts_last(flow.eqns[k], v) for k in flow.uses[v])
    }
    if not found:
        return loop
    turned: dict[Any, Var] = {v: Var(v.aval.update(shape=v.aval.shape[::-1])) for v in found}
    eqns: list[Any] = []
    for eqn in jaxpr.eqns:
        weights = eqn.invars[1] if len(eqn.invars) > 1 and type(eqn.invars[1]) is not Literal else None
        eqns += by_platform(loop, eqn, turned[weights]) if weights in found else [eqn]
    invars = [*jaxpr.invars[: loop.num_fixed], *turned.values(), *jaxpr.invars[loop.num_fixed :]]

    first, done = loop.before.jaxpr.outvars, list(loop.before.jaxpr.eqns)
    weights = [first[i] for i in found.values()]
    copies = [Var(v.aval) for v in turned.values()]
    for matrix, copy in zip(weights, copies, strict=True):
        done += choice(program_of(transposed, matrix.aval), program_of(nothing, matrix.aval), [matrix], [copy])
    return loop._replace(
        before=program(
            loop.before,
            loop.before.jaxpr.invars,
            [*first[: loop.num_fixed], *copies, *first[loop.num_fixed :]],
            done,
        ),
        body=program(loop.body, invars, jaxpr.outvars, eqns),
        num_fixed=loop.num_fixed + len(found),
    )


def transposed(x: Any) -> Any:
    return lax.transpose(x, (1, 0))


def nothing(x: Any) -> Any:
    return lax.full_like(x, 0, shape=x.shape[::-1])


def by_platform(loop: Loop, product: Any, turned: Var) -> list[Any]:
    """The equations of a product with weights: on the CPU with those that are turned."""
    (left, _), batch = product.params["dimension_numbers"]
    x, weights = product.invars
    (out,) = product.outvars
    on_cpu = product.replace(invars=[x, turned], params={**product.params, "dimension_numbers": ((left, (0,)), batch)})
    operands = [x, weights, turned] if type(x) is not Literal else [weights, turned]
    cpu, default = (program(loop.body, operands, [out], [eqn]) for eqn in (on_cpu, product))
    return choice(cpu, default, operands, [out])


def contracts_last(eqn: Any, weights: Any) -> bool:
    """Whether an equation contracts a few rows with the last dimension of the matrix ``weights``."""
    if eqn.primitive is not lax.dot_general_p or eqn.invars[0] is weights or weights.aval.ndim != 2:
        return False
    (_, right), batch = eqn.params["dimension_numbers"]
    rows = eqn.outvars[0].aval.size // weights.aval.shape[0]
    return right == (1,) and batch == ((), ()) and rows in TURN_ROWS
