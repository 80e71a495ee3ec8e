"""The program of a segment that keeps what was chosen, written with ``checkpoint`` equations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Var, name_p, new_jaxpr_eqn, remat_p
from funcgrad.programs.evaluation import evaluate, renamed

#: The names of what is kept.
NAME = "kept for a budget:"


def marked(program: ClosedJaxpr, values: Sequence[Var]) -> tuple[ClosedJaxpr, list[str]]:
    """``program`` with the variables ``values`` named, and these names."""
    if not values:
        return program, []
    number = {v: k for k, v in enumerate(values)}
    eqns = []
    for eqn in program.jaxpr.eqns:
        raw = {v: Var(v.aval) for v in eqn.outvars if v in number}
        eqns.append(eqn.replace(outvars=[raw.get(v, v) for v in eqn.outvars]))
        for v, x in raw.items():
            params = {**empty_name(), "name": f"{NAME} {number[v]}"}
            eqns.append(new_jaxpr_eqn([x], [v], name_p, params, _jax.no_effects, eqn.source_info, eqn.ctx))
    return _jax.with_parts(program, eqns=eqns), [f"{NAME} {k}" for k in range(len(values))]


def checkpointed(program: ClosedJaxpr, names: Collection[str], waits: bool) -> ClosedJaxpr:
    """A program of one ``checkpoint`` equation of ``program`` that saves what has one of these names."""
    invars, outvars = [Var(v.aval) for v in program.jaxpr.invars], [Var(aval) for aval in program.out_avals]
    first = program.jaxpr.eqns[0]
    params = {
        **empty_checkpoint(),
        "jaxpr": _jax.opened(program),
        "prevent_cse": waits,
        "differentiated": False,
        "policy": saving(tuple(names)),
    }
    operands = [*program.jaxpr.constvars, *invars]
    effects = program.effects
    eqn = new_jaxpr_eqn(operands, outvars, remat_p, params, effects, first.source_info, first.ctx)
    return _jax.with_parts(program, invars=invars, outvars=outvars, eqns=[eqn], debug_info=_jax.unnamed(program))


def segment_keeping(program: ClosedJaxpr, values: Sequence[Var], keep: Sequence[str]) -> ClosedJaxpr:
    """A segment that keeps ``values`` and computes the rest again."""
    program, names = marked(program, values)
    return checkpointed(program, [*names, *keep], waits=True)


def loop_of(program: ClosedJaxpr, body: ClosedJaxpr) -> ClosedJaxpr:
    """A segment of one loop with another body that computes the same."""
    (eqn,) = program.jaxpr.eqns
    params = _jax.scan_params(eqn.params, body, *_jax.scan_layout(eqn.params))
    return _jax.with_parts(program, eqns=[eqn.replace(params=params)])


def loop_in_chunks(program: ClosedJaxpr, first: Sequence[Var], last: Sequence[Var], keep: Sequence[str]) -> ClosedJaxpr:
    """A segment of one loop in chunks of steps, which keeps what is carried at the start of each.

    Of the first half of a chunk's steps it keeps the values ``first`` too, and ``last`` of the others.
    """
    (eqn,) = program.jaxpr.eqns
    num_consts, num_carry = _jax.scan_layout(eqn.params)
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    chunks = chunks_of(length)
    steps = length // chunks
    body, names = marked(eqn.params["jaxpr"], last)
    inner = scan_of(body, num_consts, num_carry, steps, reverse, eqn.params["unroll"])
    if first != last and steps > 1:
        other, more = marked(eqn.params["jaxpr"], first)
        inner = loop_in_parts(inner, [(other, steps // 2), (body, steps - steps // 2)])
        names = max(names, more, key=len)
    inner = checkpointed(inner, [*names, *keep], waits=False)

    def run(*operands: Any) -> list[Any]:
        consts, carry, xs = operands[:num_consts], operands[num_consts:][:num_carry], operands[num_consts + num_carry :]
        stacks = [lax.reshape(x, (chunks, steps, *x.shape[1:])) for x in xs]

        def chunk(carry: Any, xs: Any) -> Any:
            outs = evaluate(inner, *consts, *carry, *xs)
            return outs[:num_carry], outs[num_carry:]

        last, ys = lax.scan(chunk, list(carry), stacks, chunks, reverse)
        return [*last, *(lax.reshape(y, (length, *y.shape[2:])) for y in ys)]

    return computed_by(run, program)


def loop_in_parts(program: ClosedJaxpr, parts: Sequence[tuple[ClosedJaxpr, int]]) -> ClosedJaxpr:
    """A segment of one loop as several, one after the other: of bodies that compute the same, and so many steps."""
    (eqn,) = program.jaxpr.eqns
    num_consts, num_carry = _jax.scan_layout(eqn.params)
    length, reverse = eqn.params["length"], eqn.params["reverse"]

    def run(*operands: Any) -> list[Any]:
        consts, carry, xs = operands[:num_consts], operands[num_consts:][:num_carry], operands[num_consts + num_carry :]
        stacks, done = [], 0
        for body, steps in parts:
            first = length - done - steps if reverse else done
            rows = [lax.slice_in_dim(x, first, first + steps) for x in xs]
            params = _jax.scan_params({**eqn.params, "length": steps}, body, num_consts, num_carry)
            outs = lax.scan_p.bind(*consts, *carry, *rows, **params)
            carry, done = tuple(outs[:num_carry]), done + steps
            stacks.append(outs[num_carry:])
        ys = zip(*(stacks[::-1] if reverse else stacks), strict=True)
        return [*carry, *(lax.concatenate(y, 0) for y in ys)]

    return computed_by(run, program)


def computed_by(run: Callable[..., list[Any]], program: ClosedJaxpr) -> ClosedJaxpr:
    """A segment of one equation, of whose operands ``run`` computes the same."""
    (eqn,) = program.jaxpr.eqns
    whole = _jax.trace_to_jaxpr(run, [x.aval for x in eqn.invars], _jax.unnamed(program))
    env: dict[Any, Any] = dict(zip(whole.jaxpr.invars, eqn.invars, strict=True))
    env.update(zip(whole.jaxpr.outvars, eqn.outvars, strict=True))
    jaxpr = program.jaxpr.replace(
        eqns=[renamed(each, env) for each in whole.jaxpr.eqns],
        constvars=[*program.jaxpr.constvars, *whole.jaxpr.constvars],
    )
    computed: ClosedJaxpr = program.replace(jaxpr=jaxpr, consts=[*program.consts, *whole.consts])
    return computed


def scan_of(body: ClosedJaxpr, num_consts: int, num_carry: int, length: int, reverse: bool, unroll: Any) -> ClosedJaxpr:
    def run(*operands: Any) -> list[Any]:
        params = {**_jax.empty_scan(), "length": length, "reverse": reverse, "unroll": unroll}
        return list(lax.scan_p.bind(*operands, **_jax.scan_params(params, body, num_consts, num_carry)))

    first = num_consts + num_carry
    avals = [*body.in_avals[:first], *(_jax.stacked_aval(length, aval) for aval in body.in_avals[first:])]
    return _jax.trace_to_jaxpr(run, avals, _jax.unnamed(body))


def chunks_of(length: int) -> int:
    """The divisor of a length that is nearest to its square root, 1 where that is none."""
    divisors = [d for d in range(2, length // 2 + 1) if length % d == 0]
    return min(divisors, key=lambda d: abs(math.log(d * d / length)), default=1)


@functools.lru_cache(maxsize=256)
def saving(names: tuple[str, ...]) -> Callable[..., Any]:
    """The policy that saves what has these names: one and the same for the same names."""
    return jax.checkpoint_policies.save_only_these_names(*names)


@functools.cache
def empty_checkpoint() -> dict[str, Any]:
    """The parameters of some checkpoint equation."""
    params: dict[str, Any] = jax.make_jaxpr(jax.checkpoint(lambda x: x))(0.0).eqns[0].params
    return params


@functools.cache
def empty_name() -> dict[str, Any]:
    """The parameters of some equation that names a value."""
    params: dict[str, Any] = jax.make_jaxpr(lambda x: checkpoint_name(x, ""))(0.0).eqns[0].params
    return params
