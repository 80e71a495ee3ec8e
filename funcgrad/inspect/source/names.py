"""Names for values: the user's where the program gives them, and plain words elsewhere."""

from __future__ import annotations

import builtins
import itertools
import keyword
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from funcgrad._jax import Var
from funcgrad.inspect.source.program import Equation, Program
from funcgrad.inspect.syntax import Statement, statement_at

#: What a source may import, and so no value may be called.
RESERVED = {"jax", "jnp", "lax", "np", "base64", "zlib", "primitives", "value_and_grad"}
BUILTINS = set(dir(builtins))


class Namespace:
    """The names taken in one function."""

    def __init__(self, taken: Iterable[str] = ()):
        self.taken = set(taken)
        #: The last number given to each name.
        self.last: dict[str, int] = defaultdict(lambda: 1)

    def fresh(self, name: str) -> str:
        """``name``, with a number if it is taken."""
        name = identifier(name)
        if name in BUILTINS or keyword.iskeyword(name):
            name = f"{name}_"
        base = re.sub(r"_\d+$", "", name)
        while name in self.taken or name in RESERVED:
            self.last[base] += 1
            name = f"{base}_{self.last[base]}"
        self.taken.add(name)
        return name


def identifier(name: str) -> str:
    name = re.sub(r"\W+", "_", name).strip("_") or "x"
    return f"x_{name}" if name[0].isdigit() else name


def base(name: str | None) -> str | None:
    """A name without its number."""
    return None if name is None else re.sub(r"(_\d+)+$", "", name) or name


def plural(name: str) -> str:
    """A name for what is stacked of values called ``name``."""
    if name.startswith("ct_"):
        return f"ct_{plural(name.removeprefix('ct_'))}"
    return f"{name}_steps" if name.endswith("s") or keyword.iskeyword(f"{name}s") else f"{name}s"


# What the user's lines assign to.


def statement_of(eqn: Equation) -> Statement | None:
    """The user's line that an equation belongs to."""
    return statement_at(eqn.frames[0]) if eqn.frames else None


def assigned_names(program: Program, cotangents: Set[Var]) -> tuple[dict[Var, str], dict[Var, str]]:
    """What the user's lines call values that are no cotangents, and what the functions are called that return them."""
    primal = [eqn for eqn in program.equations if eqn.frames and cotangents.isdisjoint(eqn.outputs)]
    naming = Naming(program, primal)
    naming.level(primal, 0)
    return naming.names, {**program.returned, **naming.returned}


def cotangents_in(program: Program, known: Iterable[Var]) -> set[Var]:
    """The values that depend on a cotangent; ``known`` are such values from around the program."""
    marked = {v for v in program.cotangents.values() if type(v) is Var}
    found = marked.intersection(program.inputs).union(known)
    for eqn in program.equations:
        if not eqn.backward:
            continue
        if eqn.name == "optimization_barrier":
            found.update(v for v, x in zip(eqn.outputs, eqn.inputs, strict=True) if x in found)
            continue
        if not found.isdisjoint(eqn.reads()) or not marked.isdisjoint(eqn.outputs):
            found.update(eqn.outputs)
    backward = {v for eqn in program.equations if eqn.backward for v in eqn.outputs}
    for eqn in reversed(program.equations):
        # The terms of a sum that is a cotangent.
        if eqn.backward and eqn.name in ("add", "sub") and not found.isdisjoint(eqn.outputs):
            found.update(x for x in eqn.inputs if type(x) is Var and x in backward)
    return found


class Naming:
    """The names that the user's lines give to values of a program, and those of the functions that return them."""

    def __init__(self, program: Program, primal: Sequence[Equation]):
        self.names = dict(program.names)
        self.returned: dict[Var, str] = {}
        #: Who uses which values: the equations that are to have names, and the program, which returns them.
        self.users: dict[Var, list[Any]] = {x: [program] for x in program.outputs if type(x) is Var}
        for eqn in primal:
            for x in eqn.reads():
                self.users.setdefault(x, []).append(eqn)

    def results(self, run: Sequence[Equation]) -> list[Var]:
        """The values of a run of equations that are used outside of it."""
        inside = set(map(id, run))
        return [v for eqn in run for v in eqn.outputs if any(id(user) not in inside for user in self.users.get(v, ()))]

    def level(self, eqns: Sequence[Equation], depth: int) -> None:
        """Name what the lines ``depth`` calls inside the outermost one assign or return, innermost lines first."""
        for _, group in itertools.groupby(eqns, lambda eqn: line_at(eqn, depth)):
            for run in executions(list(group), depth):
                self.level([eqn for eqn in run if len(eqn.frames) > depth + 1], depth + 1)
                frame = run[0].frames[-1 - depth]
                statement = statement_at(frame)
                if statement is not None and statement.targets:
                    self.name(run, statement.targets, self.names)
                elif statement is not None and statement.returns and not frame.function_name.endswith(">"):
                    self.name(run, [frame.function_name.rpartition(".")[2].strip("_")], self.returned)

    def name(self, run: Sequence[Equation], targets: Sequence[str], names: dict[Var, str]) -> None:
        """Give what a line computes, and others use, the names it is assigned to."""
        last, results = run[-1], self.results(run)
        if 1 < len(targets) <= len(last.all_outputs):
            results = last.all_outputs[: len(targets)]
        elif len(targets) == 1 and results:
            done = [
                eqn for eqn in run if finishes(eqn, len(eqn.frames) - 1) and not set(results).isdisjoint(eqn.outputs)
            ]
            results = [next(v for v in done[-1].outputs if v in results) if done else results[-1]]
        elif len(results) >= len(targets):
            results = results[-len(targets) :]
        else:
            return
        for v, name in zip(results, targets, strict=True):
            names.setdefault(v, name)


