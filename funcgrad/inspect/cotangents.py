"""``cotangents``: gradients with respect to values in the middle of a function, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxprs_in_params

from funcgrad import _jax
from funcgrad._jax import jit_p, name_p, set_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.tape import Node
from funcgrad.inspect.opened import Path, Watch, inside, noted, noting, take_notes
from funcgrad.programs.waiting import CHECKPOINTS
from funcgrad.rules import RuleTable, table_of
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.rule import Rule, Wrapped
from funcgrad.transforms import P, run

__all__ = ["cotangents"]


def cotangents(
    fun: Callable[P, Any], *names: str, has_aux: bool = False, rules: RuleTable | None = None
) -> Callable[P, dict[str, Any]]:
    """A function that returns the cotangents of values in the middle of ``fun``: the gradients with respect to them.

    A value is named where it is made, with ``jax.ad_checkpoint.checkpoint_name(value, name)``, which changes nothing
    else. This is what a tensor hook is for in PyTorch.

    Args:
      fun: a function of any arguments. The cotangents are those of its result; if that is not one scalar, of the sum of
        all its entries.
      *names: the names of the values; all names in ``fun`` if none is given.
      has_aux: whether ``fun`` returns a pair of which only the first counts.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.

    Returns:
      A function of ``fun``'s arguments that returns a dict. It has for each name the cotangent, of the value's shape
      and dtype; a tuple of them, in the order of the program, if the name was given to several values. From inside a
      ``lax.scan`` the cotangents of all steps come stacked along a new first axis. It may be jitted.

    Raises:
      ValueError: there is no value of that name, or one inside something that cannot be opened: a ``custom_vjp``
        function, a ``shard_map``, and under ``jit`` a ``cond`` or a ``while`` loop.

    >>> import jax.numpy as jnp
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def f(x):
    ...     hidden = checkpoint_name(jnp.sin(x), "hidden")
    ...     return jnp.sum(hidden**2)
    >>> cotangents(f, "hidden")(jnp.array([0.0, jnp.pi / 2]))
    {'hidden': Array([0., 2.], dtype=float32)}
    """
    _jax.check_callable(fun)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"cotangents takes the names of values, strings, after the function; got {name!r}")
    table = table_of(rules).derived(naming)

    @_jax.wraps(fun, docstr="Cotangents of the named values in {fun}. Takes the arguments of {fun}.")
    @_jax.api_boundary
    def cotangents_f(*args: Any, **kwargs: Any) -> dict[str, Any]:
        out, recording, signature, _, _ = run(lambda: fun(*args, **kwargs), (), has_aux, table)
        values = named_values(recording)
        reached = {value.name for value in values}
        if not reached.issuperset(names):
            values += [v for v in without_cotangent(fun, args, kwargs) if v.name not in reached]
        known = list(dict.fromkeys(value.name for value in values))
        for name in names:
            if name not in known:
                raise ValueError(unknown(name, known))
        found: dict[Path | None, Any] = {}
        watch = Watch(itself, lambda path, node, seen: found.update({path: seen.incoming[0]}), is_named)
        watch.back(recording, signature, out)
        by_name: dict[str, list[Any]] = {name: [] for name in names or known}
        for value in values:
            if value.name in by_name:
                ct = found.get(value.path)
                by_name[value.name].append(jnp.zeros(value.shape, value.dtype) if ct is None else ct)
        return {name: cts[0] if len(cts) == 1 else tuple(cts) for name, cts in by_name.items()}

    return cotangents_f


def itself(x: Any) -> Any:
    return x


def is_named(node: Node) -> bool:
    return noted(node).primitive is name_p


def unknown(name: str, known: list[str]) -> str:
    have = f"There are values named {', '.join(map(repr, known))}." if known else "There are no named values."
    return (
        f"there is no value named {name!r}, or none that can be reached. {have} Name a value where it is made: "
        f"x = jax.ad_checkpoint.checkpoint_name(x, {name!r})."
    )


class NamedValue(NamedTuple):
    """A named value: its path, None if the result does not depend on it, and its type, stacked if it is in a loop."""

    path: Path | None
    name: str
    shape: tuple[int, ...]
    dtype: Any


def named_values(recording: Recording) -> list[NamedValue]:
    def walk(nodes: Any, path: Path, stacked: tuple[int, ...]) -> Iterator[NamedValue]:
        for i, node in enumerate(nodes):
            if is_named(node):
                aval = noted(node).outs[0]
                yield NamedValue((*path, i), node.params["name"], (*stacked, *aval.shape), aval.dtype)
            within = [inner for at, inner in inside(node) if len(at) == 1]
            length = node.params.get("length") if within else None
            yield from walk(within, (*path, i), stacked if length is None else (*stacked, length))

    return list(walk(recording.nodes, (), ()))


def without_cotangent(fun: Callable, args: Any, kwargs: Any) -> list[NamedValue]:
    """The named values of a function that can be traced, those that its result does not depend on among them."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)}

    def of_arrays(given: dict[int, Any]) -> Any:
        args, kwargs = jax.tree.unflatten(tree, [given.get(i, x) for i, x in enumerate(leaves)])
        return fun(*args, **kwargs)

    try:
        program = jax.make_jaxpr(of_arrays)(arrays)
    except (jax.errors.JAXTypeError, TypeError):
        return []

    def walk(jaxpr: Any, stacked: tuple[int, ...]) -> Iterator[NamedValue]:
        for eqn in jaxpr.eqns:
            if eqn.primitive is name_p:
                aval: Any = eqn.outvars[0].aval
                yield NamedValue(None, eqn.params["name"], (*stacked, *aval.shape), aval.dtype)
            elif eqn.primitive in (jit_p, *CHECKPOINTS, lax.scan_p):
                length = eqn.params.get("length")
                (inner,) = jaxprs_in_params(eqn.params)
                yield from walk(inner, stacked if length is None else (*stacked, length))

    return list(walk(program.jaxpr, ()))


class Name(Rule):
    """The rule of a named value, which is differentiated with respect to whatever it depends on."""

    formula = "ct"
    always = True

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = tape.evaluate(primitive, primals, params, linear)
        return tape.emit(self, primitive, params, None, (), tracers, out)

    def pullback(self, node, cts):
        return list(cts) if node.parents else []


def hold(rule, tape, primitive, primals, tracers, params, linear):
    """Record what carries a program, for the names inside it if for nothing else."""
    if all(t is None for t in tracers) and not has_names(params):
        with set_current_trace(tape.parent):
            return primitive.bind(*primals, **params)
    return take_notes(rule, tape, primitive, primals, tracers, params, linear)


def holding(rule: Rule) -> Rule:
    return Wrapped(rule, record=hold, always=True) if isinstance(rule, Carrier) else noting(rule)


def naming(rules: RuleTable) -> RuleTable:
    """``rules``, for which a named value is an operation of its own."""
    return rules.override({name_p: Name()}).map(holding, keeps_source=True)


def has_names(params: dict[str, Any]) -> bool:
    """Whether there are names in the programs among an equation's parameters."""
    return any(eqn.primitive is name_p or has_names(eqn.params) for p in jaxprs_in_params(params) for eqn in p.eqns)
