"""Where a value is cut off from the result: the operations without derivative that it goes through."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxprs_in_params

from funcgrad import _jax
from funcgrad._jax import Jaxpr, Literal
from funcgrad.engine.tape import is_differentiable
from funcgrad.rules import RuleTable
from funcgrad.rules.rule import Formula


class Cut(NamedTuple):
    """An operation whose derivative is zero, or whose result has none, and the user's frames, innermost first."""

    primitive: str
    frames: Sequence[Any]


def find_cuts(fun: Callable, args: Sequence[Any], which: Sequence[int], rules: RuleTable) -> dict[int, list[Cut]]:
    """The operations that cut leaves of the arguments off, for the numbers of leaves in ``which``.

    In a function that cannot be traced no operations are found, but where a value leaves them.
    """
    leaves, tree = jax.tree.flatten(tuple(args))

    def with_leaf(i: int, x: Any) -> Any:
        return fun(*jax.tree.unflatten(tree, [*leaves[:i], x, *leaves[i + 1 :]]))

    try:
        program = jax.make_jaxpr(fun)(*args)
    except (jax.errors.JAXTypeError, TypeError):
        return {i: find_leaving(partial(with_leaf, i), leaves[i]) for i in which}
    found = {}
    for i in which:
        search = Search(rules)
        search.walk(program.jaxpr, [k == i for k in range(len(program.jaxpr.invars))], ())
        found[i] = search.cuts
    return found


def find_leaving(fun: Callable, x: Any) -> list[Cut]:
    """Where the value of something that depends on ``x`` is asked for, and goes on as a number."""
    try:
        # Under vmap what depends on x has no value to give, and all else has.
        jax.vmap(lambda x: (fun(x), 0)[1])(jnp.stack([x, x]))
    except LEFT as error:
        branches = isinstance(error, jax.errors.TracerBoolConversionError)
        return [Cut("a decision in Python" if branches else "a conversion to a number", user_frames_of(error))]
    except (jax.errors.JAXTypeError, TypeError, ValueError):
        pass
    return []


LEFT = (
    jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError
)  # fmt: skip


class Frame(NamedTuple):
    file_name: str
    start_line: int
    function_name: str


def user_frames_of(error: Exception) -> list[Frame]:
    """The user's frames of an error, innermost first."""
    libraries = f"{Path(jax.__file__).parent}/", f"{Path(_jax.__file__).parents[1]}/"
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    return [Frame(f.filename, f.lineno or 0, f.name) for f in frames if not f.filename.startswith(libraries)]


@dataclasses.dataclass
class Search:
    """Follows what depends on some inputs through a program."""

    rules: RuleTable
    cuts: list[Cut] = dataclasses.field(default_factory=list)

    def walk(self, jaxpr: Jaxpr, depends: Sequence[bool], frames: Sequence[Any]) -> list[bool]:
        """Which outputs depend on the inputs that ``depends`` says, by way of operations with a derivative."""
        reached = {v for v, d in zip(jaxpr.invars, depends, strict=True) if d}
        for eqn in jaxpr.eqns:
            given = [type(x) is not Literal and x in reached for x in eqn.invars]
            if any(given):
                outs = self.step(eqn, given, _jax.user_frames(eqn.source_info) or frames)
                reached.update(v for v, out in zip(eqn.outvars, outs, strict=True) if out and is_differentiable(v.aval))
        return [type(x) is not Literal and x in reached for x in jaxpr.outvars]

    def step(self, eqn: Any, given: Sequence[bool], frames: Sequence[Any]) -> Sequence[bool]:
        # They run on the last operands.
        programs = [p for p in jaxprs_in_params(eqn.params) if len(p.invars) <= len(given)]
        if programs:
            found = [self.walk(p, given[len(given) - len(p.invars) :], frames) for p in programs]
            same = [outs for outs in found if len(outs) == len(eqn.outvars)]
            return [any(flags) for flags in zip(*same, strict=True)] if same else [True] * len(eqn.outvars)
        rule = self.rules.get(eqn.primitive)
        without = isinstance(rule, Formula) and not any(g and s for g, s in zip(given, rule.signatures, strict=False))
        is_float = any(is_differentiable(v.aval) for v in eqn.outvars)
        if (without and is_float) or (not is_float and eqn.primitive is lax.convert_element_type_p):
            self.cuts.append(Cut(str(eqn.primitive), frames))
        return [not without] * len(eqn.outvars)