def line_at(eqn: Equation, depth: int) -> Any:
    if len(eqn.frames) <= depth:
        return None
    frame = eqn.frames[-1 - depth]
    statement = statement_at(frame)
    return frame.file_name, statement.line if statement else frame.start_line


def executions(eqns: list[Equation], depth: int) -> list[list[Equation]]:
    """The equations of one line, split where it is run once more."""
    runs = [eqns[:1]]
    for previous, eqn in itertools.pairwise(eqns):
        is_anew = not finishes(eqn, depth) or eqn.programs() or len(eqn.frames) != len(previous.frames)
        if is_anew and finishes(previous, depth):
            runs.append([])
        runs[-1].append(eqn)
    return runs


def finishes(eqn: Equation, depth: int) -> bool:
    """Whether an equation computes the value of its whole statement, ``depth`` calls inside the outermost one."""
    if len(eqn.frames) <= depth:
        return False
    frame = eqn.frames[-1 - depth]
    statement = statement_at(frame)
    if statement is None or statement.value is None:
        return False
    place = (frame.start_line, frame.start_column, frame.end_line, frame.end_column)
    return place == statement.value and (len(eqn.frames) == depth + 1 or finishes(eqn, depth + 1))


# Words for what the user did not name.

WORDS = {
    "dot_general": "product", "reduce_sum": "total", "reduce_max": "largest", "reduce_min": "smallest", "mean": "mean",
    "sub": "difference", "div": "ratio", "add": "added", "mul": "product", "eq": "is_equal", "ne": "differs",
    "lt": "is_less", "le": "is_less", "gt": "is_greater", "ge": "is_greater", "and": "mask", "or": "mask",
    "not": "mask", "max": "larger", "min": "smaller", "select_n": "chosen", "square": "square", "rsqrt": "rsqrt",
    "integer_pow": "power", "pow": "power", "logistic": "sigmoid", "exp": "exp", "neg": "negative",
    "convert_element_type": "cast", "broadcast_to": "wide", "expand_dims": "column", "reshape": "flat",
    "transpose": "turned", "squeeze": "row", "slice": "part", "dynamic_slice": "part", "gather": "rows",
    "wrapped_index": "index", "iota": "positions", "full": "constant", "scan": "state",
    "while": "state", "cond": "result", "call": "result", "sort": "ordered", "reduce_and": "all_true",
    "reduce_or": "any_true", "random_bits": "bits", "conv_general_dilated": "convolved", "split": "part",
    "optimization_barrier": "fenced", "sin": "sine", "cos": "cosine", "custom_linear_solve": "solution",
    "clip": "clipped", "clamp": "clipped", "bitcast_convert_type": "cast", "reduce_window_sum": "pooled",
    "reduce_window_max": "pooled", "pad": "padded", "get": "content", "shift_right_logical": "shifted",
    "shift_left": "shifted", "swap": "old",
    "ref": "ref", "new_ref": "ref", "empty_ref": "ref", "take_rows": "rows", "put_rows": "updated", "take_part": "part",
    "put_part": "updated", "take_along": "picked", "put_along": "updated", "select_and_scatter_add": "scattered",
    "pick": "part", "dynamic_update_slice": "updated", "tri": "triangle", "shard_map": "result", "reduce": "reduced",
}  # fmt: skip
UNARY = {"exp", "log", "tanh", "sin", "cos", "sqrt", "square", "rsqrt", "logistic", "mean", "abs", "erf", "cumsum"}


def word_for(eqn: Equation, name_of: Any, made_by: Mapping[Var, Equation]) -> str:
    """A name for an equation's value, after its operation and, if it has one with a name, its operand."""
    makers = [made_by[x].name for x in eqn.inputs if type(x) is Var and x in made_by]
    if eqn.name == "add" and "dot_general" in makers:
        return "linear"
    word = WORDS.get(eqn.name, eqn.name)
    if eqn.name in UNARY:
        known = name_of(eqn.inputs[0])
        if known and len(known) <= 12:
            return f"{word}_{known}"
    return word
