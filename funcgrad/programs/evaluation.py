"""The one evaluator: a program's equations, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, jit_p

#: Runs an equation on its operands' values and returns the list of its outputs.
Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


def evaluate(program: ClosedJaxpr, *args: Any, run: Run | None = None) -> list[Any]:
    """The outputs of ``program`` for ``args``. ``run`` runs one equation, by default under the current trace."""
    jaxpr = program.jaxpr
    if run is None:
        run = run_here()
    env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
    env.update(zip(jaxpr.constvars, program.consts, strict=True))
    # Arrays are freed when they have been used for the last time.
    last: dict[Any, Any] = {x: eqn for eqn in jaxpr.eqns for x in eqn.invars if type(x) is not Literal}
    last.update({x: None for x in jaxpr.outvars if type(x) is not Literal})
    for eqn in jaxpr.eqns:
        outs = run(eqn, [x.val if type(x) is Literal else env[x] for x in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
        for x in eqn.invars:
            if type(x) is not Literal and last[x] is eqn:
                env.pop(x, None)
    return [x.val if type(x) is Literal else env[x] for x in jaxpr.outvars]


def run_here() -> Run:
    """Runs an equation under the current trace, with its line and settings, in its scope inside of the current one."""
    scope = _jax.current_scope()
    return lambda eqn, values: _jax.rebind(eqn, values, scope)


def inline_jits(program: ClosedJaxpr) -> ClosedJaxpr:
    """``program`` with its jitted calls spelled out, at any depth of such calls."""
    if not any(eqn.primitive is jit_p for eqn in program.jaxpr.eqns):
        return program

    def run_inside(scope: Any) -> Run:
        def run(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
            if eqn.primitive is not jit_p:
                return _jax.rebind(eqn, values, scope)
            with _jax.context_of(eqn, scope):
                return evaluate(eqn.params["jaxpr"], *values, run=run_inside(_jax.current_scope()))

        return run

    def run_all(*args: Any) -> list[Any]:
        return evaluate(program, *args, run=run_inside(_jax.current_scope()))

    return _jax.trace_to_jaxpr(run_all, program.in_avals, program.jaxpr.debug_info)
