"""What a checkpoint policy saves: the values it names, also those inside loops and branches.

``expose`` gives a program in two forms. One has the saved values among its variables, for the way forward: a loop that
computes some returns their stacks, a branch returns its own. The other takes them as further inputs and computes the
same outputs from them, for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, name_p, new_jaxpr_eqn
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import slice_program, with_outputs

#: A checkpoint policy, as ``jax.checkpoint`` takes it.
Policy = Callable[..., Any]


class Saved:
    """How a saved value is put away and had back; ``aliases`` are other variables of the same value.

    One that is ``elsewhere`` takes no memory of the device until it is had back.
    """

    def __init__(self, decision: Any, aliases: tuple[Var, ...] = (), elsewhere: bool = False):
        self.aliases = aliases
        self.decision = decision
        self.elsewhere = elsewhere or isinstance(decision, _jax.Offloadable)
        self.send: Callable[[Any], Any] = lambda x: x
        self.fetch: Callable[[Any], Any] = lambda x: x
        if isinstance(decision, _jax.Offloadable):
            self.send, self.fetch = _jax.transfers(decision)


def expose(program: ClosedJaxpr, policy: Policy) -> tuple[ClosedJaxpr, ClosedJaxpr, dict[Var, Saved]]:
    """``program`` with the saved values as variables, the same taking them for given, and the saved variables."""
    saved: dict[Var, Saved] = {}
    shown, fed = [], []
    for eqn in program.jaxpr.eqns:
        inside = {lax.scan_p: expose_scan, lax.cond_p: expose_cond}.get(eqn.primitive)
        if inside is not None:
            shown_eqn, fed_eqn, within = inside(eqn, policy)
            saved.update(within)
            shown.append(shown_eqn)
            fed.append(fed_eqn)
            continue
        shown.append(eqn)
        fed.append(eqn)
        if is_rounding(eqn) and eqn.invars[0] in saved:
            # A checkpoint inside has saved it as well, rounded: that is the value to keep, once for both.
            raw = saved.pop(eqn.invars[0])
            saved[eqn.outvars[0]] = Saved(raw.decision, (eqn.invars[0], *raw.aliases))
            continue
        decision = _jax.policy_decision(policy, eqn)
        if decision is not None:
            named = eqn.primitive is name_p and type(eqn.invars[0]) is not Literal
            aliases = (eqn.invars[0],) if named else ()
            saved.update({v: Saved(decision, aliases) for v in eqn.outvars if not isinstance(v, _jax.DropVar)})
    return _jax.with_parts(program, eqns=shown), reading(program, fed, saved), saved


def reading(program: ClosedJaxpr, eqns: Sequence[Any], saved: dict[Var, Saved]) -> ClosedJaxpr:
    """``program`` with these equations, where what reads another variable of a saved value's reads the saved one."""
    value = {u: v for v, how in saved.items() for u in how.aliases}

    def of(x: Any) -> Any:
        return x if type(x) is Literal else value.get(x, x)

    read = [eqn.replace(invars=[of(x) for x in eqn.invars]) for eqn in eqns] if value else list(eqns)
    return _jax.with_parts(program, eqns=read, outvars=[of(x) for x in program.jaxpr.outvars])


def is_rounding(eqn: Any) -> bool:
    """Whether an equation only fixes the precision of a value to that of its type."""
    if eqn.primitive is not lax.reduce_precision_p or type(eqn.invars[0]) is Literal:
        return False
    return bool(eqn.params == precision_of(eqn.outvars[0].aval))


def precision_of(aval: Any) -> dict[str, Any]:
    info = jnp.finfo(aval.dtype)
    return {"exponent_bits": info.nexp, "mantissa_bits": info.nmant}


def expose_scan(eqn: Any, policy: Policy) -> tuple[Any, Any, dict[Var, Saved]]:
    """A loop that returns the stacks of what its body saves, and the loop that takes them as elements."""
    body: ClosedJaxpr = eqn.params["jaxpr"]
    shown, fed, saved = expose(body, policy)
    if not saved:
        return eqn, eqn, {}
    shown = round_saved(shown, list(saved))
    layout = _jax.scan_layout(eqn.params)
    outs = list(zip(fed.jaxpr.outvars, eqn.outvars, strict=True))[layout[1] :]
    stays = {v for v, how in saved.items() if not how.elsewhere}
    returned = {v: stack for v, stack in outs if v in stays and not isinstance(stack, _jax.DropVar)}
    rest = [v for v in saved if v not in returned]
    shown_body = sending(with_outputs(shown, [*body.jaxpr.outvars, *rest]), [saved[v] for v in rest])
    put = dict(zip(rest, shown_body.out_avals[len(body.out_avals) :], strict=True))
    more = {v: Var(_jax.stacked_aval(eqn.params["length"], aval)) for v, aval in put.items()}
    stacks = {v: returned.get(v) or more[v] for v in saved}
    shown_params = _jax.scan_params(eqn.params, shown_body, *layout)
    shown_eqn = eqn.replace(outvars=[*eqn.outvars, *more.values()], params=shown_params)
    fed_body = slice_program(fed, fed.jaxpr.outvars, list(saved), keep=_jax.is_for_debugging, refs=True)
    fed_body = fetching(fed_body, list(saved.values()), [put.get(v, v.aval) for v in saved])
    params = _jax.scan_params(eqn.params, fed_body, *layout)
    fed_eqn = eqn.replace(invars=[*eqn.invars, *stacks.values()], params=params)
    return shown_eqn, fed_eqn, {stacks[v]: Saved(None, elsewhere=how.elsewhere) for v, how in saved.items()}


