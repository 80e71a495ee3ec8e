"""The one evaluator: a program's equations, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, jit_p

#: Runs an equation on its operands' values and returns the list of its outputs.
Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


def evaluate(program: ClosedJaxpr, *args: Any, run: Run | None = None) -> list[Any]:
    """The outputs of ``program`` for ``args``. ``run`` runs one equation, by default under the current trace."""
    jaxpr = program.jaxpr
    if run is None:
        run = _jax.run_here()
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


def renamed(eqn: Any, env: dict[Any, Any], scope: Any = None) -> Any:
    """An equation of variables that are known in ``env``, with outputs of its own, inside of ``scope``."""
    invars = [x if type(x) is Literal else env.get(x, x) for x in eqn.invars]
    outvars = [x if isinstance(x, _jax.DropVar) else env.setdefault(x, Var(x.aval)) for x in eqn.outvars]
    source = eqn.source_info
    if scope is not None:
        source = source.replace(name_stack=scope + source.name_stack)
    return eqn.replace(invars=invars, outvars=outvars, source_info=source)


def spelled(program: ClosedJaxpr, atoms: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The equations and outputs of ``program`` for ``atoms``, to stand in another program of the same constants."""
    env = dict(zip(program.jaxpr.invars, atoms, strict=True))
    eqns = [renamed(eqn, env) for eqn in program.jaxpr.eqns]
    return eqns, [x if type(x) is Literal else env.get(x, x) for x in program.jaxpr.outvars]


@functools.lru_cache(maxsize=1024)
def program_of(function: Callable[..., Any], aval: Any, *static: Any) -> ClosedJaxpr:
    """The program of ``function(x, *static)`` for an ``x`` of type ``aval``; for functions of a module, made once."""
    return jax.make_jaxpr(lambda x: function(x, *static))(aval)


def inline_jits(program: ClosedJaxpr, located: bool = False) -> ClosedJaxpr:
    """``program`` with its jitted calls spelled out, at any depth of such calls.

    Where it is to be ``located``, equations of a library's functions have the lines that called these.
    """
    if not any(eqn.primitive is jit_p for eqn in program.jaxpr.eqns):
        return program
    constvars, consts, eqns = list(program.jaxpr.constvars), list(program.consts), []

    def append(eqn: Any, env: dict[Any, Any], scope: Any, caller: Any = None) -> None:
        if located and caller is not None and not _jax.user_frames(eqn.source_info):
            eqn = eqn.replace(source_info=eqn.source_info.replace(traceback=caller))
        if eqn.primitive is not jit_p:
            eqns.append(renamed(eqn, env, scope))
            return
        inner, within = eqn.params["jaxpr"], eqn.source_info.name_stack
        fresh = [Var(v.aval) for v in inner.jaxpr.constvars]
        constvars.extend(fresh)
        consts.extend(inner.consts)
        invars = [x if type(x) is Literal else env.get(x, x) for x in eqn.invars]
        inside = dict(zip((*inner.jaxpr.constvars, *inner.jaxpr.invars), (*fresh, *invars), strict=True))
        for each in inner.jaxpr.eqns:
            append(each, inside, within if scope is None else scope + within, eqn.source_info.traceback)
        outs = [x if type(x) is Literal else inside[x] for x in inner.jaxpr.outvars]
        env.update(zip(eqn.outvars, outs, strict=True))

    env: dict[Any, Any] = {}
    for eqn in program.jaxpr.eqns:
        append(eqn, env, None)
    outvars = [x if type(x) is Literal else env.get(x, x) for x in program.jaxpr.outvars]
    jaxpr = program.jaxpr.replace(constvars=constvars, eqns=eqns, outvars=outvars)
    inlined: ClosedJaxpr = program.replace(jaxpr=jaxpr, consts=consts)
    return inlined
