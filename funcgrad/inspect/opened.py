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
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, set_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.split import Activity, Split, split
from funcgrad.engine.tape import Node, is_differentiable, typeof_or_zero
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import size
from funcgrad.programs.memo import kept, memo
from funcgrad.rules.control.body import split_at
from funcgrad.rules.control.carrier import Carrier, typed_cotangents
from funcgrad.rules.control.scan import Scan
from funcgrad.rules.control.scan_halves import Backward, ScanHalves
from funcgrad.rules.control.while_loop import While, with_one_predicate
from funcgrad.rules.rule import Rule, Wrapped, bare

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
    """What is recorded in the place of an operation: of a loop that keeps a few states, one that keeps everything."""
    if isinstance(rule, While) and not linear:
        scan = as_scan(tape, primals, tracers, params)
        if scan is not None:
            return SCAN, lax.scan_p, *scan
    if isinstance(rule, Scan) and can_be_opened(params["jaxpr"], params["length"], tracers, tape.rules):
        rule = SCAN
    return rule, primitive, primals, tracers, params


def noting(rule: Rule) -> Rule:
    return Wrapped(rule, record=take_notes)


class Watch:
    """An observer of a sweep.

    Each cotangent that comes in to a node or goes out of it is measured: ``measure`` maps an array to what is to be
    known of it. ``see(path, node, observation)`` is given the measures of both, None for a cotangent that is None; a
    node is seen after those inside it. Only the nodes that it ``wants`` are measured, and only those are opened that
    have some of them inside.
    """

    def __init__(
        self,
        measure: Callable,
        see: Callable[[Path, Node, Observation], None],
        wants: Callable[[Node], bool] = lambda node: True,
    ):
        self.measure, self.see, self.wants = measure, see, wants
        #: Measures of arrays that went out of a node, by id: most come in to another.
        self.known: dict[int, tuple[weakref.ref, Any]] = {}

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
            node.replace(rule=Wrapped(node.rule, pull=functools.partial(self.pull, node, (*path, i))))
            for i, node in enumerate(recording.nodes)
        ]
        return Recording(nodes, recording.slots, recording.scope).pull(seeds)

    def back(self, recording: Recording, signature: Any, out: Any) -> list[Any]:
        """A sweep from a cotangent of ones for what a recorded function returned."""
        seeds = [jnp.ones_like(x) for x in jax.tree.leaves(out)]
        return self.sweep(recording, zip(signature.out_slots, seeds, strict=True))

    def pull(self, node: Node, path: Path, rule: Any, _: Node, cts: Sequence[Any]) -> Sequence[Any]:
        if any(self.wants(inner) for _, inner in inside(node)):
            pulled = pull_inside(node, cts, self, path)
        else:
            pulled = rule.pullback(node, cts)
        if self.wants(node):
            incoming = [None if x is None else self.recall(x) for x in cts]
            self.see(path, node, Observation(incoming, [None if x is None else self.remember(x) for x in pulled]))
        return pulled


# How the programs in nodes are opened.


def program_in(node: Node) -> Split | None:
    """The halves of the program inside of a node, None if there is none, or none that can be looked into."""
    rule = bare(node.rule)
    halves = rule.inside(node) if isinstance(rule, Carrier) else None
    return None if halves is None or halves.refs else halves


def pull_inside(node: Node, cts: Sequence[Any], watch: Watch, path: Path) -> Sequence[Any]:
    """The pullback of a node that can be opened, with an observer of what is inside it."""
    halves, active = node.static
    carrier = bare(node.rule)
    if isinstance(carrier, Scan):
        cts, _ = typed_cotangents(cts, halves.ct_avals)
        cts = halves.filled(cts)
        nonzero = tuple([ct is not None for ct in cts])
        run, paths, tree = watched_scan(halves, nonzero, watch.measure, watch.wants)
        pulled, rows = run(node.residuals, cts)
        nodes = dict(inside(node))
        for at, observation in zip(paths, jax.tree.unflatten(tree, rows), strict=True):
            watch.see((*path, *at), nodes[at], observation)
    else:
        program = carrier.inside(node)
        cts, _ = typed_cotangents(cts, program.ct_avals)
        pulled = program.pull(carrier.needed(node), cts, None, functools.partial(watch.sweep, path=path))
    return [ct for ct, a in zip(pulled, active, strict=True) if a]


