"""The hunt for the operation that made the first NaN or infinity.

``Hunt`` is a trace under which a program, or the recording and sweep of one, runs operation by operation, calls and
branches opened. It keeps those operations of which a result is not finite, so that from a result one can go back to the
operation where it began: one that got finite operands only. Masked infinities are never come by on that way.

A loop is run as it is. Only one that is under suspicion is opened, and of it the one iteration that matters: a compiled
search finds the first with a bad result, and that one is hunted in turn.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Trace

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, jit_p, set_current_trace
from funcgrad.engine.split import run
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.waiting import CHECKPOINTS
from funcgrad.rules import elementwise
from funcgrad.rules.control.body import split_at
from funcgrad.rules.control.while_loop import with_one_predicate

#: How the name of a scope begins in which an operation is recorded and pulled back.
NODE = "funcgrad.node."

#: Operations that compute each entry from the entries of the operands in the same place.
ELEMENTWISE = {*elementwise.rules, lax.select_n_p, lax.clamp_p, lax.convert_element_type_p, lax.copy_p}


class Place(NamedTuple):
    """Where an operation is: the user's frames, from the inside out, and the scopes' names, from the outside in."""

    frames: Sequence[Any]
    scopes: tuple[str, ...]

    @property
    def node(self) -> str | None:
        """The recorded operation that this one is part of."""
        names = [name for name in self.scopes if name.startswith(NODE)]
        return names[-1].rpartition(".")[2] if names else None


@dataclasses.dataclass(eq=False)
class Event:
    """An operation with a result that is not finite: when and where it ran, and its values.

    ``iterations`` are those of the loops around it, from the outside in.
    """

    time: int
    primitive: Any
    params: dict[str, Any]
    operands: list[Any]
    outs: list[Any]
    place: Place
    backward: bool
    iterations: tuple[int, ...] = ()

    def floats(self) -> list[np.ndarray]:
        return [as_float(x) for x in self.operands if is_float(x)]

    def fresh(self) -> np.ndarray:
        """Where the results are not finite though the operands are: a mask of the first result that has any."""
        bad = ~np.isfinite(self.bad_out())
        finite = list(map(np.isfinite, self.floats()))
        if self.primitive in ELEMENTWISE:
            return functools.reduce(np.logical_and, finite, bad)
        is_fresh = all(x.all() for x in finite) and not any(map(_jax.is_ref_value, self.operands))
        return bad if is_fresh else np.zeros_like(bad)

    def bad_out(self) -> np.ndarray:
        """The first result with a NaN, or if there is none the first with an infinity."""
        outs = [as_float(x) for x in self.outs if is_float(x)]
        return max(outs, key=lambda x: 2 * has_nan(x) + (not np.isfinite(x).all()))

    def makes_nan(self) -> bool:
        """Whether there is a NaN in the result and none in the operands."""
        return has_nan(self.bad_out()) and not any(map(has_nan, self.floats()))


class Hunt(Trace):
    """A trace that evaluates, and remembers each operation that gave something not finite."""

    keeps_source = True

    def __init__(self, around: Sequence[Place] = (), backward: bool = False, iterations: tuple[int, ...] = ()):
        super().__init__()
        self.requires_low = False
        #: Where the programs that are being run were called, from the outside in.
        self.around = list(around)
        self.backward = backward
        self.iterations = iterations
        self.time = 0
        #: The scope of the node that the last operation was part of.
        self.node: str | None = None
        #: The events by the id of what came of them, which they keep alive.
        self.makers: dict[int, Event] = {}

    # What JAX asks of a trace.

    def process_primitive(self, primitive, args, params, /):
        inner = self.program_in(primitive, args, params)
        if inner is not None:
            program, operands = inner
            self.around.append(self.place())
            self.node = None
            try:
                outs = run(self, program, operands)  # type: ignore[arg-type]
            finally:
                self.around.pop()
                self.node = None
            return outs if primitive.multiple_results else outs[0]
        with set_current_trace(_jax.eval_trace):
            outs = self.evaluate(primitive, args, params)
        self.check(primitive, params, args, outs if primitive.multiple_results else [outs])
        return outs

    @staticmethod
    def evaluate(primitive, args, params):
        return primitive.bind_with_trace(_jax.eval_trace, list(args), list(map(_jax.typeof, args)), params)

    def process_call(self, call_primitive, f, args, params, /):
        with set_current_trace(self):
            return f.call_wrapped(*args)

    def process_custom_jvp_call(self, primitive, fun, jvp, args, /, **params):
        return self.process_call(primitive, fun, args, params)

    def process_custom_vjp_call(self, primitive, fun, fwd, bwd, args, /, **params):
        return self.process_call(primitive, fun, args, params)

    def process_shard_map(self, primitive, fun, args, /, **params):
        return self.evaluate(primitive, args, {**params, "subfuns": (fun,)})

    def stage_value(self, val):
        return _jax.eval_trace.stage_value(val)

    def cur_qdd(self, x):
        return _jax.cur_qdd(x)

    # Programs in the program.

    def program_in(self, primitive, args, params) -> tuple[ClosedJaxpr, Sequence[Any]] | None:
        if primitive is jit_p:
            return params["jaxpr"], args
        if primitive in CHECKPOINTS:
            return _jax.close(params["jaxpr"]), args
        if primitive is lax.cond_p:
            branches = params["branches"]
            return branches[min(max(int(args[0]), 0), len(branches) - 1)], args[1:]
        return None

    def place(self) -> Place:
        """Where the current operation is; if it is a library's, where that was called."""
        source, around = _jax.current_source(), self.around[-1] if self.around else Place((), ())
        names = tuple([x.name for x in source.name_stack.stack])
        return Place(_jax.user_frames(source) or around.frames, (*around.scopes, *names))

    # Events.

    def is_derived(self) -> bool:
        """Whether the current operation computes something for the way back: it is not the first of a recorded node."""
        node = next((x.name for x in reversed(_jax.current_source().name_stack.stack) if x.name.startswith(NODE)), None)
        is_first, self.node = node != self.node, node
        return node is not None and not is_first

    def check(self, primitive, params, args, outs) -> None:
        is_derived = self.is_derived()
        made = outs
        if all(map(is_finite, outs)):
            # What is written to a reference comes out where that is read.
            made = [x for x in args if _jax.is_ref_value(x)]
            outs = [x for x in args if not is_finite(x)] if made else []
            if not outs:
                return
        place = self.place()
        backward = is_derived or (self.backward and "rematted_computation" not in place.scopes)
        event = Event(self.time, primitive, params, list(args), list(outs), place, backward, self.iterations)
        self.time += 1
        self.makers.update((id(x), event) for x in made)

    def culprit(self, results: Sequence[Any]) -> tuple[Event | None, bool]:
        """The event that ``results`` are not finite for, and whether it made that of finite operands.

        None if they are finite, or as they were given.
        """
        reached: dict[int, Event] = {}
        began: list[Event] = []
        queue = [self.makers.get(id(x)) for x in results if not is_finite(x)]
        while queue:
            event = queue.pop()
            if event is None or event.time in reached:
                continue
            reached[event.time] = event
            inner, is_fresh = self.opened(event)
            if is_fresh:
                began.append(inner)
                continue
            reached[event.time] = inner
            queue += [self.makers.get(id(x)) for x in event.operands if _jax.is_ref_value(x) or not is_finite(x)]
        if began:
            return min(began, key=lambda event: event.time), True
        found = [reached[time] for time in sorted(reached)]
        return next((event for event in found if event.makes_nan()), found[0] if found else None), False

    def opened(self, event: Event) -> tuple[Event, bool]:
        """An event, or if it is a loop, the one inside the loop that it comes of; and whether it is a beginning."""
        if event.primitive not in (lax.scan_p, lax.while_p):
            return event, bool(event.fresh().any())
        kinds = [jnp.isnan, jnp.isinf] if any(has_nan(as_float(x)) for x in event.outs if is_float(x)) else [jnp.isinf]
        last: Event | None = None
        for is_bad in kinds:
            found = first_iteration(event, is_bad)
            if found is None:
                continue
            at, body, operands = found
            hunt = Hunt([event.place], event.backward, (*self.iterations, at))
            with set_current_trace(hunt):
                outs = run(hunt, body, operands)  # type: ignore[arg-type]
            inner, is_fresh = hunt.culprit(outs)
            if inner is not None:
                inner.time = event.time
                if is_fresh:
                    return inner, True
                last = last or inner
        return last or event, False


