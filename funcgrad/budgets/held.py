"""What a program holds in memory while it runs, as XLA will have it.

A value takes memory from the equation that makes it to the last that reads it, if it is written out at all: XLA fuses
operations on numbers, and what one other operation of that kind reads is never seen. What several read is written once.
That is all there is to this model; what XLA needs inside of an operation is not in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Literal, Var, add_jaxvals_p, custom_jvp_call_p, custom_vjp_call_p, jit_p, pvary_p
from funcgrad.budgets.costs import REDUCTIONS, programs_of
from funcgrad.budgets.segments import hashed
from funcgrad.programs.cut import ARITHMETIC, FAST, FREE
from funcgrad.programs.flow import size

#: What is done to each number by itself, or moves numbers: part of the kernel that reads it.
FUSED = FREE | ARITHMETIC | FAST | {
    add_jaxvals_p, lax.acos_p, lax.acosh_p, lax.asin_p, lax.asinh_p, lax.atan2_p, lax.atan_p, lax.atanh_p, lax.cbrt_p,
    lax.concatenate_p, lax.cos_p, lax.cosh_p, lax.dynamic_slice_p, lax.erf_inv_p, lax.erf_p, lax.erfc_p, lax.expm1_p,
    lax.log1p_p, lax.nextafter_p, lax.pad_p, lax.pow_p, lax.rem_p, lax.sin_p, lax.sinh_p, lax.tan_p,
}  # fmt: skip


#: What may be the same numbers in the same place.
VIEWS = {lax.broadcast_in_dim_p, lax.reshape_p, lax.squeeze_p, pvary_p}


class Held:
    """The bytes that the values of a program take, after each of its equations.

    ``leaving`` are outputs with a place of their own, which is not counted. ``staying`` are outputs that stay.
    ``lives`` are the numbers of the equation that makes a value and of the last that reads it.
    """

    def __init__(self, eqns: Sequence[Any], leaving: Collection[Any] = (), staying: Collection[Any] = ()):
        self.eqns = eqns
        self.source = source = sources(eqns)
        elsewhere, here = ({source.get(v, v) for v in outs if type(v) is Var} for outs in (leaving, staying))
        elsewhere.update(begun_elsewhere(eqns, elsewhere))
        self.written = written(eqns, elsewhere | here, source)
        #: By value that is written out, the number of the last equation that reads it.
        last, self.behind = last_uses(eqns, self.written, source)
        last.update((v, len(eqns)) for v in here if self.written.get(v))
        dying: dict[int, list[Var]] = {}
        for v, k in last.items():
            dying.setdefault(k, []).append(v)
        self.lives: dict[Var, tuple[int, int]] = {}
        self.during: list[int] = []
        self.after: list[int] = []
        live = 0
        alive: set[Var] = set()
        for k, eqn in enumerate(eqns):
            made = [v for v in eqn.outvars if self.written.get(v) and v not in elsewhere]
            dead = [v for v in dying.get(k, ()) if v in alive]
            new = sum(map(size, made))
            reused = written_over(eqn, dead)
            inner = 0 if is_fused(eqn) else max((Held(p.eqns, p.outvars).peak for p in programs_of(eqn)), default=0)
            self.during.append(live + max(0, new - min(new, reused)) + inner)
            for v in made:
                if v in last:
                    alive.add(v)
                    self.lives[v] = k, last[v]
                    live += size(v)
            for v in dead:
                alive.discard(v)
                live -= size(v)
            self.after.append(live)

    @property
    def peak(self) -> int:
        return max(self.during, default=0)

    def alive(self, at: int) -> list[Var]:
        """The values that take memory after equation ``at``."""
        return [v for v, (made, last) in self.lives.items() if made <= at < last]

    def behind_of(self, v: Var) -> Collection[Var]:
        """The values in memory of which one is had when it is read: itself, if it is written out."""
        v = self.source.get(v, v)
        return self.behind.get(v, (v,))


def begun_elsewhere(eqns: Sequence[Any], elsewhere: Collection[Any]) -> set[Var]:
    """What a loop begins with that carries its result in the place where that is to go."""
    found: set[Var] = set()
    for eqn in reversed(eqns):
        if eqn.primitive is lax.scan_p:
            num_consts, num_carry = _jax.scan_layout(eqn.params)
            starts = eqn.invars[num_consts : num_consts + num_carry]
            for x, out in zip(starts, eqn.outvars, strict=False):
                if type(x) is Var and (out in elsewhere or out in found):
                    found.add(x)
    return found


def written_over(eqn: Any, dead: Collection[Any]) -> int:
    """How much of what an equation reads for the last time it writes its results over."""
    if eqn.primitive is lax.scan_p:
        num_consts, num_carry = _jax.scan_layout(eqn.params)
        return sum(size(v) for v in eqn.invars[num_consts : num_consts + num_carry] if type(v) is Var and v in dead)
    return max((size(v) for v in dead), default=0) if is_fused(eqn) else 0


def is_fused(eqn: Any) -> bool:
    """Whether an operation is part of the kernel that reads what it makes."""
    if eqn.primitive in (custom_jvp_call_p, custom_vjp_call_p, jit_p, pvary_p):
        return all(is_fused(inner) for jaxpr in programs_of(eqn) for inner in jaxpr.eqns)
    return eqn.primitive in FUSED


def sources(eqns: Sequence[Any]) -> dict[Var, Var]:
    """The values that take no memory of their own, by those of which they are: another shape, or the same once more."""
    source: dict[Var, Var] = {}
    known: dict[Any, Var] = {}
    for eqn in eqns:
        if len(eqn.outvars) != 1:
            continue
        (out,) = eqn.outvars
        operands = [x if type(x) is Literal else source.get(x, x) for x in eqn.invars]
        if eqn.primitive in VIEWS and type(operands[0]) is Var and size(operands[0]) == size(out):
            source[out] = operands[0]
        elif eqn.primitive in FUSED or eqn.primitive in REDUCTIONS:
            first = known.setdefault(computation(eqn, operands), out)
            if first is not out:
                source[out] = first
    return source


def computation(eqn: Any, operands: Sequence[Any]) -> Any:
    """What two equations have in common that compute the same; for memory it does not matter which axes are new."""
    values = tuple([hashed(x.val) if type(x) is Literal else x for x in operands])
    told = () if eqn.primitive is lax.broadcast_in_dim_p else tuple([hashed(x) for x in eqn.params.values()])
    return eqn.primitive, values, told, size(eqn.outvars[0])


def written(eqns: Sequence[Any], outside: Collection[Any], source: dict[Var, Var]) -> dict[Var, bool]:
    """Whether XLA writes each value out: it does not where what reads it makes it as well."""
    readers: dict[Var, list[Any]] = {}
    for eqn in eqns:
        if eqn.outvars and eqn.outvars[0] in source:
            continue
        for x in eqn.invars:
            if type(x) is not Literal:
                readers.setdefault(source.get(x, x), []).append(eqn)
    found: dict[Var, bool] = {}
    for eqn in eqns:
        fused = is_fused(eqn)
        for v in eqn.outvars:
            reading = readers.get(v, ())
            if v in source:
                found[v] = False
            elif v in outside:
                found[v] = True
            elif not reading or eqn.primitive is lax.iota_p:
                found[v] = False
            elif not fused or any(not is_fused(r) and r.primitive not in REDUCTIONS for r in reading):
                found[v] = True
            else:
                found[v] = eqn.primitive not in FREE and len(reading) > 1
    return found


def last_uses(
    eqns: Sequence[Any], is_written: dict[Var, bool], source: dict[Var, Var]
) -> tuple[dict[Var, int], dict[Var, frozenset[Var]]]:
    """The last equation that reads each value that is written out, be it inside of another's kernel; and of which such
    values each of the others is made."""
    last: dict[Var, int] = {}
    behind: dict[Var, frozenset[Var]] = {}
    nothing: frozenset[Var] = frozenset()
    for k, eqn in enumerate(eqns):
        read: set[Var] = set()
        if eqn.outvars and eqn.outvars[0] in source:
            continue
        for x in eqn.invars:
            if type(x) is Literal:
                continue
            x = source.get(x, x)
            if is_written.get(x):
                read.add(x)
            else:
                read |= behind.get(x, nothing)
        seen = False
        for v in eqn.outvars:
            if is_written.get(v) or isinstance(v, _jax.DropVar):
                seen = True
            else:
                behind[v] = frozenset(read)
        if seen or not eqn.outvars:
            for x in read:
                last[x] = k
    return last, behind
