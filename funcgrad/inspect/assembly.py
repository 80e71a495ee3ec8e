"""From what was seen of a backward pass to its report: numbers for steps and values, places, bytes."""

from __future__ import annotations

import dataclasses
import functools
import linecache
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import jit_p
from funcgrad.engine.split import Split
from funcgrad.engine.tape import Node
from funcgrad.inspect.cuts import Cut
from funcgrad.inspect.flags import find_flags
from funcgrad.inspect.formulas import aliases, formula_text
from funcgrad.inspect.opened import Note, Observation, Path, noted, program_in
from funcgrad.inspect.report import BackwardReport
from funcgrad.inspect.statistics import Statistics
from funcgrad.inspect.steps import BackwardStep, Formula, Kept, Line, Parameter, Place, Value, Variable
from funcgrad.programs.waiting import CHECKPOINTS
from funcgrad.rules.control.custom import CustomVjp
from funcgrad.rules.control.scan import Scan
from funcgrad.rules.rule import Formula as FormulaRule
from funcgrad.rules.rule import Joint, bare

#: Nodes that stand for more than an operation, by primitive.
KINDS = {
    jit_p: "call", _jax.shard_map_p: "call", lax.cond_p: "branch", lax.scan_p: "loop", lax.while_p: "loop",
    **dict.fromkeys(CHECKPOINTS, "remat"),
}  # fmt: skip
#: Primitives with a name that is not the one they are known by.
NAMES = dict.fromkeys(CHECKPOINTS, "checkpoint")


#: Residuals that are no arrays.
NO_ARRAY = bool | int | float | complex | str | None


class Seen(NamedTuple):
    """A node that was pulled back, and what was observed."""

    path: Path
    node: Node
    observation: Observation


class Argument(NamedTuple):
    """A leaf of a differentiated argument, and the vector of its gradient's statistics, None without one."""

    number: int
    path: str
    aval: Any
    slot: int | None
    gradient: np.ndarray | None
    cuts: Sequence[Cut]


