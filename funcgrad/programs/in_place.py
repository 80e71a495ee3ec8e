"""Loops that change an array here and there, rewritten so that the array stays where it is.

The pullback of ``y[i]`` is an array of zeros but for one entry, and adding it to a carried cotangent touches every
entry of that: a loop of n steps over an array of n takes n² time. Here such sums become updates of the entries meant.

Then XLA has to do them in place, and on the CPU it copies the array whenever what reads it may run after it is written
again. Fusion makes this so: a read is repeated inside of whatever uses it, a write inside of whatever reads it next.
``lax.optimization_barrier`` is gone before fusion, but a conditional is a border that fusion does not cross. So what is
read of an array before its next write is read inside of one, together with all that uses it, and what is written waits
for that: the predicates are always true and no compiler can know them to be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, add_jaxvals_p, jit_p
from funcgrad.programs.evaluation import inline_jits
from funcgrad.programs.flow import Flow
from funcgrad.programs.loop import Loop

READS = {lax.gather_p, lax.dynamic_slice_p, lax.slice_p}
WRITES = {
    lax.scatter_p, lax.scatter_add_p, lax.scatter_sub_p, lax.scatter_mul_p, lax.scatter_min_p, lax.scatter_max_p,
    lax.dynamic_update_slice_p,
}  # fmt: skip

#: Arrays of fewer bytes are copied in less time than it takes to avoid it.
SMALL = 1024


class Link(NamedTuple):
    """A step from one version of a carried array to the next: one write, or the sum with some sparse arrays."""

    before: Var
    after: Var
    #: The equations that the step stands for, by number; the last one makes ``after``.
    eqns: tuple[int, ...]
    #: Those among them that make the sparse arrays of a sum; none for a write.
    sparse: tuple[int, ...]


def in_place(loop: Loop) -> Loop:
    """The loop with what it does to carried arrays done in place."""
    return loop._replace(body=body_in_place(loop.body, [(loop.num_fixed + i, i) for i in range(loop.num_carry)]))


def body_in_place(program: ClosedJaxpr, carries: Sequence[tuple[int, int]]) -> ClosedJaxpr:
    """A loop's body with what it does to carried arrays done in place; ``carries`` pairs their inputs and outputs."""
    large = [(i, o) for i, o in carries if is_large(program.in_avals[i])]
    if not large or program.effects:
        return program
    shapes = {program.in_avals[i].shape for i, _ in large}
    if any(eqn.primitive is jit_p and shapes & {v.aval.shape for v in eqn.outvars} for eqn in program.jaxpr.eqns):
        program = inline_jits(program)
    body = Body(program)
    links = [link for i, o in large for link in body.chain(program.jaxpr.invars[i], program.jaxpr.outvars[o])]
    if not links:
        return program
    links.sort(key=lambda link: link.eqns[-1])
    run = lambda *args: Rewriting(body, links, args).outputs  # noqa: E731
    return _jax.trace_to_jaxpr(run, program.in_avals, program.jaxpr.debug_info)


def is_large(aval: Any) -> bool:
    return _jax.is_unsharded(aval) and bool(aval.shape) and math.prod(aval.shape) * aval.dtype.itemsize >= SMALL