def first_iteration(event: Event, is_bad: Callable) -> tuple[int, ClosedJaxpr, list[Any]] | None:
    """The first iteration of a loop in whose results something ``is_bad``: its number, program and operands, if any."""
    params, operands = event.params, event.operands
    if event.primitive is lax.scan_p:
        body, cond, cond_consts = params["jaxpr"], None, []
        consts, carry, xs = split_at(operands, *_jax.scan_layout(params))
        length, reverse = params["length"], params["reverse"]
    else:
        if params["cond_jaxpr"].out_avals[0].shape:
            operands, _, params = with_one_predicate(operands, [None] * len(operands), params)
        body, cond, xs = params["body_jaxpr"], params["cond_jaxpr"], []
        cond_consts, consts, carry = split_at(operands, params["cond_nconsts"], params["body_nconsts"])
        length, reverse = np.iinfo(np.int32).max, False
    with set_current_trace(_jax.eval_trace):
        at, carry, found = search(body, cond, length, reverse, is_bad)(cond_consts, consts, carry, xs)
        if not found:
            return None
        i = int(length - 1 - at if reverse else at)
        return i, body, [*consts, *carry, *(x[i] for x in xs)]


@_jax.weakref_lru_cache
def search(body: ClosedJaxpr, cond: ClosedJaxpr | None, length: int, reverse: bool, is_bad: Callable) -> Callable:
    def run(cond_consts, consts, carry, xs):
        def proceeds(state):
            at, carry, found = state
            more = at < length if cond is None else evaluate(cond, *cond_consts, *carry)[0]
            return more & ~found

        def step(state):
            at, carry, _ = state
            i = length - 1 - at if reverse else at
            outs = evaluate(body, *consts, *carry, *(lax.dynamic_index_in_dim(x, i, keepdims=False) for x in xs))
            found = jnp.any(jnp.array([is_bad(x).any() for x in outs if is_float(x)]))
            new = [jnp.where(found, x, y) for x, y in zip(carry, outs, strict=False)]
            return jnp.where(found, at, at + 1), new, found

        return lax.while_loop(proceeds, step, (jnp.int32(0), list(carry), jnp.bool_(False)))

    return jax.jit(run)


def is_float(x: Any) -> bool:
    if _jax.is_ref_value(x):
        return False
    return jnp.issubdtype(getattr(x, "dtype", np.result_type(type(x))), jnp.inexact)


def as_float(x: Any) -> np.ndarray:
    """As NumPy knows it: what is narrower than 32 bits in 32."""
    x = np.asarray(x)
    return x if x.dtype in (np.float32, np.float64, np.complex64, np.complex128) else x.astype(np.float32)


def has_nan(x: np.ndarray) -> bool:
    return bool(np.isnan(x).any())


@jax.jit
def all_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def is_finite(x: Any) -> bool:
    """Whether there is no NaN and no infinity in a value, of whatever type."""
    if not is_float(x):
        return True
    with set_current_trace(_jax.eval_trace):
        return bool(all_finite(x))
