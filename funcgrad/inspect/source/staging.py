"""Staging a forward and backward pass out to a jaxpr that remembers what is the cotangent of what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, name_p, set_current_trace
from funcgrad.engine.tape import TapeTracer
from funcgrad.engine.zero import Zero
from funcgrad.rules import RuleTable
from funcgrad.rules.rule import Wrapped
from funcgrad.transforms import halves

#: How the marks that this module leaves in a jaxpr begin.
SCOPE, PRIMAL, COTANGENT, BACK = "funcgrad.node.", "funcgrad.primal.", "funcgrad.cotangent.", "funcgrad.back"

_numbers = itertools.count()


def record_marked(rule, tape, primitive, primals, tracers, params, linear):
    """Leave marks: equations of ``name`` on a node's outputs and, on the way back, on their cotangents.

    Both stand in a name scope of the node's own. Scopes of nested programs nest, so the scopes around a mark tell which
    cotangent belongs to which value, in whatever loops and calls the two are.
    """
    with jax.named_scope(f"{SCOPE}{next(_numbers)}"):
        outs = rule.record(tape, primitive, primals, tracers, params, linear)
        with set_current_trace(tape.parent):
            for i, out in enumerate(outs if primitive.multiple_results else [outs]):
                if type(out) is TapeTracer and out._trace is tape and is_array(out.primal):
                    name_p.bind(out.primal, name=f"{PRIMAL}{i}")
    return outs


def pull_marked(rule, node, cts):
    return rule.pullback(
        node, [name_p.bind(ct, name=f"{COTANGENT}{i}") if is_array(ct) else ct for i, ct in enumerate(cts)]
    )


def marking(rules: RuleTable) -> RuleTable:
    """``rules``, leaving marks."""
    return rules.map(lambda rule: Wrapped(rule, record_marked, pull_marked))


def is_array(x: Any) -> bool:
    return x is not None and type(x) is not Zero and isinstance(_jax.typeof(x), jax.core.ShapedArray)


class Staged(NamedTuple):
    """A staged pass: the jaxpr of the array leaves of the arguments, and the tree of what comes out.

    ``static`` has, for each leaf of the arguments, whether it is no array and hence a constant of the program.
    """

    jaxpr: ClosedJaxpr
    static: list[bool]
    out_tree: Any


def stage(
    fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], rules: RuleTable, argnums: Any, has_aux: bool
) -> Staged:
    leaves, in_tree = jax.tree.flatten((tuple(args), dict(kwargs)))

    def staged(static: list[bool]) -> Staged:
        def there_and_back(arrays: dict[int, Any]) -> Any:
            args, kwargs = jax.tree.unflatten(in_tree, [arrays.get(i, x) for i, x in enumerate(leaves)])
            value, gradient = halves(fun, argnums, args, kwargs, has_aux, False, False, rules.derived(marking))
            with jax.named_scope(BACK):
                return value, gradient()

        arrays = {i: x for i, x in enumerate(leaves) if not static[i]}
        jaxpr, out_shape = jax.make_jaxpr(there_and_back, return_shape=True)(arrays)
        return Staged(jaxpr, static, jax.tree.structure(out_shape))

    static = [not is_array_like(x) for x in leaves]
    try:
        return staged(static)
    except jax.errors.JAXTypeError:
        # Numbers that the function needs to know, as in an ``if``.
        wanted = {id(x) for i in np.atleast_1d(argnums) for x in jax.tree.leaves(args[i])}
        fixed = [
            s or (isinstance(x, int | float | complex) and id(x) not in wanted)
            for x, s in zip(leaves, static, strict=True)
        ]
        if fixed == static:
            raise
        return staged(fixed)


def is_array_like(x: Any) -> bool:
    try:
        _jax.check_arg(x)
    except TypeError:
        return False
    return True