@kept
def watched_scan(
    halves: ScanHalves, nonzero: tuple[bool, ...], measure: Callable, wants: Callable
) -> tuple[Callable, list[Path], Any]:
    """The way back through a loop with an observer in it; the paths that it sees, and how its stacks are put together.

    One for each loop and observer, so that it is compiled once.
    """
    seen: dict[Path, Observation] = {}
    watch = Watch(measure, lambda path, node, observation: seen.update({path: observation}), wants)
    # What is looked at may be wanted by nobody.
    backward = Backward(halves, nonzero, None, watch.sweep, lambda: jax.tree.leaves(list(seen.values())))
    return jax.jit(functools.partial(backward.run, halves)), list(seen), jax.tree.structure(list(seen.values()))


def outlined(again: ClosedJaxpr, *given: Any) -> list[Any]:
    """What ``again`` computes, to look at: what is not given is there as its type."""
    known = dict(zip(again.jaxpr.invars, given, strict=True))
    return [v.aval if type(v) is Literal else known.get(v, v.aval) for v in again.jaxpr.outvars]


def inside(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """The nodes inside of a node, at any depth, with their paths from it."""
    halves = program_in(node)
    if halves is None:
        return
    for i, inner in enumerate(halves.recording(bare(node.rule).kept(node), outlined).nodes):
        yield (*path, i), inner
        yield from inside(inner, (*path, i))


# A ``while`` loop as a ``scan``: once its operands are known, so is how often it runs.

#: A ``while`` loop is opened up to so many iterations, and so many bytes of what they keep.
MOST_ITERATIONS, MOST_BYTES = 10_000, 2**30


def as_scan(tape: Any, primals: Sequence[Any], tracers: Sequence[Any], params: dict) -> tuple | None:
    """The operands and parameters of a ``while`` as a ``scan``, None where its length is not known or too large."""
    if params["cond_jaxpr"].out_avals[0].shape:
        primals, tracers, params = with_one_predicate(primals, tracers, params)
    if any(_jax.is_ref(_jax.typeof(x)) or _jax.to_concrete_value(x) is None for x in primals):
        return None
    body, first, count = params["body_jaxpr"], params["cond_nconsts"], params["body_nconsts"]
    with set_current_trace(_jax.eval_trace):
        length = int(count_iterations(params["cond_jaxpr"], body, first, count)(*primals))
    if not can_be_opened(body, length, tracers[first:], tape.rules):
        return None
    scan = _jax.scan_params(_jax.empty_scan(), body, count, len(primals) - first - count)
    return primals[first:], tracers[first:], {**scan, "length": length}


def can_be_opened(body: ClosedJaxpr, length: Any, tracers: Sequence[Any], rules: Any) -> bool:
    """Whether all that the way back of a loop's steps needs is little enough to be kept."""
    if not isinstance(length, int) or length > MOST_ITERATIONS:
        return False
    halves = split(body, tuple([Activity(t is not None and is_differentiable(t.aval)) for t in tracers]), rules)
    saved = halves.forward.jaxpr.outvars[sum(halves.out_known) :]
    return length * sum(map(size, saved)) <= MOST_BYTES


@memo
def count_iterations(cond: Any, body: Any, first: int, count: int) -> Callable:
    def run(*operands: Any) -> Any:
        cond_consts, consts, carry = split_at(operands, first, count)

        def proceeds(state):
            return evaluate(cond, *cond_consts, *state[0])[0]

        return lax.while_loop(proceeds, lambda s: (evaluate(body, *consts, *s[0]), s[1] + 1), (carry, 0))[1]

    return jax.jit(run)