@dataclasses.dataclass(eq=False)
class Assembly:
    """What a report is made of: what was recorded and seen, and the caller's arrays, by id, and frames."""

    signature: Any
    seen: Sequence[Seen]
    arguments: Sequence[Argument]
    held: Collection[int]
    caller: Sequence[Any]
    name: str
    out: Any

    def __post_init__(self) -> None:
        # The way back takes nodes from the last to the first, what is inside a node after the node.
        self.seen = sorted(self.seen, key=lambda s: [-i for i in s.path])
        self.number = {s.path: i for i, s in enumerate(self.seen)}
        self.variables: list[Variable] = []
        #: The number of a variable by the path of the recording it is in, and its slot there.
        self.scope: dict[tuple[Path, int], int] = {}
        #: The types of slots, by the path of the recording.
        self.types: dict[tuple[Path, int | None], Any] = {}
        self.texts = functools.cache(formula_text)

    def report(self) -> BackwardReport:
        self.number_variables()
        steps: list[BackwardStep] = []
        for i, s in enumerate(self.seen):
            steps.append(self.step(i, s, steps))
        self.count_bytes(steps)
        lines = lines_of(steps)
        parameters = [self.parameter(i, a) for i, a in enumerate(self.arguments)]
        norms = [p.gradient.norm for p in parameters if p.gradient is not None]
        places = [p for step in steps for p in (step.place, *step.stack)]
        places += [place for parameter in parameters for _, place in parameter.cuts]
        files = sorted({place.file for place in places if place is not None})
        report = BackwardReport(
            function=self.name,
            value=described(self.out),
            seed="1" if [np.shape(x) for x in jax.tree.leaves(self.out)] == [()] else "ones",
            sources={file: "".join(linecache.getlines(file)) or None for file in files},
            steps=steps,
            lines=lines,
            parameters=parameters,
            variables=self.variables,
            flags=[],
            totals={
                "steps": len(steps),
                "kept_bytes": sum(step.kept_bytes for step in steps if step.parent is None),
                "argument_bytes": self.argument_bytes,
                "parameters": len(parameters),
                "gradient_norm": float(np.sqrt(np.sum(np.square(norms)))) if norms else 0.0,
                "nonfinite": sum(p.gradient.nonfinite for p in parameters if p.gradient is not None),
            },
        )
        report.flags = find_flags(report)
        report.totals["flags"] = len(report.flags)
        for flag in report.flags:
            flagged = (steps, flag.steps), (lines, flag.lines), (parameters, flag.parameters)
            for x in (these[i] for these, numbers in flagged for i in numbers):
                x.flags.append(flag.id)
        return report

    # Variables.

    def variable(self, at: Path, slot: int | None, aval: Any, name: Any = None, kind: str = "value", step: Any = None):
        if slot is not None and (at, slot) not in self.scope:
            number = self.scope[at, slot] = len(self.variables)
            self.variables.append(Variable(number, *type_of(aval), name, kind, step))

    def value(self, at: Path, slot: int | None, aval: Any) -> Value:
        return Value(None if slot is None else self.scope[at, slot], *type_of(aval), slot is not None)

    def number_variables(self) -> None:
        for a in self.arguments:
            self.variable((), a.slot, a.aval, a.path, "argument")
        results = {slot for slot in self.signature.out_slots if slot is not None}
        forward = sorted(self.seen, key=lambda s: s.path)
        for s in forward:
            for slot, aval in zip(s.node.parents, s.node.avals, strict=True):
                self.types.setdefault((s.path[:-1], slot), aval)
        for slot, aval in zip(self.signature.out_slots, self.signature.out_avals, strict=True):
            self.types.setdefault(((), slot), aval)
        parents = {s.path[:-1] for s in forward}
        for s in forward:
            inside = s.path[:-1]
            for operand in noted(s.node).operands:
                self.variable(inside, operand.slot, operand.aval)
            for out in s.node.outs:
                kind = "value" if inside or out not in results else "result"
                step = None if inside else self.number[s.path]
                self.variable(inside, out, self.types.get((inside, out)), None, kind, step)
            halves = program_in(s.node) if s.path in parents else None
            if halves is not None:
                self.share(s.path, s.node, halves)

    def share(self, path: Path, node: Node, halves: Split) -> None:
        """Give values inside of a node the numbers that they have outside."""
        carrier, operands = bare(node.rule), noted(node).operands
        outer = [None if k is None else operands[k].slot for k in carrier.shared(node)]
        pairs = [*zip(halves.in_slots, outer, strict=True)]
        if not isinstance(carrier, Scan):
            pairs += zip(halves.out_slots, node.outs, strict=True)
        for slot, around in pairs:
            if slot is not None and around is not None:
                self.scope.setdefault((path, slot), self.scope[path[:-1], around])

    # Steps.

    def step(self, i: int, s: Seen, before: Sequence[BackwardStep]) -> BackwardStep:
        node, path = s.node, s.path
        note, inside, rows = noted(node), path[:-1], iter(s.observation.outgoing)
        kind = "custom" if isinstance(bare(node.rule), CustomVjp) else KINDS.get(note.primitive, "operation")
        frames = [] if node.source is None else self.places(_jax.user_frames(node.source))
        around = before[self.number[inside]] if inside else None
        if not frames and around is not None and around.place is not None:
            # Inside a library's function: what counts is where that was called.
            frames = [around.place, *around.stack]
        is_open = any(t.path[:-1] == path for t in self.seen[i + 1 : i + 2])
        out_types = [self.types.get((inside, slot)) for slot in node.outs]
        out_types = [*note.outs, *out_types[len(note.outs) :]]
        return BackwardStep(
            id=i,
            parent=self.number[inside] if inside else None,
            depth=len(inside),
            kind=kind,
            primitive=NAMES.get(note.primitive, str(note.primitive)),
            name=called(node),
            rule=self.formula(bare(node.rule), note),
            place=frames[0] if frames else None,
            stack=frames[1:],
            operands=[self.value(inside, o.slot, o.aval) for o in note.operands],
            outputs=[self.value(inside, *out) for out in zip(node.outs, out_types, strict=True)],
            incoming=list(map(statistics_of, s.observation.incoming)),
            # One for each operand, from one for each that is active.
            outgoing=[None if o.slot is None else statistics_of(next(rows, None)) for o in note.operands],
            iterations=node.params.get("length") if kind == "loop" else None,
            note=None if is_open else NOT_OPENED.get(note.primitive),
        )

    def formula(self, rule: Any, note: Note) -> list[Formula]:
        if isinstance(rule, CustomVjp):
            return [Formula(None, "the function's own backward rule")]
        texts = self.texts(rule)
        active = [i for i, o in enumerate(note.operands) if o.slot is not None]
        if isinstance(rule, FormulaRule):
            return [Formula(i, texts[i]) for i in active if i < len(texts) and texts[i] != "0"]
        return [Formula(None, text) for text in texts]

    def places(self, frames: Sequence[Any]) -> list[Place]:
        """Where an operation is, and who called: up to the call of ``explain``."""
        for outer in reversed(self.caller):
            if frames and (frames[-1].file_name, frames[-1].function_name) == (outer.file_name, outer.function_name):
                frames = frames[:-1]
            else:
                break
        return [Place(f.file_name, f.start_line, f.function_name) for f in frames]

    # What is kept.

    def count_bytes(self, steps: Sequence[BackwardStep]) -> None:
        """List what each step keeps; an array that several keep counts once, for the first that is no call."""
        for step in steps:
            if step.parent is not None:
                steps[step.parent].children.append(step.id)
        kept = {id(x) for s in self.seen if len(s.path) == 1 for x in s.node.residuals}
        counted: dict[int, int] = {}
        held: dict[int, int] = {}
        # From the inside out, and in the order of the forward pass.
        for i in sorted(range(len(steps)), key=lambda i: (bool(steps[i].children), -steps[i].depth, -i)):
            step, node = steps[i], self.seen[i].node
            for name, x in zip(residual_names(node), node.residuals, strict=True):
                is_type = isinstance(x, jax.core.AbstractValue)
                known = id(x) in counted or id(x) in held
                if isinstance(x, NO_ARRAY) or (is_type and name.endswith("_aval")) or (step.children and known):
                    continue
                shape, dtype = type_of(x if is_type else _jax.typeof(x))
                size = math.prod(shape) * getattr(getattr(x, "dtype", None), "itemsize", 0)
                if is_type or id(x) not in kept:
                    owner = "recomputed"
                elif id(x) in self.held:
                    owner = "argument"
                    held[id(x)] = size
                elif known:
                    owner = "shared"
                else:
                    owner = "step"
                    counted[id(x)] = size
                    step.kept_bytes += size
                step.kept.append(Kept(name, shape, dtype, size, owner))
        for step in sorted(steps, key=lambda s: -s.depth):
            if step.parent is not None:
                steps[step.parent].kept_bytes += step.kept_bytes
        self.argument_bytes = sum(held.values())

    def parameter(self, i: int, a: Argument) -> Parameter:
        variable, shape, dtype, _ = self.value((), a.slot, a.aval)
        steps = sorted(self.givers.get(a.slot, ()))
        cuts = [(cut.primitive, next(iter(self.places(cut.frames)), None)) for cut in a.cuts]
        return Parameter(i, a.path, a.number, shape, dtype, variable, statistics_of(a.gradient), steps, cuts)

    @functools.cached_property
    def givers(self) -> dict[int | None, set[int]]:
        """The outermost steps that send a cotangent to a slot."""
        found: dict[int | None, set[int]] = {}
        for i, s in enumerate(self.seen):
            if len(s.path) == 1:
                for slot, row in zip(s.node.parents, s.observation.outgoing, strict=True):
                    if row is not None:
                        found.setdefault(slot, set()).add(i)
        return found