def sending(program: ClosedJaxpr, saved: Sequence[Saved]) -> ClosedJaxpr:
    """``program`` whose last outputs are put away, each as it is made."""
    if not any(how.elsewhere for how in saved):
        return program

    def run(*operands: Any) -> list[Any]:
        results = evaluate(program, *operands)
        first = len(results) - len(saved)
        return [*results[:first], *(how.send(x) for how, x in zip(saved, results[first:], strict=True))]

    return _jax.trace_to_jaxpr(run, program.in_avals, program.jaxpr.debug_info)


def fetching(program: ClosedJaxpr, saved: Sequence[Saved], avals: Sequence[Any]) -> ClosedJaxpr:
    """``program`` whose last inputs, of types ``avals`` where they are put, are had back."""
    if not any(how.elsewhere for how in saved):
        return program
    first = len(program.in_avals) - len(saved)

    def run(*operands: Any) -> list[Any]:
        return evaluate(
            program, *operands[:first], *(how.fetch(x) for how, x in zip(saved, operands[first:], strict=True))
        )

    return _jax.trace_to_jaxpr(run, [*program.in_avals[:first], *avals], program.jaxpr.debug_info)


def expose_cond(eqn: Any, policy: Policy) -> tuple[Any, Any, dict[Var, Saved]]:
    """A conditional that returns what its branches save, zeros for the branches not taken, and one that takes it."""
    branches: Sequence[ClosedJaxpr] = eqn.params["branches"]
    forms = [expose(branch, policy) for branch in branches]
    groups = [list(saved) for _, _, saved in forms]
    avals = [v.aval for group in groups for v in group]
    if not avals:
        return eqn, eqn, {}
    places = [Var(aval) for aval in avals]
    shown_branches, fed_branches, start = [], [], 0
    for branch, (shown, fed, _), group in zip(branches, forms, groups, strict=True):
        outvars, stop = branch.jaxpr.outvars, start + len(group)
        shown = with_outputs(round_saved(shown, group), [*outvars, *group])
        shown_branches.append(padded(shown, len(outvars), avals, start))
        own = slice_program(fed, fed.jaxpr.outvars, group, keep=_jax.is_for_debugging, refs=True)
        fed_branches.append(picking(own, len(branch.in_avals), avals, start, stop))
        start = stop
    shown_params = {**eqn.params, "branches": tuple(shown_branches)}
    fed_params = {**eqn.params, "branches": tuple(fed_branches)}
    shown_eqn = eqn.replace(outvars=[*eqn.outvars, *places], params=shown_params)
    fed_eqn = eqn.replace(invars=[*eqn.invars, *places], params=fed_params)
    made = [how for _, _, saved in forms for how in saved.values()]
    return shown_eqn, fed_eqn, {v: Saved(how.decision) for v, how in zip(places, made, strict=True)}


def padded(program: ClosedJaxpr, num_outs: int, avals: Sequence[Any], start: int) -> ClosedJaxpr:
    """A branch whose saved values stand at ``start`` in a row of all branches' saved values, of types ``avals``."""

    def run(*operands: Any) -> list[Any]:
        results = evaluate(program, *operands)
        own = dict(enumerate(results[num_outs:], start))
        return [*results[:num_outs], *(own[i] if i in own else _jax.zeros(aval) for i, aval in enumerate(avals))]

    return _jax.trace_to_jaxpr(run, program.in_avals, program.jaxpr.debug_info)


def picking(program: ClosedJaxpr, num_ins: int, avals: Sequence[Any], start: int, stop: int) -> ClosedJaxpr:
    """A branch that finds its saved values at ``start`` in the row of all branches'."""

    def run(*operands: Any) -> list[Any]:
        return evaluate(program, *operands[:num_ins], *operands[num_ins + start : num_ins + stop])

    return _jax.trace_to_jaxpr(run, [*program.in_avals[:num_ins], *avals], program.jaxpr.debug_info)


def round_saved(program: ClosedJaxpr, saved: Sequence[Var]) -> ClosedJaxpr:
    """Fix the precision of saved values where they are made.

    XLA may carry more digits of a value than its type has from one operation to the next; then the way forward would
    not have seen the value that the way back starts from. What a loop or a branch saves is rounded inside of it.
    """
    rounded = {v for v in saved if isinstance(v.aval, ShapedArray) and jnp.issubdtype(v.aval.dtype, jnp.inexact)}
    eqns = []
    for eqn in program.jaxpr.eqns:
        is_round = eqn.primitive in (lax.scan_p, lax.cond_p) or is_rounding(eqn)
        fresh = {} if is_round else {v: Var(v.aval) for v in eqn.outvars if v in rounded}
        eqns.append(eqn.replace(outvars=[fresh.get(v, v) for v in eqn.outvars]))
        for v, raw in fresh.items():
            params = precision_of(v.aval)
            eqns.append(
                new_jaxpr_eqn([raw], [v], lax.reduce_precision_p, params, _jax.no_effects, eqn.source_info, eqn.ctx)
            )
    return _jax.with_parts(program, eqns=eqns)
