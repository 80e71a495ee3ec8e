"""``find_nonfinite``: the operation that made the first NaN or infinity, forward or backward."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.inspect.finding import NonFinite, hint_for
from funcgrad.inspect.hunt import ELEMENTWISE, NODE, Event, Hunt, is_finite, is_float
from funcgrad.inspect.opened import resolved
from funcgrad.inspect.steps import type_text
from funcgrad.pullback import pull_back
from funcgrad.rules import RuleTable, table_of
from funcgrad.rules.control.calls import InPlace
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.control.custom import Custom, CustomVjp
from funcgrad.rules.control.foreign import Foreign
from funcgrad.rules.control.shard_map import ShardMap
from funcgrad.rules.rule import Wrapped, bare
from funcgrad.transforms import P, run, split_arguments

__all__ = ["NonFinite", "find_nonfinite"]

#: How many offending values are shown.
MOST = 8


def find_nonfinite(
    fun: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable[P, NonFinite | None]:
    """A function that says which operation of ``fun``, forward or backward, made the first NaN or infinity.

    Everything runs operation by operation: inside jitted functions, branches, ``vmap`` and ``checkpoint``, and in the
    first iteration that matters of a loop. What counts is what reaches the result, or a gradient: infinities that are
    masked on purpose, as in attention, are not found unless they lead to a NaN. Among the operations that a bad result
    comes of, the first is reported that got finite operands; if there is none, that which made a NaN of infinities.

    Args:
      fun: a function as ``funcgrad.grad`` takes it. If it does not return one real scalar, the way back starts from a
        cotangent of ones.
      argnums: which positional arguments are differentiated, as for ``funcgrad.grad``.
      has_aux: whether ``fun`` returns a pair of which only the first is differentiated.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.

    Returns:
      A function of ``fun``'s arguments that returns a ``NonFinite``, or None if the result and the gradient are finite.

    Raises:
      TypeError: it is called on traced values, inside ``jit`` or ``vmap``.

    >>> import jax.numpy as jnp
    >>> def loss(x):
    ...     return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))
    >>> found = find_nonfinite(loss)(jnp.array([4.0, 0.0]))
    >>> found.primitive, found.direction, found.index
    ('sqrt', 'backward', (1,))
    >>> find_nonfinite(loss)(jnp.array([4.0, 1.0])) is None
    True
    """
    _jax.check_callable(fun)
    argnums = _jax.concrete_or_error(_jax.ensure_index, argnums)

    @_jax.wraps(fun, docstr="The first operation of {fun} that made a NaN or infinity. Takes the arguments of {fun}.")
    @_jax.api_boundary
    def find(*args: Any, **kwargs: Any) -> NonFinite | None:
        partial, dynamic = split_arguments(fun, argnums, args, kwargs)
        if any(_jax.is_tracer(x) for x in jax.tree.leaves((args, kwargs))):
            raise TypeError("find_nonfinite looks at values: call it outside of jit, grad and vmap.")
        table = table_of(rules).derived(scoped)
        hunt = Hunt()
        with set_current_trace(hunt):
            out, recording, signature, _, _ = run(partial, dynamic, has_aux, table)
            for node in recording.nodes:
                if isinstance(bare(node.rule), CustomVjp):
                    node.source = None  # its lines are those of the user's backward rule
            results = jax.tree.leaves(out)
            if all(map(is_finite, results)):
                hunt.backward = True
                with set_current_trace(_jax.eval_trace):
                    ones = jax.tree.map(jnp.ones_like, out)
                results = pull_back(recording, signature, ones)
        if all(map(is_finite, results)):
            return None
        event, _ = hunt.culprit(results)
        given = not_finite(args, kwargs)
        if event is not None:
            return described(event, given)
        hint = f"No operation made it: {', '.join(given) or 'a constant of the function'} is not finite to begin with."
        return NonFinite(primitive="input", operation="input", result=np.array([np.nan]), hint=hint)

    return find


_numbers = itertools.count()
#: Rules that record more than one operation.
PROGRAMS = (Carrier, InPlace, ShardMap, Foreign, Custom)


def record_in_scope(rule, tape, primitive, primals, tracers, params, linear):
    """Record in a scope of its own with the operation's name, in which the pullback runs too."""
    rule, recorded, primals, tracers, params = resolved(rule, tape, primitive, primals, tracers, params, linear)
    name = f"{NODE}{next(_numbers)}.{rule.known_as(primitive, params)}"
    with contextlib.nullcontext() if isinstance(rule, PROGRAMS) else jax.named_scope(name):
        return rule.record(tape, recorded, primals, tracers, params, linear)


def scoped(rules: RuleTable) -> RuleTable:
    return rules.map(lambda rule: Wrapped(rule, record=record_in_scope), keeps_source=True)


def described(event: Event, given: Sequence[str]) -> NonFinite:
    frame = next(iter(event.place.frames), None)
    operation = str(event.primitive)
    out, fresh = event.bad_out(), event.fresh()
    made = fresh if fresh.any() else np.isnan(out) if np.isnan(out).any() else ~np.isfinite(out)
    at = np.argwhere(made)
    picked = tuple(at[:MOST].T)
    kinds = [_jax.typeof(x) for x in event.operands if is_float(x)]
    if event.primitive in ELEMENTWISE:
        values = [np.broadcast_to(x, out.shape)[picked] if x.shape else x.reshape(1) for x in event.floats()]
    else:
        values = [np.array([x.min(), x.max()]) if x.size else x for x in event.floats()]
    found = NonFinite(
        file=frame and frame.file_name,
        line=frame and frame.start_line,
        function=frame and frame.function_name,
        primitive=(event.backward and event.place.node) or operation,
        direction="backward" if event.backward else "forward",
        operation=operation,
        operands=tuple([type_text(str(x.dtype), x.shape) for x in kinds]),
        values=tuple(values),
        result=out[picked] if out.shape else out.reshape(1),
        index=tuple(at[0].tolist()) if len(at) else (),
        count=int(made.sum()),
        iterations=event.iterations,
    )
    return dataclasses.replace(found, hint=hint_for(found, given))


def not_finite(args: Any, kwargs: Any) -> list[str]:
    """Which leaves of the arguments are not finite to begin with."""
    return [
        f"{('args', 'kwargs')[path[0].idx]}{jax.tree_util.keystr(path[1:])}"
        for path, x in jax.tree_util.tree_leaves_with_path((args, kwargs))
        if not is_finite(x)
    ]
