"""A program that is told how much memory its gradient may hold.

What is chosen is, for each segment, what it keeps. The last segments come first on the way back, and what they keep is
gone when the earlier ones have their turn: so a number of last segments keep more than the first ones do. All such
choices are weighed; those of them that no other beats in memory and in operations both are the curve that a budget is
looked up in. With more of a budget a point further along it is taken: never more operations, and never less memory for
fewer.

A planned program is a program: its segments are ``checkpoint`` equations with policies, which every transform knows.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Var
from funcgrad.budgets.costs import equations_inside, flops, programs_of
from funcgrad.budgets.held import VIEWS
from funcgrad.budgets.marks import chunks_of, loop_in_chunks, loop_of
from funcgrad.budgets.options import Choices, Option, is_repeatable, rates_of, undominated
from funcgrad.budgets.segments import Segment, boundaries, segments_of
from funcgrad.engine.tape import is_differentiable
from funcgrad.programs.evaluation import inline_jits, renamed
from funcgrad.programs.flow import size
from funcgrad.programs.thresholds import OPEN
from funcgrad.units import in_units

#: A loop has one choice for all its steps, so there are to be some between keeping little and keeping much.
PARTS = (1 / 4, 1 / 2, 3 / 4)

#: How many points of the curve of a loop's body are looked at.
MOST_OPTIONS = 8


#: Two choices for a loop in chunks that are further apart, as a part of what keeping everything takes, are mixed: one
#: is for half of the steps of each chunk, the other for the rest.
WIDEST_GAP = 1 / 8


class Point(NamedTuple):
    """A choice for each segment: the most bytes held at a time, the operations done again, and the options."""

    held: int
    again: float
    chosen: tuple[Option, ...]


class Plan:
    """A program in segments, and the curve of what can be had: points of falling memory and rising operations."""

    def __init__(
        self,
        program: ClosedJaxpr,
        keep: Sequence[str] = (),
        collectives: bool = False,
        copies: int = 1,
        is_active: Sequence[bool] | None = None,
    ):
        self.program, self.copies = inline_jits(program), copies
        eqns = self.program.jaxpr.eqns
        rates, parts = rates_of(self.program), PARTS if copies > 1 else ()
        kinds = [kind_of(eqn, collectives) for eqn in eqns]
        # What is done to a reference is one story.
        has_refs = any(_jax.is_ref(v.aval) for eqn in eqns for v in (*eqn.invars, *eqn.outvars))
        self.has_loops = Kind.LOOP in kinds
        if has_refs:
            kinds, starts = [Kind.FIXED], [0]
        else:
            starts = boundaries(self.program, [kind is not Kind.PLAIN for kind in kinds], copies)
        self.segments = segments_of(self.program, starts)
        inputs = {*self.program.jaxpr.constvars, *self.program.jaxpr.invars}
        for eqn in eqns:
            if (
                eqn.primitive in VIEWS
                and type(eqn.invars[0]) is Var
                and eqn.invars[0] in inputs
                and size(eqn.invars[0]) == size(eqn.outvars[0])
            ):
                inputs.update(eqn.outvars)
        inactive = [v for v, a in zip(self.program.jaxpr.invars, is_active or (), strict=False) if not a]
        active = {v for v in inputs if is_differentiable(v.aval)}.difference(inactive)
        found: dict[Any, list[Option]] = {}
        self.options: list[list[Option]] = []
        for start, segment in zip(starts, self.segments, strict=True):
            is_active = [v in active for v in segment.invars]
            if any(is_active):
                active.update(v for v in segment.outvars if is_differentiable(v.aval))
            is_input = [v in inputs for v in segment.invars]
            key = segment.key, tuple(is_active), tuple(is_input)
            if key not in found:
                found[key] = options_of(segment, kinds[start], is_active, is_input, rates, keep, parts)
            self.options.append(found[key])
        self._weigh(inputs)
        self.forward_flops = sum(map(flops, eqns))

    def _weigh(self, inputs: set[Var]) -> None:
        """What stands between the segments, whatever is chosen in them."""
        handed: set[Var] = set()
        reader = {v: i for i, s in enumerate(self.segments) for v in s.invars}
        #: By segment: what it and those before it were handed, and the cotangents of what they hand on, in bytes.
        self.between: list[int] = []
        self.cotangents: list[int] = []
        made: set[Var] = set()
        for i, segment in enumerate(self.segments):
            handed.update(v for v in segment.invars if v not in inputs)
            made.update(v for v in segment.outvars if is_differentiable(v.aval))
            self.between.append(sum(map(size, handed)))
            self.cotangents.append(sum(size(v) for v in made if reader.get(v, -1) > i))

    def held(self, chosen: Sequence[Option]) -> int:
        """The most bytes that are held at a time.

        Of a loop's body everything is kept for all steps, and one has its turn.
        """
        if self.copies > 1 and chosen:
            kept = sum(option.kept for option in chosen) + self.between[-1]
            return self.copies * kept + max(o.held + c for o, c in zip(chosen, self.cotangents, strict=True))
        most = kept = 0
        for option, between, cts in zip(chosen, self.between, self.cotangents, strict=True):
            kept += option.kept
            most = max(most, kept + between + cts + option.held)
        return most

    @functools.cached_property
    def curve(self) -> list[Point]:
        ranks = max(map(len, self.options), default=1)
        found = []
        for low in range(ranks):
            for high in range(low, ranks):
                for last in range(len(self.segments) + 1) if high > low else (0,):
                    first = len(self.segments) - last
                    picked = [self._ranked(i, low if i < first else high, ranks) for i in range(len(self.segments))]
                    found.append(Point(self.held(picked), sum(o.again for o in picked), tuple(picked)))
        found.sort(key=lambda point: (point.again, point.held))
        whole = tuple([options[-1] for options in self.options])
        best = [Point(self.held(whole), 0.0, whole)]
        for point in found:
            if point.held < best[-1].held:
                best.append(point)
        return best

    def values(self, point: Point) -> tuple[Var, ...]:
        """What is kept of a program by name, where nothing else is."""
        found: list[Var] = []
        for segment, options, option in zip(self.segments, self.options, point.chosen, strict=True):
            # The one nearest to keeping everything that computes something again.
            cut = option if option.program is not None else next(iter(options[-2::-1]), option)
            found += segment.own(cut.values or ())
        return tuple(found)

    def _ranked(self, segment: int, rank: int, ranks: int) -> Option:
        options = self.options[segment]
        return options[max(0, rank - (ranks - len(options)))]

    def within(self, budget: float) -> Point:
        """The point of fewest operations that holds no more than ``budget`` bytes."""
        for point in self.curve:
            if point.held <= budget:
                return point
        least = self.curve[-1]
        raise ValueError(
            f"fg.checkpoint(memory=...): the gradient cannot be had in {in_units(budget)}; the least is "
            f"{in_units(least.held)}, of {in_units(self.curve[0].held)} that it holds when nothing is computed again. "
            f"{self.holding(least)}"
        )

    def holding(self, point: Point) -> str:
        """What holds the most where the most is held."""
        totals, kept = [], 0
        for option, between, cts in zip(point.chosen, self.between, self.cotangents, strict=True):
            kept += option.kept
            totals.append(kept + between + cts + option.held)
        at = max(range(len(totals)), key=totals.__getitem__)
        option, eqns = point.chosen[at], self.segments[at].eqns
        largest = max((v for eqn in eqns for v in eqn.outvars), key=size)
        eqn = next(eqn for eqn in eqns if largest in eqn.outvars)
        line = _jax.user_line(eqn.source_info)
        where = f" at {line}" if line else ""
        return (
            f"It is held by the {len(eqns)} operations around {eqn.primitive}{where}: {in_units(option.held)} while "
            f"they are differentiated, {in_units(totals[at] - option.held)} kept for them and for what comes before."
        )

    def planned(self, point: Point) -> ClosedJaxpr:
        """The program of the same outputs that does as ``point`` says."""
        eqns: list[Any] = []
        constvars, consts = list(self.program.jaxpr.constvars), list(self.program.consts)
        made: set[ClosedJaxpr] = set()
        for segment, option in zip(self.segments, point.chosen, strict=True):
            if option.program is None:
                eqns += segment.eqns
                continue
            part = option.program.jaxpr
            if option.program not in made:
                made.add(option.program)
                constvars += part.constvars
                consts += option.program.consts
            env: dict[Any, Any] = dict(
                zip((*part.invars, *part.outvars), (*segment.invars, *segment.outvars), strict=True)
            )
            eqns += [renamed(eqn, env) for eqn in part.eqns]
        jaxpr = self.program.jaxpr.replace(eqns=eqns, constvars=constvars)
        planned: ClosedJaxpr = self.program.replace(jaxpr=jaxpr, consts=consts)
        return planned


class Kind(enum.Enum):
    """What may be done with an equation."""

    PLAIN = enum.auto()  #: it is computed again, or not, with others
    LOOP = enum.auto()  #: a segment of its own, in steps
    FIXED = enum.auto()  #: a segment of its own, not to be run again


def kind_of(eqn: Any, collectives: bool) -> Kind:
    if not is_repeatable(eqn) or (exchanges(eqn) and not collectives):
        return Kind.FIXED
    return Kind.LOOP if eqn.primitive is lax.scan_p else Kind.PLAIN


def exchanges(eqn: Any) -> bool:
    """Whether devices wait for each other in an equation."""
    own = eqn.params.get("axis_name") is not None or any(isinstance(a, str) for a in named_axes(eqn))
    return own or any(exchanges(inner) for jaxpr in programs_of(eqn) for inner in equations_inside(jaxpr))


def named_axes(eqn: Any) -> Sequence[Any]:
    axes = eqn.params.get("axes")
    return axes if isinstance(axes, tuple) else ()


def options_of(
    segment: Segment,
    kind: Kind,
    is_active: Sequence[bool],
    is_input: Sequence[bool],
    rates: Sequence[float],
    keep: Sequence[str],
    parts: Sequence[float],
) -> list[Option]:
    """The options of a segment, by falling number of operations done again."""
    if not any(is_active):
        return [Option(0, 0, 0.0)]
    if kind is Kind.PLAIN:
        return Choices(segment.program, is_active, is_input, rates, keep, parts).options
    choices = Choices(segment.program, is_active, is_input, (), keep)
    if kind is Kind.FIXED:
        return [choices.whole]
    (eqn,) = segment.eqns
    return loop_options(segment, eqn, choices, is_active, is_input, keep)


def loop_options(
    segment: Segment, eqn: Any, plain: Choices, is_active: Sequence[bool], is_input: Sequence[bool], keep: Sequence[str]
) -> list[Option]:
    """The options of a loop, ``plain`` being those of nothing computed again.

    Its body is a program with a plan of its own, for as many copies as there are steps.
    """
    length = int(_jax.evaluated(eqn.params["length"], OPEN))
    inner = Plan(eqn.params["jaxpr"], keep, collectives=True, copies=length)
    curve = inner.curve
    found = []

    def add(program: ClosedJaxpr) -> Option:
        choices = Choices(program, is_active, is_input, (), keep)
        found.append(choices.whole._replace(again=max(0.0, choices.flops - plain.flops), program=program))
        return found[-1]

    thinned = curve[:: max(1, len(curve) // MOST_OPTIONS)]
    for point in thinned:
        add(loop_of(segment.program, inner.planned(point)))
    if chunks_of(length) > 1 and not inner.has_loops:
        flat = loop_of(segment.program, inner.program)
        values = list(dict.fromkeys(map(inner.values, thinned)))
        chunked = [add(loop_in_chunks(flat, each, each, keep)) for each in values]
        whole = plain.whole.kept + plain.whole.held
        for (a, more), (b, less) in itertools.pairwise(zip(values, chunked, strict=True)):
            if more.kept + more.held - less.kept - less.held > WIDEST_GAP * whole:
                add(loop_in_chunks(flat, b, a, keep))
    return undominated([*found, plain.whole])
