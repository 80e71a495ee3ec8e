"""Rules of primitives that carry a program.

All of them do the same: split the program, run the forward half in the primitive's place, emit a node with what the way
back needs, and run the backward half for those cotangents that there are and that somebody wants. That is written here;
a carrier says how its own primitive is split, and run either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.split import Activity, Split
from funcgrad.engine.zero import Zero
from funcgrad.rules.rule import Rule


class Halves:
    """A carried program split, as a carrier needs it.

    ``split`` has the program's halves and ``known`` keeps what is made for the way back. ``out_active`` says which
    outputs depend on an active operand and ``out_known`` which have a value; the others are tangents. ``ct_avals`` are
    the types of the cotangents that the backward half takes: of outputs, and of what ``refs``, the active operands that
    are references, hold in the end; those of them that are ``written`` to get a new content.
    """

    def __init__(self, split: Split, out_active: Sequence[bool] | None = None, written: Iterable[int] | None = None):
        self.split = split
        self.known: dict[tuple, Any] = {}
        self.out_active = split.out_active if out_active is None else out_active
        self.out_avals, self.out_known, self.ct_avals = split.out_avals, split.out_known, split.ct_avals
        self.refs, self.written = split.refs, split.written if written is None else written
        self.all_known = all(split.out_known)


class Carrier(Rule):
    """The rule of a primitive that carries a program. Each has its own ``halves``, ``forward`` and ``backward``."""

    saved: tuple[str, ...] = ("residuals",)
    #: Whether the program is run on values only: a tangent is then an array of zeros.
    of_values = True

    def first(self, params: Any) -> int:
        """How many operands there are before those that the program takes; they have no derivative."""
        return 0

    def halves(self, tape: Any, params: Any, activity: tuple[Activity, ...]) -> Any:
        """The program of ``params`` split, for operands of this ``activity``."""
        raise NotImplementedError

    def forward(self, halves: Any, primitive: Any, primals: Sequence[Any], params: Any) -> tuple[list[Any], tuple]:
        """Run the forward half, in the current trace: the outputs that have values, and the residuals."""
        raise NotImplementedError

    def backward(
        self, node: Any, halves: Any, cts: list[Any], ct_avals: tuple, wanted: tuple[bool, ...]
    ) -> Sequence[Any]:
        """Run the backward half: a cotangent, or None, for each of the program's inputs, at least of those ``wanted``.

        ``cts`` are of the very types ``ct_avals``, None in both where one is zero.
        """
        raise NotImplementedError

    def record(self, tape, primitive, primals, tracers, params, linear):
        if self.of_values:
            primals = tape.values(primals)
        first = self.first(params)
        operands = tracers[first:]
        halves = self.halves(tape, params, tuple(map(activity_of, primals[first:], operands)))
        with set_current_trace(tape.parent):
            values, residuals = self.forward(halves, primitive, primals, params)
        return self.emit(tape, halves, primitive, operands, params, linear, values, residuals)

    def emit(self, tape, halves, primitive, operands, params, linear, outs, residuals):
        if not halves.all_known:
            rest = iter(outs)
            outs = [next(rest) if k else Zero(aval) for k, aval in zip(halves.out_known, halves.out_avals, strict=True)]
        if linear and self.of_values:
            outs = [Zero(_jax.typeof(x)) if a else x for x, a in zip(outs, halves.out_active, strict=True)]
        static = (halves, tuple([t is not None for t in operands]))
        outs = tape.emit(self, primitive, params, static, residuals, operands, outs, active=halves.out_active)
        if halves.refs:
            tape.write(operands[i] if i in halves.written else None for i in halves.refs)
        return outs

    def pullback(self, node, cts):
        halves, active = node.static
        wanted = wanted_among(node, active)
        cts, ct_avals = typed_cotangents(cts, halves.ct_avals)
        pulled = self.backward(node, halves, cts, ct_avals, wanted)
        return [ct for ct, a in zip(pulled, active, strict=True) if a]

    # For those who look inside.

    def inside(self, node: Any) -> Split | None:
        """The halves of the program that ran, None where that is not known."""
        return node.static[0].split

    def shared(self, node: Any) -> Sequence[int | None]:
        """Which operand of the primitive each input of the program is, None where it is none of them."""
        first = self.first(node.params)
        return range(first, first + len(node.static[1]))

    def kept(self, node: Any) -> Sequence[Any]:
        """The residuals of the program, among those of the node: values, or the types of those computed again."""
        return node.residuals

    def needed(self, node: Any) -> Sequence[Any]:
        """The residuals of the program, those that are computed again too."""
        return self.kept(node)


def activity_of(primal: Any, tracer: Any) -> Activity:
    """The activity of an operand, given its value and its tracer, None if it has none."""
    if tracer is None:
        return Activity.NONE
    return Activity.TANGENT if type(primal) is Zero else Activity.VALUE


def wanted_among(node: Any, active: Sequence[bool]) -> tuple[bool, ...]:
    """Of which operands the cotangents are asked for, where those that are ``active`` are the node's parents."""
    asked = iter(node.wanted or (True,) * len(node.parents))
    return tuple([a and next(asked) for a in active])


def typed_cotangents(cts: Sequence[Any], ct_avals: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
    """Cotangents in the very types a backward half expects, and those types; None where one is zero."""
    avals = tuple([None if ct is None else aval for ct, aval in zip(cts, ct_avals, strict=True)])
    return [None if ct is None else _jax.match(ct, aval) for ct, aval in zip(cts, avals, strict=True)], avals


def present(cts: Sequence[Any]) -> list[Any]:
    """The cotangents that are not zero."""
    return [ct for ct in cts if ct is not None]


def spread(results: Sequence[Any], mask: Sequence[bool]) -> list[Any]:
    """``results`` in the places that ``mask`` says, None in the others."""
    rest = iter(results)
    return [next(rest) if has else None for has in mask]


def carried(ct: Any, aval: Any) -> Any:
    """A cotangent as a loop carries it: an array of type ``aval``."""
    return _jax.zeros(aval) if ct is None else _jax.match(ct, aval)
