"""Loops that change an array here and there, rewritten so that the array stays where it is.

The pullback of ``y[i]`` is an array of zeros but for one entry, and adding it to a carried cotangent touches every
entry of that: a loop of n steps over an array of n takes n² time. Here such sums become updates of the entries meant.

Then XLA has to do them in place, and on the CPU it copies the array whenever what reads it may run after it is written
again. Fusion makes this so: a read is repeated inside of whatever uses it, a write inside of whatever reads it next.
``lax.optimization_barrier`` is gone before fusion, but a conditional is a border that fusion does not cross. So what is
read of an array before its next write is there read inside of one, together with all that uses it, and what is written
waits for that: the predicates are always true and no compiler can know them to be.

Loops of hundreds of updates are ordinary. Their equations are sorted once and put together anew, and not traced again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, add_jaxvals_p, jit_p, new_jaxpr_eqn
from funcgrad.programs.evaluation import inline_jits
from funcgrad.programs.flow import Flow, size
from funcgrad.programs.loop import Loop
from funcgrad.programs.platform import choice, zeros_of
from funcgrad.programs.thresholds import IN_PLACE_BYTES

READS = {lax.gather_p, lax.dynamic_slice_p, lax.slice_p}
WRITES = {
    lax.scatter_p, lax.scatter_add_p, lax.scatter_sub_p, lax.scatter_mul_p, lax.scatter_min_p, lax.scatter_max_p,
    lax.dynamic_update_slice_p,
}  # fmt: skip


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
    large = [(i, o) for i, o in carries if is_large(program.jaxpr.invars[i])]
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
    return Rewriting(body, links).program()


def is_large(v: Any) -> bool:
    return _jax.is_unsharded(v.aval) and bool(v.aval.shape) and is_number(v.aval) and size(v) >= IN_PLACE_BYTES


def is_number(aval: Any) -> bool:
    """Whether a type is that of numbers, of one at least."""
    numbers = isinstance(aval, ShapedArray) and any(
        jnp.issubdtype(aval.dtype, kind) for kind in (jnp.number, jnp.bool_)
    )
    return numbers and all(_jax.is_at_least(d, 1) for d in aval.shape)


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
            own = set(link.eqns)
            others = [self.eqns[k] for k in self.uses[link.before] if k not in own]
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
        dense = [x for x in terms if not self.is_sparse(x)]
        if len(dense) != 1 or type(dense[0]) is Literal:
            return None
        sparse = [self.maker[x] for x in terms if x is not dense[0]]
        return Link(dense[0], after, (*sparse, *sums[::-1]), tuple(sparse))

    def is_sparse(self, x: Any) -> bool:
        """Whether ``x`` is zero but for some entries, and is needed for one sum only."""
        eqn = self.made_by(x)
        if eqn is None or not self.is_used_once(x):
            return False
        if eqn.primitive is lax.pad_p:
            padding = eqn.params["padding_config"]
            starts = all(isinstance(low, int) and low >= 0 for low, _, _ in padding)
            whole = starts and all(_jax.is_at_least(high, 0) and step == 0 for _, high, step in padding)
            return whole and self.is_zero(eqn.invars[1])
        return eqn.primitive in (lax.scatter_add_p, lax.dynamic_update_slice_p) and self.is_zero(eqn.invars[0])

    def is_zero(self, x: Any) -> bool:
        if type(x) is Literal:
            return not x.val
        eqn = self.made_by(x)
        return eqn is not None and eqn.primitive is lax.broadcast_in_dim_p and self.is_zero(eqn.invars[0])


class Rewriting:
    """A body with the steps ``links`` of carried arrays done in place, in their order.

    Every other equation comes after as few steps as it can. Those that read an array whose next version is to come, and
    what uses what they read, as far as it waits for no further step, are the block of that place.
    """

    def __init__(self, body: Body, links: Sequence[Link]):
        self.body, self.links = body, links
        self.sparse = {k for link in links for k in link.sparse}
        #: The equations that come after so many steps, in blocks and outside of them.
        self.blocks: list[list[Any]] = [[] for _ in links]
        self.others: list[list[Any]] = [[] for _ in range(len(links) + 1)]
        #: The number of the block that makes a variable, and of those that read a version of an array.
        self.block_of: dict[Var, int] = {}
        self.readers: dict[Var, set[int]] = {link.before: set() for link in links}
        #: What is used outside of the block that makes it.
        self.leaving = set(body.returned)
        self.place(self.live())
        self.staged = Staged(body.program.jaxpr.debug_info)

    def live(self) -> list[int]:
        """The equations that the outputs depend on, in order, when sparse arrays are not made any more."""
        needed, found = set(self.body.returned), []
        for k in reversed(range(len(self.body.eqns))):
            if not needed.isdisjoint(self.body.eqns[k].outvars):
                found.append(k)
                needed.update(self.operands(k))
        return found[::-1]

    def operands(self, k: int) -> list[Var]:
        eqn = self.body.eqns[k]
        return [x for x in (entries(eqn) if k in self.sparse else eqn.invars) if type(x) is not Literal]

    def place(self, live: Sequence[int]) -> None:
        linked = {k: s for s, link in enumerate(self.links, 1) for k in link.eqns}
        #: After how many steps a variable is there.
        steps: dict[Var, int] = {}
        for k in live:
            eqn, operands = self.body.eqns[k], self.operands(k)
            s = linked.get(k) or max([steps.get(x, 0) for x in operands], default=0)
            steps.update(dict.fromkeys(eqn.outvars, s))
            read = [] if k in linked else [x for x in operands if x in self.readers]
            uses_read = k not in linked and any(self.block_of.get(x) == s for x in operands)
            block = s if (read or uses_read) and s < len(self.links) else None
            self.leaving.update(x for x in operands if self.block_of.get(x, block) != block)
            if block is not None:
                self.blocks[s].append(eqn)
                self.block_of.update(dict.fromkeys(eqn.outvars, s))
                for x in read:
                    self.readers[x].add(s)
            elif k not in linked:
                self.others[s].append(eqn)

    def program(self) -> ClosedJaxpr:
        """The body. What waits for no step and reads no array comes first, and is the same on all platforms."""
        program = self.body.program
        eqns = self.from_first_block(bordered=False)
        if any(self.blocks):
            on_cpu = self.from_first_block(bordered=True)
            made = {v for eqn in on_cpu for v in eqn.outvars}
            ins, outs = free(on_cpu), [v for v in dict.fromkeys(self.body.returned) if v in made]
            cpu, default = (self.staged.program(ins, outs, eqns) for eqns in (on_cpu, eqns))
            eqns = choice(cpu, default, ins, outs)
        return _jax.with_parts(program, eqns=[*self.others[0], *eqns])

    def from_first_block(self, *, bordered: bool) -> list[Any]:
        """The equations, with borders around blocks or without."""
        eqns: list[Any] = []
        #: A value of each block that has a border.
        witnesses: dict[int, Var] = {}
        if bordered:
            index = self.staged.call(eqns, index_of_true, [self.opaque()], like=self.body.eqns[0])
        for s, link in enumerate(self.links):
            eqns += self.others[s] if s else ()
            if self.blocks[s] and bordered:
                eqns.append(self.conditional(index, self.blocks[s]))
                numbers = [v for v in eqns[-1].outvars if is_number(v.aval)]
                witnesses |= {s: min(numbers, key=size)} if numbers else {}
            else:
                eqns += self.blocks[s]
            self.step(eqns, link, witnesses)
        return eqns + self.others[-1]

    def opaque(self) -> Var:
        """A small value that no compiler knows. The last inputs are elements of ``xs``."""
        inputs: list[Var] = [v for v in reversed(self.body.program.jaxpr.invars) if is_number(v.aval)]
        return min(inputs, key=lambda v: (v in self.readers, size(v)))

    def conditional(self, index: Var, block: list[Any]) -> Any:
        """A block as the branch with number ``index`` = 1, which is always taken."""
        ins, outs = free(block), [v for eqn in block for v in eqn.outvars if v in self.leaving]
        branches = self.staged.zeros(ins, outs), self.staged.program(ins, outs, block)
        first = block[0]
        return new_jaxpr_eqn(
            [index, *ins], outs, lax.cond_p, {"branches": branches}, _jax.no_effects, first.source_info, first.ctx
        )

    def step(self, eqns: list[Any], link: Link, witnesses: dict[int, Var]) -> None:
        """Append the equations of a step, to be done when the blocks that read the array are."""
        array, last = link.before, (link.sparse or link.eqns)[-1]
        for k in link.sparse or link.eqns:
            eqn = self.body.eqns[k]
            operands = list(entries(eqn))
            if array is link.before:
                # What comes from a block comes after it.
                known = {self.block_of[x] for x in self.operands(k) if x in self.block_of}
                seen = [witnesses[s] for s in sorted(self.readers[array] - known) if s in witnesses]
                at = 0 if eqn.primitive in (lax.pad_p, lax.dynamic_update_slice_p) else 1
                if seen:
                    operands[at] = self.staged.call(eqns, after, [operands[at], *seen], like=eqn)
            out = link.after if k == last else Var(link.after.aval)
            if link.sparse and eqn.primitive is not lax.scatter_add_p:
                self.staged.call(eqns, add_block, [array, *operands], like=eqn, out=out)
            else:
                eqns.append(eqn.replace(invars=[array, *operands], outvars=[out]))
            array = out


class Staged:
    """Programs that are traced once for each choice of types, to be taken for more than one block or step."""

    def __init__(self, info: Any):
        self.info = info
        self.known: dict[Any, ClosedJaxpr] = {}

    def trace(self, key: Any, function: Callable[..., Sequence[Any]], ins: Sequence[Any]) -> ClosedJaxpr:
        key = key, tuple([x.aval for x in ins])
        if key not in self.known:
            self.known[key] = _jax.trace_to_jaxpr(function, key[1], self.info)
        return self.known[key]

    def call(
        self, eqns: list[Any], function: Callable[..., Any], operands: Sequence[Any], *, like: Any, out: Any = None
    ) -> Var:
        """Append the equations of ``function``, which has one output, with the line and settings of ``like``."""
        jaxpr = self.trace(function, lambda *xs: [function(*xs)], operands).jaxpr
        env: dict[Any, Var] = dict(zip(jaxpr.invars, operands, strict=True))
        if out is not None:
            env[jaxpr.outvars[0]] = out
        for eqn in jaxpr.eqns:
            invars = [x if type(x) is Literal else env[x] for x in eqn.invars]
            outvars = [env.setdefault(v, Var(v.aval)) for v in eqn.outvars]
            eqns.append(eqn.replace(invars=invars, outvars=outvars, source_info=like.source_info, ctx=like.ctx))
        return env[jaxpr.outvars[0]]

    def zeros(self, ins: Sequence[Var], outs: Sequence[Var]) -> ClosedJaxpr:
        """A program from ``ins`` to zeros in the place of ``outs``."""
        avals = tuple([v.aval for v in outs])
        return self.trace(avals, lambda *_: zeros_of(avals), ins)

    def program(self, ins: Sequence[Var], outs: Sequence[Var], eqns: list[Any]) -> ClosedJaxpr:
        return _jax.with_parts(self.zeros((), ()), invars=ins, outvars=outs, eqns=eqns)


def free(eqns: Sequence[Any]) -> list[Var]:
    """The variables that equations take and do not make."""
    made = {v for eqn in eqns for v in eqn.outvars}
    return list(dict.fromkeys(x for eqn in eqns for x in eqn.invars if type(x) is not Literal and x not in made))


def entries(eqn: Any) -> Sequence[Any]:
    """What a write takes besides the array, a sparse array besides zeros: what to write, and where."""
    if eqn.primitive is lax.pad_p:
        starts = [np.int32(low) for low, _, _ in eqn.params["padding_config"]]
        return [eqn.invars[0], *(Literal(i, ShapedArray((), i.dtype)) for i in starts)]
    return list(eqn.invars[1:])


def add_block(array: Any, block: Any, *starts: Any) -> Any:
    """``array`` plus ``block``, from ``starts`` on."""
    dims = tuple(range(array.ndim))
    return lax.scatter_add(
        array,
        lax.concatenate([lax.reshape(lax.convert_element_type(i, np.int32), (1,)) for i in starts], 0),
        block,
        lax.ScatterDimensionNumbers(dims, (), dims),
        indices_are_sorted=True,
        unique_indices=True,
        mode=lax.GatherScatterMode.CLIP,
    )


def after(x: Any, *seen: Any) -> Any:
    """``x``, not to be had before all of ``seen``."""
    return lax.select(functools.reduce(lax.bitwise_and, map(always, seen)), x, lax.full_like(x, 1))


def index_of_true(x: Any) -> Any:
    return lax.convert_element_type(always(x), np.int32)


def always(x: Any) -> Any:
    """True, whatever the first entry of ``x`` is."""
    x = lax.squeeze(lax.slice(x, [0] * x.ndim, [1] * x.ndim), range(x.ndim))
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return lax.bitwise_or(lax.eq(x, x), lax.ne(x, x))
    x = lax.convert_element_type(x, np.int32)
    return lax.bitwise_or(lax.lt(x, np.int32(0)), lax.ge(x, np.int32(0)))
