"""``find_nonfinite``: the operation that made the first NaN or infinity, forward or backward."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.inspect.hints import hint_for
from funcgrad.inspect.hunt import ELEMENTWISE, NODE, Event, Hunt, as_float, is_finite, is_float
from funcgrad.inspect.opened import resolved
from funcgrad.inspect.report import type_text
from funcgrad.pullback import pull_back
from funcgrad.rules import RuleTable
from funcgrad.rules import default as default_rules
from funcgrad.rules.control.calls import InPlace
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.control.custom import Custom, CustomVjp
from funcgrad.rules.control.foreign import Foreign
from funcgrad.rules.control.shard_map import ShardMap
from funcgrad.rules.rule import Rule, Wrapped, bare
from funcgrad.transforms import run, split_arguments

__all__ = ["NonFinite", "find_nonfinite"]

#: How many offending values are shown.
MOST = 8


@dataclasses.dataclass(frozen=True, eq=False)
class NonFinite:
    """The operation that made the first NaN or infinity.

    Attributes:
      file, line, function: where it is in the user's code; of an operation of the way back, the forward operation. None
        if that is not known.
      primitive: the forward operation, such as ``"sqrt"``.
      direction: ``"forward"``, or ``"backward"`` if it was made in that operation's pullback.
      operation: the operation that ran: in the forward direction the primitive, else one of those of its rule.
      operands: the types of what it was applied to.
      values: for each operand the offending entries, at most 8; of an operation that mixes entries, the smallest and
        the largest of each operand.
      result: what was made of them; of an operation that mixes entries, the entries that are not finite, at most 8.
      index: the place of the first of these in the result.
      count: how many such entries there are.
      iterations: the iterations of the loops around it, counted from zero, from the outside in.
      hint: what the cause may be and what to do.
    """

    file: str | None
    line: int | None
    function: str | None
    primitive: str
    direction: str
    operation: str
    operands: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    result: np.ndarray
    index: tuple[int, ...]
    count: int
    iterations: tuple[int, ...]
    hint: str

    def __str__(self) -> str:
        made = "NaN" if np.isnan(self.result).any() else "infinity"
        place = f"{self.file}:{self.line} ({self.function})" if self.file else "a line that is not known"
        loops = "".join(f", iteration {i}" for i in self.iterations)
        inside = "" if self.operation == self.primitive else f" (in its pullback: {self.operation})"
        where = "".join(f"[{', '.join(map(str, self.index))}]" if self.index else "")
        found = [
            f"The first {made} is made on the way {self.direction} by {self.primitive}{inside}{loops}",
            f"  at {place}",
        ]
        found += [
            f"  operand {i}, {kind}: {shown(value)}"
            for i, (kind, value) in enumerate(zip(self.operands, self.values, strict=True))
        ]
        found.append(f"  result{where}: {shown(self.result)}, {self.count} in all")
        found += textwrap.wrap(self.hint, 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
        return "\n".join(found)


def find_nonfinite(
    fun: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable:
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
        table = (default_rules if rules is None else rules).derived(scoped)
        hunt = Hunt()
        with set_current_trace(hunt):
            out, recording, signature, _, _ = run(partial, dynamic, has_aux, table)
            for node in recording.nodes:
                if isinstance(bare(node.rule), CustomVjp):
                    node.source = None  # its lines are those of the user's backward rule
            results = jax.tree.leaves(out)
            if all(is_finite(x) for x in results):
                hunt.backward = True
                with set_current_trace(_jax.eval_trace):
                    ones = jax.tree.map(jnp.ones_like, out)
                results = pull_back(recording, signature, ones)
        if all(is_finite(x) for x in results):
            return None
        event, _ = hunt.culprit(results)
        return given(args, kwargs) if event is None else described(event, not_finite(args, kwargs))

    return find


_numbers = itertools.count()
#: Rules that record more than one operation.
PROGRAMS = (Carrier, InPlace, ShardMap, Foreign, Custom)


def record_in_scope(rule, tape, primitive, primals, tracers, params, linear):
    """Record in a scope of its own with the operation's name, in which the pullback runs too."""
    rule, recorded, primals, tracers, params = resolved(rule, tape, primitive, primals, tracers, params, linear)
    if isinstance(rule, PROGRAMS):
        return rule.record(tape, recorded, primals, tracers, params, linear)
    with jax.named_scope(f"{NODE}{next(_numbers)}.{primitive}"):
        return rule.record(tape, recorded, primals, tracers, params, linear)


def in_scope(rule: Rule) -> Rule:
    return Wrapped(rule, record=record_in_scope)


def scoped(rules: RuleTable) -> RuleTable:
    return rules.map(in_scope, keeps_source=True)


def described(event: Event, given: Sequence[str]) -> NonFinite:
    frame = event.place.frames[0] if event.place.frames else None
    operation = str(event.primitive)
    forward = event.place.node
    out, fresh = event.bad_out(), event.fresh()
    made = fresh if fresh.any() else np.isnan(out) if np.isnan(out).any() else ~np.isfinite(out)
    at = np.argwhere(made)
    kinds = [_jax.typeof(x) for x in event.operands if is_float(x)]
    floats = [as_float(x) for x in event.operands if is_float(x)]
    if event.primitive in ELEMENTWISE:
        picked = tuple(at[:MOST].T)
        values = tuple([np.broadcast_to(x, out.shape)[picked] if x.shape else x.reshape(1) for x in floats])
    else:
        values = tuple([np.array([x.min(), x.max()]) if x.size else x for x in floats])
    primitive = forward if event.backward and forward else operation
    found = NonFinite(
        file=frame and frame.file_name,
        line=frame and frame.start_line,
        function=frame and frame.function_name,
        primitive=primitive,
        direction="backward" if event.backward else "forward",
        operation=operation,
        operands=tuple([type_text(str(x.dtype), x.shape) for x in kinds]),
        values=values,
        result=out[tuple(at[:MOST].T)] if out.shape else out.reshape(1),
        index=tuple(int(i) for i in at[0]) if len(at) else (),
        count=int(made.sum()),
        iterations=event.iterations,
        hint="",
    )
    return dataclasses.replace(found, hint=hint_for(found, given))


def not_finite(args: Any, kwargs: Any) -> list[str]:
    """Which leaves of the arguments are not finite to begin with."""
    leaves = jax.tree_util.tree_leaves_with_path((args, kwargs))
    names = []
    for path, x in leaves:
        if not is_finite(x):
            keywords = path[0].idx == 1
            names.append(f"{'kwargs' if keywords else 'args'}{jax.tree_util.keystr(path[1:])}")
    return names


def given(args: Any, kwargs: Any) -> NonFinite:
    """What there is to say where no operation made what was not finite already."""
    names = not_finite(args, kwargs)
    return NonFinite(
        None, None, None, "input", "forward", "input", (), (), np.array([np.nan]), (), 0, (),
        f"No operation made it: {', '.join(names) or 'a constant of the function'} is not finite to begin with.",
    )  # fmt: skip


def shown(x: np.ndarray) -> str:
    return np.array2string(np.asarray(x), separator=", ", precision=6, max_line_width=10**6)
