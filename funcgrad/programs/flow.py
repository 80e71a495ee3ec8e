"""What depends on what in a program, and the parts of it that follow: a chain of ten thousand equations is ordinary."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, add_jaxvals_p
from funcgrad.programs.thresholds import OPEN


class Flow:
    """What makes each variable of a program, and what uses it; equations by number."""

    def __init__(self, program: ClosedJaxpr):
        self.program = program
        self.eqns = program.jaxpr.eqns
        self.maker = {v: k for k, eqn in enumerate(self.eqns) for v in eqn.outvars}
        self.uses: dict[Var, list[int]] = {}
        for k, eqn in enumerate(self.eqns):
            for x in eqn.invars:
                if type(x) is not Literal:
                    self.uses.setdefault(x, []).append(k)
        self.returned = [x for x in program.jaxpr.outvars if type(x) is not Literal]

    def made_by(self, x: Any) -> Any:
        """The equation that makes ``x``, None for an input or a literal."""
        k = None if type(x) is Literal else self.maker.get(x)
        return None if k is None else self.eqns[k]

    def is_used_once(self, x: Var) -> bool:
        return len(self.uses.get(x, ())) == 1 and x not in self.returned

    def terms(self, k: int) -> tuple[list[Any], list[int]]:
        """What cotangents equation ``k`` adds up, and the equations that do, later ones first."""
        terms: list[Any] = []
        sums = [k]
        rest = list(reversed(self.eqns[k].invars))
        while rest:
            x = rest.pop()
            eqn = self.made_by(x)
            if eqn is not None and eqn.primitive is add_jaxvals_p and self.is_used_once(x):
                sums.append(self.maker[x])
                rest += reversed(eqn.invars)
            else:
                terms.append(x)
        return terms, sums


def with_outputs(program: ClosedJaxpr, outvars: Sequence[Any]) -> ClosedJaxpr:
    """``program`` returning ``outvars``, variables of its own, instead of its outputs."""
    return _jax.with_parts(program, outvars=list(outvars))


def independent_of(program: ClosedJaxpr, inputs: Collection[int]) -> set[Var]:
    """The variables that depend on none of the inputs numbered ``inputs`` and on no side effect."""
    varying = {program.jaxpr.invars[i] for i in inputs}
    fixed = {v for v in (*program.jaxpr.constvars, *program.jaxpr.invars) if v not in varying}
    for eqn in program.jaxpr.eqns:
        if not eqn.effects and all(type(x) is Literal or x in fixed for x in eqn.invars):
            fixed.update(eqn.outvars)
    return fixed


def slice_program(
    program: ClosedJaxpr,
    wanted: Sequence[Any],
    given: Sequence[Var] = (),
    *,
    keep: Callable[[Any], bool] = lambda eqn: False,
    refs: bool = False,
) -> ClosedJaxpr:
    """The part of ``program`` that computes the variables ``wanted``, taking ``given`` after its own inputs.

    What lies behind a given variable is not computed. Side effects are left out, but for the equations that ``keep``
    says, and so are writes to the references among the inputs unless ``refs``.
    """
    inputs = {*program.jaxpr.constvars, *program.jaxpr.invars}
    needed = {v for v in wanted if type(v) is not Literal}
    written = {v for v in inputs if refs and _jax.is_ref(v.aval)}
    given_set = set(given)
    eqns = []
    for eqn in reversed(program.jaxpr.eqns):
        live = [v in needed and v not in given_set for v in eqn.outvars]
        touched = references(eqn)
        writes = eqn.primitive is not _jax.get_p and not written.isdisjoint(touched)
        if any(live) or writes or keep(eqn):
            written.update(touched - inputs)
            needed.update(x for x in eqn.invars if type(x) is not Literal)
            outvars = [v if is_live else _jax.DropVar(v.aval) for v, is_live in zip(eqn.outvars, live, strict=True)]
            eqns.append(eqn.replace(outvars=outvars))
    parts = {"invars": [*program.jaxpr.invars, *given], "outvars": list(wanted), "eqns": eqns[::-1]}
    effects = _jax.program_effects(program.jaxpr.constvars, **parts)
    return _jax.with_parts(program, **parts, effects=effects)


def without_effects(program: ClosedJaxpr) -> ClosedJaxpr:
    """``program`` without what it does besides computing its outputs, but for effects whose results these depend on."""
    if not program.effects:
        return program
    eqns = []
    for eqn in program.jaxpr.eqns:
        if eqn.effects:
            inside: list[ClosedJaxpr] = []

            def quiet(x: Any, inside: list[ClosedJaxpr] = inside) -> Any:
                if isinstance(x, tuple):
                    return tuple(map(quiet, x)) if any(isinstance(y, _jax.Jaxpr | ClosedJaxpr) for y in x) else x
                if not isinstance(x, _jax.Jaxpr | ClosedJaxpr):
                    return x
                inside.append(without_effects(x if isinstance(x, ClosedJaxpr) else _jax.close(x)))
                return inside[-1] if isinstance(x, ClosedJaxpr) else _jax.opened(inside[-1])

            params = {name: quiet(x) for name, x in eqn.params.items()}
            if inside:
                left = {e for p in inside for e in p.effects}
                eqn = eqn.replace(params=params, effects={e for e in eqn.effects if _jax.is_ref_effect(e) or e in left})
        eqns.append(eqn)
    return slice_program(_jax.with_parts(program, eqns=eqns), program.jaxpr.outvars)


def references(eqn: Any) -> set[Var]:
    """The references that an equation takes."""
    return {x for x in eqn.invars if type(x) is not Literal and _jax.is_ref(x.aval)}


def read_outside(program: ClosedJaxpr) -> list[Var]:
    """The variables computed from what references from outside hold, which at another time is another thing."""
    outside = {v for v in (*program.jaxpr.constvars, *program.jaxpr.invars) if _jax.is_ref(v.aval)}
    found: list[Var] = []
    for eqn in program.jaxpr.eqns if outside else ():
        touched = references(eqn)
        if not outside.isdisjoint(touched):
            outside |= touched
            found.extend(v for v in eqn.outvars if not isinstance(v, _jax.DropVar))
    return found


def taking(program: ClosedJaxpr, invars: Sequence[Var]) -> ClosedJaxpr:
    """``program`` of other inputs, all of its own that it reads among them."""
    return _jax.with_parts(program, invars=list(invars), debug_info=_jax.unnamed(program))


def variables_read(program: ClosedJaxpr) -> set[Var]:
    atoms = [x for eqn in program.jaxpr.eqns for x in eqn.invars]
    return {x for x in (*atoms, *program.jaxpr.outvars) if type(x) is not Literal}


def size(v: Any) -> int:
    """The bytes of a variable."""
    return size_of(v.aval)


def size_of(aval: Any) -> int:
    """The bytes of an array, 0 of anything else; of open dimensions, about as many as there may be."""
    if not isinstance(aval, ShapedArray):
        return 0
    aval = _jax.physical_aval(aval)
    in_bytes: int = math.prod([_jax.evaluated(d, OPEN) for d in aval.shape]) * aval.dtype.itemsize
    return in_bytes


def fixpoint(start: tuple[bool, ...], step: Callable[[tuple[bool, ...]], Sequence[bool]]) -> tuple[bool, ...]:
    """The least mask that contains ``start`` and is closed under ``step``."""
    while True:
        grown = tuple([a or b for a, b in zip(start, step(start), strict=True)])
        if grown == start:
            return start
        start = grown