class Body(Flow):
    """A loop's body with the steps that carried arrays take in it."""

    def chain(self, first: Var, last: Any) -> list[Link]:
        """The steps from a carried array to what is carried on, none if there is another kind of step among them."""
        links: list[Link] = []
        at = last
        while at is not first:
            link = self.link(at)
            if link is None or self.returned.count(at) > (at is last):
                return []
            links.append(link)
            at = link.before
        for link in links:
            others = [self.eqns[k] for k in self.uses[link.before] if k not in link.eqns]
            if any(eqn.primitive not in READS or eqn.invars[0] is not link.before for eqn in others):
                return []
        return [] if first in self.returned else links

    def link(self, after: Any) -> Link | None:
        eqn = self.made_by(after)
        if eqn is None:
            return None
        k = self.maker[after]
        if eqn.primitive in WRITES and type(eqn.invars[0]) is not Literal:
            return Link(eqn.invars[0], after, (k,), ())
        if eqn.primitive is not add_jaxvals_p:
            return None
        terms, sums = self.terms(k)
        sparse = [self.maker[x] for x in terms if self.is_sparse(x)]
        dense = [x for x in terms if not self.is_sparse(x)]
        if len(dense) != 1 or type(dense[0]) is Literal:
            return None
        return Link(dense[0], after, (*sparse, *sums[::-1]), tuple(sparse))

    def is_sparse(self, x: Any) -> bool:
        """Whether ``x`` is zero but for some entries, and is needed for one sum only."""
        eqn = self.made_by(x)
        if eqn is None or not self.is_used_once(x):
            return False
        if eqn.primitive is lax.pad_p:
            dense_inside = all(low >= 0 and high >= 0 and step == 0 for low, high, step in eqn.params["padding_config"])
            return dense_inside and self.is_zero(eqn.invars[1])
        return eqn.primitive in (lax.scatter_add_p, lax.dynamic_update_slice_p) and self.is_zero(eqn.invars[0])

    def is_zero(self, x: Any) -> bool:
        if type(x) is Literal:
            return not x.val
        eqn = self.made_by(x)
        return eqn is not None and eqn.primitive is lax.broadcast_in_dim_p and self.is_zero(eqn.invars[0])


class Rewriting:
    """One run of a body with the steps ``links`` of carried arrays done in place, in their order."""

    def __init__(self, body: Body, links: Sequence[Link], args: Sequence[Any]):
        self.body = body
        program = body.program
        self.env: dict[Var, Any] = dict(zip(program.jaxpr.invars, args, strict=True))
        self.env.update(zip(program.jaxpr.constvars, program.consts, strict=True))
        self.scope = _jax.current_scope()
        #: Equations that have been run, or that a step stands for.
        self.done: set[int] = set()
        self.linked = {k for link in links for k in link.eqns}
        #: What has been read of each version of an array, by its last reader.
        self.seen: dict[Var, list[Var]] = {link.before: [] for link in links}
        self.opaque = self.smallest_input()
        for link in links:
            self.step(link)
        self.run(set(range(len(body.eqns))) - self.done)
        self.outputs = [self.value(x) for x in program.jaxpr.outvars]

    def smallest_input(self) -> Any:
        """A value that no compiler knows, None if there is none. The last inputs are elements of ``xs``."""
        inputs = [v for v in reversed(self.body.program.jaxpr.invars) if v not in self.seen and is_number(v.aval)]
        smallest = min(inputs, key=lambda v: math.prod(v.aval.shape), default=None)
        return None if smallest is None else self.env[smallest]

    def value(self, x: Any) -> Any:
        return x.val if type(x) is Literal else self.env[x]

    def run(self, eqns: set[int]) -> None:
        for k in sorted(eqns):
            eqn = self.body.eqns[k]
            outs = _jax.rebind(eqn, list(map(self.value, eqn.invars)), self.scope)
            self.env.update(zip(eqn.outvars, outs, strict=True))
        self.done |= eqns

    def step(self, link: Link) -> None:
        self.read_all()
        array = self.env[link.before]
        seen = [self.env[v] for v in self.seen[link.before]]
        for eqn in [self.body.eqns[k] for k in link.sparse or link.eqns]:
            operands = eqn.invars[:1] if eqn.primitive is lax.pad_p else eqn.invars[1:]
            self.run(self.body.ancestors(operands, self.done))
            values = list(map(self.value, operands))
            at = 0 if eqn.primitive in (lax.pad_p, lax.dynamic_update_slice_p) else 1
            values[at] = after(seen, values[at])
            with _jax.context_of(eqn, self.scope):
                array = (
                    add_sparse(array, eqn, values) if link.sparse else eqn.primitive.bind(array, *values, **eqn.params)
                )
        self.env[link.after] = array
        self.done.update(link.eqns)

    def read_all(self) -> None:
        """Run what reads arrays, and what uses what was read, as far as it depends on no step to come."""
        eqns = self.body.eqns
        blocked, block = set(self.linked - self.done), set()
        arrays = {v for v in self.seen if v in self.env}
        tainted: set[Var] = set()
        waiting: set[Var] = {v for k in blocked for v in eqns[k].outvars}
        reads: dict[Var, list[Var]] = {}
        for k, eqn in enumerate(eqns):
            if k in self.done or k in blocked:
                continue
            operands = {x for x in eqn.invars if type(x) is not Literal}
            if not operands.isdisjoint(waiting):
                waiting.update(eqn.outvars)
            elif not operands.isdisjoint(arrays) or not operands.isdisjoint(tainted):
                block.add(k)
                tainted.update(eqn.outvars)
                for array in operands & arrays:
                    reads.setdefault(array, []).extend(eqn.outvars)
        if not block:
            return
        inputs = list(dict.fromkeys(x for k in sorted(block) for x in eqns[k].invars if type(x) is not Literal))
        self.run(self.body.ancestors(inputs, self.done | block))
        inputs = [x for x in inputs if x in self.env]
        kept = {v for vs in reads.values() for v in vs}
        outs = [
            v
            for k in sorted(block)
            for v in eqns[k].outvars
            if v in kept or v in self.body.returned or not block.issuperset(self.body.uses.get(v, ()))
        ]

        def run(*values: Any) -> list[Any]:
            outside, self.env = self.env, dict(zip(inputs, values, strict=True))
            self.run(block)
            inside, self.env = self.env, outside
            return [inside[v] for v in outs]

        values = bordered(self.opaque, run, [v.aval for v in outs], [self.env[x] for x in inputs])
        self.env.update(zip(outs, values, strict=True))
        for array, vs in reads.items():
            self.seen[array] += vs


