"""Watching a backward pass: every node of a recording as it is pulled back, those inside calls and loops too.

Watching needs no second engine. A rule table whose rules are wrapped records the same nodes, with a note beside each of
what its operands were. On the way back ``Watch.sweep`` takes the place of ``Recording.pull``: it shows each node, with
what came in and what went out, to an observer. Where a node stands for a program (``jit``, ``cond``, ``checkpoint``),
the recording of that program is swept in the place of its compiled half; in a loop the cotangents are measured inside
the loop, and the measures of all iterations are stacked. So a measure has to be a function that JAX can trace.

A node is known by its path: its number in the recording, after the numbers of those it is inside of.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.core import AbstractValue

from funcgrad import _jax
from funcgrad.engine.recording import Recording, accumulate
from funcgrad.engine.split import Split, typed_cotangents
from funcgrad.engine.tape import Node, typeof_or_zero
from funcgrad.inspect.known_length import as_scan
from funcgrad.programs.flow import evaluate
from funcgrad.rules.control.cond import Cond
from funcgrad.rules.control.jit import Inside, Jit
from funcgrad.rules.control.loop import While
from funcgrad.rules.control.remat import Remat
from funcgrad.rules.control.scan import Scan, ScanHalves, carried
from funcgrad.rules.rule import Rule, Wrapped, bare
from funcgrad.rules.table import RuleTable

Path = tuple[int, ...]

SCAN = Scan()


class Operand(NamedTuple):
    """The type of a value and its slot on the tape, None if it has none."""

    aval: Any
    slot: int | None


class Observation(NamedTuple):
    """The measures of the cotangents that came in to a node and of those that went out of it."""

    incoming: list[Any]
    outgoing: list[Any]


class Note(NamedTuple):
    """What is worth knowing of an operation besides its node: the primitive in the program, which need not be the one
    that was recorded, all operands, and the types of what came of it."""

    primitive: Any
    operands: Sequence[Operand]
    outs: Sequence[Any]


def noted(node: Node) -> Note:
    """What is noted of a node; of one that no rule of the table has recorded, what can be told from the node."""
    operands = [Operand(aval, slot) for aval, slot in zip(node.avals, node.parents, strict=True)]
    return node.note or Note(node.primitive, operands, [])


def take_notes(rule, tape, primitive, primals, tracers, params, linear):
    first = len(tape.nodes)
    rule, recorded, primals, tracers, params = resolved(rule, tape, primitive, primals, tracers, params, linear)
    operands = [
        Operand(typeof_or_zero(x), None if t is None else t.slot) for x, t in zip(primals, tracers, strict=True)
    ]
    outs = rule.record(tape, recorded, primals, tracers, params, linear)
    nodes = tape.nodes[first:]
    if len(nodes) == 1 and nodes[0].note is None:
        results = [tape.strip(x)[0] for x in (outs if primitive.multiple_results else [outs])]
        nodes[0].note = Note(primitive, operands, list(map(typeof_or_zero, results)))
    return outs


def resolved(rule, tape, primitive, primals, tracers, params, linear) -> tuple[Rule, Any, Any, Any, Any]:
    """What is recorded in the place of an operation: of a ``while`` loop a ``scan`` of as many steps."""
    scan = as_scan(tape, primals, tracers, params) if isinstance(rule, While) and not linear else None
    return (rule, primitive, primals, tracers, params) if scan is None else (SCAN, lax.scan_p, *scan)


def noting(rule: Rule) -> Rule:
    return Wrapped(rule, record=take_notes)


def opened(rules: RuleTable) -> RuleTable:
    """``rules``, taking notes of what they record."""
    return rules.derived(_opened)


def _opened(rules: RuleTable) -> RuleTable:
    return rules.map(noting, keeps_source=True)


def every(node: Node) -> bool:
    return True


class Watch:
    """An observer of a sweep.

    Each cotangent that comes in to a node or goes out of it is measured: ``measure`` maps an array to what is to be
    known of it. ``see(path, node, observation)`` is given the measures of both, None for a cotangent that is None; a
    node is seen after those inside it. Only the nodes that it ``wants`` are measured, and only those are opened that
    have some of them inside.
    """

    def __init__(
        self, measure: Callable, see: Callable[[Path, Node, Observation], None], wants: Callable[[Node], bool] = every
    ):
        self.measure, self.see, self.wants = measure, see, wants
        #: Measures of arrays that went out of a node, by id: most come in to another.
        self.known: dict[int, tuple[weakref.ref, Any]] = {}

    def observe(self, cts: Sequence[Any], pulled: Sequence[Any]) -> Observation:
        incoming = [None if x is None else self.recall(x) for x in cts]
        return Observation(incoming, [None if x is None else self.remember(x) for x in pulled])

    def recall(self, x: Any) -> Any:
        known = self.known.pop(id(x), None)
        return self.measure(x) if known is None or known[0]() is not x else known[1]

    def remember(self, x: Any) -> Any:
        measured = self.measure(x)
        self.known[id(x)] = weakref.ref(x), measured
        return measured

    def sweep(self, recording: Recording, seeds: Iterable[tuple[int | None, Any]], path: Path = ()) -> list[Any]:
        """``recording.pull(seeds)``, watched."""
        nodes = [
            node.with_rule(Wrapped(node.rule, pull=functools.partial(self.pull, node, (*path, i))))
            for i, node in enumerate(recording.nodes)
        ]
        return Recording(nodes, recording.slots, recording.scope).pull(seeds)

    def inside(self, path: Path) -> Callable:
        return functools.partial(self.sweep, path=path)

    def pull(self, node: Node, path: Path, rule: Any, _: Node, cts: Sequence[Any]) -> Sequence[Any]:
        opening = opening_of(node)
        if opening is None or not any(self.wants(inner) for _, inner in inside(node)):
            pulled = rule.pullback(node, cts)
        else:
            pulled = opening.pull(node, cts, self, path)
        if self.wants(node):
            self.see(path, node, self.observe(cts, pulled))
        return pulled


# How the programs in nodes are opened.


class Opening:
    """How the node of a rule is opened: its halves, and its pullback, watched.

    ``shared`` says which operand of the node each input of the program inside is, None where it is none of them.
    """

    def halves(self, node: Node) -> Split:
        raise NotImplementedError

    def shared(self, node: Node) -> Sequence[int | None]:
        return range(len(self.halves(node).in_avals))

    def kept(self, node: Node) -> Sequence[Any]:
        """The residuals of the program inside, among those of the node."""
        return node.residuals

    def needed(self, node: Node) -> Sequence[Any]:
        """The residuals of the program inside, those computed again too."""
        return self.kept(node)

    def pull(self, node: Node, cts: Sequence[Any], watch: Watch, path: Path) -> Sequence[Any]:
        halves = self.halves(node)
        cts, _ = typed_cotangents(cts, halves.ct_avals)
        return halves.pull(self.needed(node), cts, watch.inside(path))

    def outline(self, node: Node) -> Recording:
        """What is inside, to look at."""
        return self.halves(node).outline(self.kept(node))


class IntoJit(Opening):
    def halves(self, node):
        return node.static


class IntoRemat(Opening):
    def halves(self, node):
        return node.static.split

    def kept(self, node):
        return node.static.again.out_avals

    def needed(self, node):
        halves, count = node.static, len(node.static.used_inputs)
        # So that a compiler does not take what is computed again for what was computed before.
        inputs = lax.optimization_barrier(list(node.residuals[:count]))
        kept = [fetch(x) for fetch, x in zip(halves.fetch, node.residuals[count:], strict=True)]
        return evaluate(halves.again, *inputs, *(kept[k] for k, _ in halves.given))


class IntoCond(Opening):
    """The branch that was taken, where that is known."""

    def branch(self, node) -> int | None:
        index = node.residuals[0]
        index = None if isinstance(index, AbstractValue) else _jax.to_concrete_value(index)
        return None if index is None or np.shape(index) else min(max(int(index), 0), len(node.static.splits) - 1)

    def halves(self, node):
        return node.static.splits[self.branch(node)]

    def shared(self, node):
        return range(1, 1 + len(self.halves(node).in_avals))

    def kept(self, node):
        return [node.residuals[1 + k] for k in node.static.places[self.branch(node)]]


class IntoScan(Opening):
    def halves(self, node):
        return node.static[0].split

    def shared(self, node):
        halves = node.static[0]
        return [i if i < halves.num_consts else None for i in range(len(halves.split.in_avals))]

    def pull(self, node, cts, watch, path):
        halves, active = node.static
        cts, ct_avals = typed_cotangents(cts, halves.split.ct_avals)
        backward = watched_scan(
            halves, ct_avals, node.params["length"], node.params["reverse"], watch.measure, watch.wants
        )
        pulled, observations = backward(node.residuals, cts)
        nodes = dict(inside(node))
        for at, observation in observations:
            watch.see((*path, *at), nodes[at], observation)
        operands = [i for i, a in enumerate(halves.active) if a]
        return [ct for i, ct in zip(operands, pulled, strict=True) if active[i]]


OPENINGS: dict[type, Opening] = {
    Jit: IntoJit(),
    Inside: IntoJit(),
    Remat: IntoRemat(),
    Cond: IntoCond(),
    Scan: IntoScan(),
}


def opening_of(node: Node) -> Opening | None:
    """How a node is opened, None if there is nothing inside, or nothing that can be looked into."""
    opening = OPENINGS.get(type(bare(node.rule)))
    if opening is None or (isinstance(opening, IntoCond) and opening.branch(node) is None):
        return None
    return None if opening.halves(node).refs else opening


def inside(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """The nodes inside of a node, at any depth, with their paths from it."""
    opening = opening_of(node)
    for i, inner in enumerate(opening.outline(node).nodes if opening else ()):
        yield (*path, i), inner
        yield from inside(inner, (*path, i))


class WatchedScan:
    """The way back through a loop, with an observer in it."""

    def __init__(
        self, halves: ScanHalves, ct_avals: tuple, length: int, reverse: bool, measure: Callable, wants: Callable
    ):
        self.halves, self.length, self.reverse, self.measure, self.wants = halves, length, reverse, measure, wants
        self.ct_avals = ct_avals
        self.has_ct: list[bool] = []
        self.paths: list[Path] = []
        self.run = jax.jit(self._run)

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any]) -> tuple[list[Any], list[tuple[Path, Any]]]:
        pulled, observations = self.run(tuple(residuals), list(cts))
        pulled = [ct if has else None for ct, has in zip(pulled, self.has_ct, strict=True)]
        return pulled, list(zip(self.paths, observations, strict=True))

    def _run(self, residuals, cts):
        halves = self.halves
        avals = halves.split.ct_avals
        consts = [_jax.ct_type(halves.body.in_avals[i]) for i in range(halves.num_consts) if halves.active[i]]
        carry_avals = [avals[i] for i in halves.carry_cts]
        first, last = len(consts), len(consts) + len(carry_avals)
        stacks = [x for x, stacked in zip(residuals, halves.is_stacked, strict=True) if stacked]
        fixed = [x for x, stacked in zip(residuals, halves.is_stacked, strict=True) if not stacked]

        def step(state, elements):
            sums, carry = state
            rows, ys = elements
            row, constant = iter(rows), iter(fixed)
            kept = [next(row) if stacked else next(constant) for stacked in halves.is_stacked]
            step_cts: list[Any] = [None] * len(avals)
            for i, ct in (*zip(halves.carry_cts, carry, strict=True), *ys.items()):
                step_cts[i] = ct
            seen: dict[Path, Any] = {}
            watch = Watch(self.measure, lambda path, node, observation: seen.update({path: observation}), self.wants)
            pulled = halves.split.pull(kept, step_cts, watch.sweep)
            self.paths = list(seen)
            self.has_ct = [ct is not None or first <= i < last for i, ct in enumerate(pulled)]
            sums = [accumulate(s, ct) for s, ct in zip(sums, pulled[:first], strict=True)]
            carry = [carried(ct, aval) for ct, aval in zip(pulled[first:last], carry_avals, strict=True)]
            return (sums, carry), (pulled[last:], list(seen.values()))

        carry = [carried(cts[i], aval) for i, aval in zip(halves.carry_cts, carry_avals, strict=True)]
        ys = {i: cts[i] for i in halves.stacked_cts if cts[i] is not None}
        start = [_jax.zeros(aval) for aval in consts], carry
        (sums, carry), (xs, observations) = lax.scan(
            step, start, (stacks, ys), length=self.length, reverse=not self.reverse
        )
        return [*sums, *carry, *xs], observations


@_jax.weakref_lru_cache
def watched_scan(
    halves, ct_avals: tuple, length: int, reverse: bool, measure: Callable, wants: Callable
) -> WatchedScan:
    """One for each loop and observer, so that it is compiled once."""
    return WatchedScan(halves, ct_avals, length, reverse, measure, wants)
