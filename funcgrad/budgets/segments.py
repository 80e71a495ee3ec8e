"""Where a program is cut into segments, each to be computed again by itself (Chen et al. 2016).

Between two segments stands what the one hands to the other, and stays there until the way back has come by. A program
is cut where that is little, into segments none of which is heavier than so much: the cuts that hand on the fewest bytes
in all are a shortest path. How heavy is left open; that which makes the bytes handed on and the heaviest segment least
together is the balance between them, which for a chain of equal steps is the square root of their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.programs.cut import FREE
from funcgrad.programs.flow import size


def boundaries(program: ClosedJaxpr, is_alone: Sequence[bool], copies: int) -> list[int]:
    """The numbers of the equations that segments begin with; those that are ``is_alone`` are segments of their own.

    Of what is handed on there are so many ``copies`` in the end, of what is computed again one at a time.
    """
    eqns = program.jaxpr.eqns
    if not eqns:
        return []
    crossing = bytes_between(program)
    weights = [0 if eqn.primitive in FREE else sum(map(size, eqn.outvars)) for eqn in eqns]
    total = sum(w for w, alone in zip(weights, is_alone, strict=True) if not alone)
    found: list[tuple[int, list[int]]] = []
    for k in range(8):
        starts = lightest(crossing, weights, is_alone, total // 2**k)
        ends = [*starts[1:], len(eqns)]
        heaviest = max((sum(weights[a:b]) for a, b in zip(starts, ends, strict=True) if not is_alone[a]), default=0)
        found.append((copies * sum(crossing[a] for a in starts) + heaviest, starts))
    return min(found, key=lambda each: each[0])[1]


def bytes_between(program: ClosedJaxpr) -> list[int]:
    """By the number of an equation, the bytes made before it that it or a later one reads."""
    eqns = program.jaxpr.eqns
    maker: dict[Var, int] = {}
    last: dict[Var, int] = {v: len(program.jaxpr.eqns) for v in program.jaxpr.outvars if type(v) is Var}
    for k, eqn in enumerate(eqns):
        maker.update((v, k) for v in eqn.outvars)
        for x in eqn.invars:
            if type(x) is not Literal:
                last[x] = max(last.get(x, k), k)
    change = [0] * (len(eqns) + 2)
    for v, k in maker.items():
        if v in last:
            change[k + 1] += size(v)
            change[last[v] + 1] -= size(v)
    crossing, now = [], 0
    for k in range(len(eqns) + 1):
        now += change[k]
        crossing.append(now)
    return crossing


def lightest(crossing: Sequence[int], weights: Sequence[int], is_alone: Sequence[bool], most: int) -> list[int]:
    """The starts of segments, none of several equations heavier than ``most``, that hand on the fewest bytes."""
    n = len(weights)
    best: list[float] = [0.0] * (n + 1)
    before = [0] * (n + 1)
    # Where a segment may begin that ends here, the best first; of those that are equal the first makes fewer segments.
    open_starts: deque[int] = deque()
    first, weight = 0, 0
    for end in range(1, n + 1):
        last = end - 1
        if is_alone[last] or (last > 0 and is_alone[last - 1]):
            open_starts.clear()
            first, weight = last, 0
        weight += weights[last]
        while first < last and weight > most:
            weight -= weights[first]
            first += 1
        while open_starts and best[open_starts[-1]] > best[last]:
            open_starts.pop()
        open_starts.append(last)
        while open_starts[0] < first:
            open_starts.popleft()
        before[end] = open_starts[0]
        best[end] = best[before[end]] + (crossing[end] if end < n else 0)
    starts, at = [], n
    while at:
        at = before[at]
        starts.append(at)
    return starts[::-1]


class Segment:
    """Some equations of a program, as a program of what they read; equal ones are of one and the same program.

    ``invars`` and ``outvars`` are variables of the whole program. ``number`` has the variables of ``program``, by those
    of the whole.
    """

    def __init__(self, eqns: Sequence[Any], invars: list[Var], outvars: list[Var], like: ClosedJaxpr):
        self.eqns, self.invars, self.outvars = eqns, invars, outvars
        parts = {"invars": list(invars), "outvars": list(outvars), "eqns": list(eqns)}
        effects = _jax.program_effects([], **parts)
        jaxpr = like.jaxpr.replace(constvars=[], effects=effects, debug_info=_jax.unnamed(like), **parts)
        self.program: ClosedJaxpr = like.replace(jaxpr=jaxpr, consts=[])
        self.key = structure(eqns, invars, outvars)

    def own(self, values: Sequence[Var]) -> list[Var]:
        """The variables of this segment for those of its program."""
        of = {
            v: own
            for eqn, mine in zip(self.program.jaxpr.eqns, self.eqns, strict=True)
            for v, own in zip(eqn.outvars, mine.outvars, strict=True)
        }
        return [of[v] for v in values]


def segments_of(program: ClosedJaxpr, starts: Sequence[int]) -> list[Segment]:
    eqns = program.jaxpr.eqns
    ends = [*starts[1:], len(eqns)] if starts else []
    owner = {v: i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) for eqn in eqns[a:b] for v in eqn.outvars}
    read_later: set[Var] = {v for v in program.jaxpr.outvars if type(v) is Var}
    parts: list[tuple[Sequence[Any], list[Var], list[Var]]] = []
    for i in reversed(range(len(starts))):
        own = eqns[starts[i] : ends[i]]
        read = dict.fromkeys(x for eqn in own for x in eqn.invars if type(x) is not Literal and owner.get(x) != i)
        outvars = [v for eqn in own for v in eqn.outvars if v in read_later]
        read_later.update(read)
        parts.append((own, list(read), outvars))
    made: dict[Any, Segment] = {}
    found = []
    for own, invars, outvars in reversed(parts):
        segment = Segment(own, invars, outvars, program)
        segment.program = made.setdefault(segment.key, segment).program
        found.append(segment)
    return found


def structure(eqns: Sequence[Any], invars: Sequence[Var], outvars: Sequence[Var]) -> Any:
    """What two segments have in common that compute the same."""
    number: dict[Var, int] = {v: i for i, v in enumerate(invars)}
    rows = []
    for eqn in eqns:
        atoms = tuple([(literal(x) if type(x) is Literal else number[x]) for x in eqn.invars])
        for v in eqn.outvars:
            number[v] = len(number)
        params = tuple([(name, hashed(x)) for name, x in sorted(eqn.params.items())])
        rows.append((eqn.primitive, atoms, params, tuple([v.aval for v in eqn.outvars]), hashed(eqn.ctx)))
    return tuple(rows), tuple([v.aval for v in invars]), tuple([number[v] for v in outvars])


def literal(x: Any) -> Any:
    return "literal", hashed(x.val), x.aval


def hashed(x: Any) -> Any:
    """Something that is equal where ``x`` is, and has a hash: ``x`` where it has one."""
    x = x.item() if getattr(x, "shape", None) == () and hasattr(x, "item") else x
    try:
        hash(x)
    except TypeError:
        return id(x)
    return type(x), x