def lines_of(steps: Sequence[BackwardStep]) -> list[Line]:
    """The lines of steps. A step that others are inside of counts for its own line what those do not."""
    by_place: dict[tuple[str, int], list[BackwardStep]] = {}
    for step in steps:
        if step.place is not None:
            by_place.setdefault((step.place.file, step.place.line), []).append(step)
    lines = []
    for i, (file, number) in enumerate(sorted(by_place)):
        group = by_place[file, number]
        for step in group:
            step.line = i
        norms = [s.norm for step in group for s in step.incoming if s is not None]
        zeros = [s.zeros for step in group for s in step.incoming if s is not None]
        made = [s.nonfinite for step in group if not step.children for s in step.outgoing if s is not None]
        lines.append(
            Line(
                id=i,
                file=file,
                line=number,
                function=group[0].place.function if group[0].place else "",
                text=linecache.getline(file, number).strip(),
                steps=[step.id for step in group],
                kept_bytes=sum(step.own_bytes for step in group),
                norm=max(norms, default=None),
                nonfinite=sum(made),
                zeros=max(zeros, default=None),
            )
        )
    return lines


def type_of(aval: Any) -> tuple[tuple[int, ...], str]:
    return tuple(getattr(aval, "shape", ())), str(getattr(aval, "dtype", ""))


def statistics_of(row: Any) -> Statistics | None:
    return None if row is None else Statistics.of(row)


def described(out: Any) -> dict[str, Any]:
    """What a function returned: its type, and its value shortened."""
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1:
        return {"shape": [], "dtype": "", "text": f"{len(leaves)} arrays"}
    value = np.asarray(leaves[0])
    shape, dtype = type_of(_jax.typeof(leaves[0]))
    text = np.array2string(value, threshold=8, precision=4, floatmode="maxprec", max_line_width=10**6)
    if not shape and jax.numpy.issubdtype(value.dtype, np.floating):
        text = f"{float(value):.6g}"
    return {"shape": list(shape), "dtype": dtype, "text": text.replace("\n", " ")}


def called(node: Node) -> str | None:
    """The name of the function that a node is a call of."""
    name = node.params.get("name")
    if isinstance(bare(node.rule), CustomVjp):
        name = getattr(getattr(node.static[0], "debug_info", None), "func_name", None)
    return name if isinstance(name, str) else None


def residual_names(node: Node) -> list[str]:
    """What the residuals of a node are, in the words of its rule."""
    rule, count = bare(node.rule), len(node.residuals)
    known = aliases(rule)
    names: list[str] = []
    if isinstance(rule, FormulaRule):
        names = [known.get(name, name) for name in node.static.names]
    elif isinstance(rule, Joint):
        for name, span in zip(rule.names, node.static[0], strict=True):
            shown = known.get(name, name)
            names += [shown] if span is None else [f"{shown}[{i}]" for i in range(span)]
    return names if len(names) == count else ["residual"] * count


#: Why a loop or a branch may be one step.
NOT_OPENED = {
    lax.while_p: "not opened: it is long, or how long it is is known only inside a compiled program",
    lax.cond_p: "not opened: which branch runs is known only inside a compiled program",
}