def bordered(opaque: Any, function: Callable[..., list[Any]], out_avals: Sequence[Any], operands: Sequence[Any]) -> Any:
    """``function(*operands)``, on the CPU with a border around it that fusion does not cross."""
    if opaque is None:
        return function(*operands)

    def conditional(opaque, *operands):
        return lax.cond(always(opaque), function, lambda *_: [_jax.zeros(aval) for aval in out_avals], *operands)

    plain = lambda opaque, *operands: function(*operands)  # noqa: E731
    return lax.platform_dependent(opaque, *operands, cpu=conditional, default=plain)


def after(seen: Sequence[Any], x: Any) -> Any:
    """``x``, not to be had before all of ``seen``."""
    if not seen:
        return x
    known = functools.reduce(lax.bitwise_and, map(always, seen))
    return lax.select(known, x, lax.full_like(x, 1))


def always(x: Any) -> Any:
    """True, whatever the first entry of ``x`` is."""
    x = lax.index_in_dim(lax.reshape(x, (x.size,)), 0, keepdims=False)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return lax.bitwise_or(lax.eq(x, x), lax.ne(x, x))
    x = lax.convert_element_type(x, np.int32)
    return lax.bitwise_or(lax.lt(x, np.int32(0)), lax.ge(x, np.int32(0)))


def is_number(aval: Any) -> bool:
    numbers = isinstance(aval, ShapedArray) and any(
        jnp.issubdtype(aval.dtype, kind) for kind in (jnp.number, jnp.bool_)
    )
    return numbers and math.prod(aval.shape) > 0


def add_sparse(array: Any, eqn: Any, operands: Sequence[Any]) -> Any:
    """``array`` plus what the equation ``eqn`` would make of zeros and ``operands``."""
    if eqn.primitive is lax.scatter_add_p:
        return eqn.primitive.bind(array, *operands, **eqn.params)
    update, *starts = operands
    if eqn.primitive is lax.pad_p:
        starts = [np.int32(low) for low, _, _ in eqn.params["padding_config"]]
    dims = tuple(range(array.ndim))
    return lax.scatter_add(
        array,
        lax.concatenate([lax.reshape(lax.convert_element_type(i, np.int32), (1,)) for i in starts], 0),
        update,
        lax.ScatterDimensionNumbers(dims, (), dims),
        indices_are_sorted=True,
        unique_indices=True,
        mode=lax.GatherScatterMode.CLIP,
    )
