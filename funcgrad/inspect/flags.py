"""What a person would want to look at in a backward pass."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from funcgrad.inspect.statistics import Statistics
from funcgrad.inspect.steps import BackwardPass, BackwardStep, Flag, Parameter, at
from funcgrad.inspect.table import counted, number, share, size

#: By how much the cotangents' norm may change from one end of a network or loop to the other.
STEEPEST = 1e3
#: How many layers or iterations make a depth.
SHALLOWEST = 4

SEVERITIES = ("error", "warning", "info")

#: Operations that put zeros where there was nothing to say, as their derivative is meant to.
PLACING = {"dynamic_update_slice", "scatter", "scatter_add", "scatter-add", "concatenate", "pad", "gather", "split"}


def find_flags(report: BackwardPass) -> list[Flag]:
    finders = (nonfinite, without_gradient, along_depth, along_iterations, dead_units, underflow, narrowed, memory)
    flags = [flag for find in finders for flag in find(report)]
    flags.sort(key=lambda flag: SEVERITIES.index(flag.severity))
    for i, flag in enumerate(flags):
        flag.id = i
    return flags


def flag(
    kind: str, severity: str, message: str, steps: Iterable[BackwardStep] = (), parameters: Iterable[Parameter] = ()
) -> Flag:
    steps = list(steps)
    lines = sorted({step.line for step in steps if step.line is not None})
    return Flag(0, kind, severity, message, [step.id for step in steps], lines, [p.id for p in parameters])


def leaves(report: BackwardPass) -> Iterator[BackwardStep]:
    return (step for step in report.steps if not step.children)


def pairs(step: BackwardStep) -> Iterator[tuple[Statistics, Statistics]]:
    """A cotangent that went out of a step, and the one of the same size that came in."""
    for out in step.outgoing:
        for into in step.incoming:
            if out is not None and into is not None and out.size == into.size:
                yield into, out


def nonfinite(report: BackwardPass) -> Iterator[Flag]:
    value = report.value["text"]
    if any(word in value for word in ("nan", "inf")):
        yield flag("nonfinite", "error", f"{report.function} returned {value}.")
    for step in leaves(report):
        came = sum(s.nonfinite for s in step.incoming if s is not None)
        made = sum(s.nonfinite for s in step.outgoing if s is not None)
        if made and not came:
            affected = [p for p in report.parameters if p.gradient is not None and p.gradient.nonfinite]
            yield flag(
                "nonfinite",
                "error",
                f"on the way back through {step.primitive} at {at(step.place)}, "
                f"{counted(made, 'non-finite cotangent')} came of finite ones. "
                "funcgrad.find_nonfinite says which values did it.",
                [step],
                affected,
            )
            return


def without_gradient(report: BackwardPass) -> Iterator[Flag]:
    lost: dict[str, list[Parameter]] = {}
    for p in report.parameters:
        if p.gradient is None:
            lost.setdefault(listed(dict.fromkeys(f"{name} at {at(place)}" for name, place in p.cuts)), []).append(p)
    for cuts, parameters in lost.items():
        names = listed(p.path for p in parameters)
        why = f"it is cut off by {cuts}, which has no derivative" if cuts else "the result does not depend on it"
        yield flag("no_gradient", "warning", f"no gradient reaches {names}: {why}.", (), parameters)
    zero = [p for p in report.parameters if p.gradient is not None and p.gradient.zeros == 1 and p.gradient.size]
    if zero:
        steps = [report.steps[i] for p in zero for i in p.steps]
        names = listed(p.path for p in zero)
        yield flag("no_gradient", "warning", f"the gradient of {names} is zero in every entry.", steps, zero)


def along_depth(report: BackwardPass) -> Iterator[Flag]:
    """Compare the first of the steps that parameters take part in to the last; all steps, where these are few."""
    arguments = {v.id for v in report.variables if v.kind == "argument"}
    layers, everything = [], []
    for step in leaves(report):
        norms = [s.norm for s in step.incoming if s is not None and s.iterations is None]
        if norms and step.iterations is None:
            given = [x.variable for x, s in zip(step.operands, step.outgoing, strict=True) if s is not None]
            everything.append((step, max(norms)))
            if not arguments.isdisjoint(given):
                layers.append((step, max(norms)))
    if len(layers) < SHALLOWEST and len(everything) >= 4 * SHALLOWEST:
        layers = everything
    yield from steep(layers, "through the layers", "")


def along_iterations(report: BackwardPass) -> Iterator[Flag]:
    for loop in report.steps:
        rows = [
            s.iterations["norm"]
            for child in loop.children
            for s in report.steps[child].incoming
            if s is not None and s.iterations is not None
        ]
        if loop.iterations and rows:
            norms = np.max(np.array(rows, float), axis=0)[::-1]
            yield from steep(
                [(loop, float(x)) for x in norms],
                f"through the {len(norms)} iterations",
                f" of the loop at {at(loop.place)}",
            )


def steep(layers: Sequence[tuple[BackwardStep, float]], along: str, whose: str) -> Iterator[Flag]:
    """``layers`` pairs steps with norms, from the result to the arguments."""
    if len(layers) < SHALLOWEST:
        return
    few = min(3, len(layers) // 4)
    first = statistics.median(norm for _, norm in layers[:few])
    last = statistics.median(norm for _, norm in layers[-few:])
    if not np.isfinite(first + last) or first == 0:
        return
    steps = {id(step): step for step, _ in (layers[0], layers[-1])}.values()
    change = f"from {number(first)} at the result to {number(last)} {along}{whose}."
    if last * STEEPEST < first:
        yield flag("vanishing", "warning", f"the cotangents' norm falls {change}", steps)
    elif last > STEEPEST * first:
        yield flag("exploding", "warning", f"the cotangents' norm grows {change}", steps)


def dead_units(report: BackwardPass) -> Iterator[Flag]:
    """Steps that leave a whole slice along the last axis without cotangent, where it had one."""
    for step in leaves(report):
        if step.primitive in PLACING:
            continue
        lost = [(out.dead - into.dead, out) for into, out in pairs(step) if out.slices]
        count, out = max(lost, default=(0, None), key=lambda x: x[0])
        if out is not None and count > 0:
            yield flag(
                "dead",
                "warning" if 2 * out.dead >= out.slices else "info",
                f"{out.dead} of {counted(out.slices, 'unit')} get a cotangent of zero everywhere, from "
                f"{step.primitive} at {at(step.place)} on.",
                [step],
            )


def underflow(report: BackwardPass) -> Iterator[Flag]:
    """Steps in a 16 bit type that make zeros of what was not zero, where the operation only scales or converts."""
    for step in leaves(report):
        if step.primitive not in ("convert_element_type", "mul", "div"):
            continue
        into = [bits(x.dtype) for x in step.operands if x.active]
        for before, after in pairs(step):
            if into and min(into) < 24 and after.zeros > before.zeros:
                yield flag(
                    "precision",
                    "warning",
                    f"{share(after.zeros - before.zeros)} of the cotangents at {at(step.place)} are too small for "
                    f"{step.operands[0].dtype} and become zero. Scale the loss up, and the gradient down again.",
                    [step],
                )
                break


def narrowed(report: BackwardPass) -> Iterator[Flag]:
    """Conversions whose cotangents have less precision than the value they are of."""
    by_line: dict[tuple, list[BackwardStep]] = {}
    for step in report.steps:
        if step.primitive == "convert_element_type" and step.operands and step.outputs:
            wide, narrow = step.operands[0].dtype, step.outputs[0].dtype
            if bits(narrow) < bits(wide):
                by_line.setdefault((step.place, wide, narrow), []).append(step)
    for (_, wide, narrow), steps in by_line.items():
        yield flag(
            "precision",
            "info",
            f"{wide} is converted to {narrow} at {at(steps[0].place)}: of the {bits(wide)} bits of a gradient that "
            f"comes back through it, {bits(narrow)} are meant.",
            steps,
        )


def bits(dtype: str) -> int:
    """The bits of precision of a floating-point type; 0 for other types."""
    try:
        return jnp.finfo(dtype).nmant + 1
    except (ValueError, TypeError):
        return 0


def memory(report: BackwardPass) -> Iterator[Flag]:
    total = report.totals["kept_bytes"]
    largest = sorted(report.lines, key=lambda line: -line.kept_bytes)[:3]
    largest = [line for line in largest if 10 * line.kept_bytes >= total > 0]
    if len(report.lines) > 1 and largest:
        lines = ", ".join(f"{at(x)} ({size(x.kept_bytes)}, {share(x.kept_bytes / total)})" for x in largest)
        steps = [report.steps[i] for line in largest for i in line.steps]
        yield flag("memory", "info", f"most of what is kept for the way back is kept by {lines}.", steps)


def listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    shown = names[:most] + ([f"{len(names) - most} more"] if len(names) > most else [])
    return "".join(shown) if len(shown) < 2 else f"{', '.join(shown[:-1])} and {shown[-1]}"
