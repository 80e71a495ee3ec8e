"""Functions of which nothing is left but their operations, whose derivative is lost in that of their parts.

At the last of them the tape is asked how its operands were made.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.functions.with_own_jvp import emit
from funcgrad.rules.numbers import full_like, is_complex
from funcgrad.rules.rule import Formula, Rule
from funcgrad.rules.signature import shaped
from funcgrad.rules.tables import accurate_special as special

# How a value was made: a primitive's name, the number that one operand was, if it matters, and how its active operands
# were made. X is what all begins with.

X = "x"
SCALED = ("mul", math.sqrt(0.5), X)
TAIL = ("erfc", None, ("abs", None, SCALED))
CUBED = ("add", None, X, ("mul", 0.044715, ("integer_pow", 3, X)))
HALF_OF_IT = ("mul", 0.5, X)
#: What the last operation, which has no number or the one that is said, multiplies.
GELU = ("mul", 0.5, ("add", 1, ("tanh", None, ("mul", math.sqrt(2 / math.pi), CUBED))))
EXACT_GELU = ("erfc", None, ("mul", math.sqrt(0.5), ("neg", None, X)))
NDTR = ("select_n", None, ("select_n", None, TAIL, ("sub", 2, TAIL)), ("add", 1, ("erf", None, SCALED)))


def number(x: Any) -> float | None:
    """A scalar that is known while the program is recorded."""
    x = getattr(getattr(x, "val", None), "val", x)
    is_known = isinstance(x, int | float | np.ndarray | np.generic | _jax.TypedNdArray | _jax.ArrayImpl)
    return float(x) if is_known and np.ndim(x) == 0 and np.isrealobj(x) else None


#: For each tape, the values that are a number and another value: by their slot, the number and the value.
with_numbers: weakref.WeakKeyDictionary[Any, dict[int, tuple[float, Any]]] = weakref.WeakKeyDictionary()


class Made:
    """How the values on a tape were made, by its last nodes."""

    def __init__(self, tape: Any, depth: int = 40):
        self.nodes = {slot: node for node in tape.nodes[-depth:] for slot in node.outs if slot is not None}
        self.with_numbers = with_numbers.get(tape, {})
        #: The slot of X.
        self.x: int | None = None

    def by(self, pattern: Any, slot: int) -> bool:
        slot = self.origin(slot)
        if pattern == X:
            self.x = slot if self.x is None else self.x
            return self.x == slot
        name, constant, *parts = pattern
        node = self.nodes.get(slot)
        if node is None or node.primitive.name != name or len(node.parents) != len(parts):
            return False
        if constant is not None and not is_near(self.number(slot), constant, node.avals[0].dtype):
            return False
        before = self.x
        for order in (parts, parts[::-1]) if name == "add" else (parts,):
            self.x = before
            if all(self.by(part, parent) for part, parent in zip(order, node.parents, strict=True)):
                return True
        return False

    def origin(self, slot: int) -> int:
        """The slot of a value before it was copied, or only said to be of its dtype."""
        node = self.nodes.get(slot)
        while node is not None and (node.primitive is lax.copy_p or is_same_dtype(node)):
            (slot,) = node.parents
            node = self.nodes.get(slot)
        return slot

    def number(self, slot: int) -> float | None:
        node = self.nodes[slot]
        return node.params["y"] if node.primitive is lax.integer_pow_p else self.with_numbers.get(slot, (None,))[0]

    def find(self, slot: int, *names: str) -> Any:
        """The last node of a chain of primitives that has made a value; None where another has."""
        for name in names:
            node = self.nodes.get(self.origin(slot))
            if node is None or node.primitive.name != name:
                return None
            (slot,) = node.parents[:1]
        return node


def is_same_dtype(node: Any) -> bool:
    return node.primitive is lax.convert_element_type_p and node.params["new_dtype"] == node.avals[0].dtype


def is_near(c: float | None, constant: float, dtype: Any) -> bool:
    return c is not None and math.isclose(c, constant, rel_tol=2 * float(jnp.finfo(dtype).eps))


gelu = Formula((lambda ct, x: lax.mul(ct, special.tanh_gelu(x)),), {}, broadcasts=False)
exact_gelu = Formula((lambda ct, x: lax.mul(ct, special.exact_gelu(x)),), {}, broadcasts=False)
ndtr = Formula((lambda ct, x: lax.mul(ct, special.ndtr(x)),), {}, broadcasts=False)


def scaled(tape: Any, made: Made, slot: int, like: Any) -> Any:
    """The tracer of X, where the value of a slot is X times a number."""
    return type(like)(tape, made.with_numbers[made.origin(slot)][1], made.x)


def product(tape, primals, tracers):
    """x times the second half of gelu, or a half times that of the normal distribution's."""
    for i in (0, 1):
        one, other = tracers[i], tracers[1 - i]
        if one is None:
            c, made = number(primals[i]), Made(tape)
            if is_near(c, 0.5, other.aval.dtype) and made.by(NDTR, other.slot):
                absolute = made.find(other.slot, "select_n", "select_n", "erfc", "abs")
                return ndtr, scaled(tape, made, absolute.parents[0], other)
        elif other is not None:
            made = Made(tape)
            if made.by(GELU, other.slot) and made.x == made.origin(one.slot):
                return gelu, one
            made = Made(tape)
            if made.by(HALF_OF_IT, one.slot) and made.by(EXACT_GELU, other.slot):
                return exact_gelu, scaled(tape, made, one.slot, one)
    return None


# What all entries have in common, subtracted from a cotangent, leaves nothing of that of the largest entry, whose
# share is nearly all. Against the largest entry's cotangent the others count by as much as their shares.


def over(x, axes):
    return lambda y: lax.broadcast_in_dim(lax.reduce_sum(y, axes), x.shape, [d for d in range(x.ndim) if d not in axes])


def largest(x, axes):
    """Where the first of the largest entries over some axes is."""
    last = [d for d in range(x.ndim) if d not in axes] + list(axes)
    moved = lax.transpose(lax.stop_gradient(x), last)
    flat = moved.reshape(*moved.shape[: x.ndim - len(axes)], -1)
    place = lax.argmax(flat, flat.ndim - 1, np.int32)[..., None]
    is_it = lax.broadcasted_iota(np.int32, flat.shape, flat.ndim - 1) == place
    return lax.transpose(is_it.reshape(moved.shape), np.argsort(last))


def of_normalized(ct, x, axes):
    """Of x / sum(x): sum_j x_j (ct_i - ct_j) / sum(x)^2."""
    total, is_largest = over(x, axes), largest(x, axes)
    zero = full_like(ct, 0)
    differences = lax.sub(ct, total(lax.select(is_largest, ct, zero)))
    size, mean = total(x), total(lax.mul(x, differences))
    return lax.div(lax.sub(differences, lax.div(mean, size)), size)


def of_log_softmax(ct, x, axes):
    """Of x - log(sum(exp(x))), for x of which the largest is about 0: ct - softmax(x) sum(ct)."""
    total, is_largest = over(x, axes), largest(x, axes)
    zero, e = full_like(ct, 0), lax.exp(x)
    size, others = total(e), lax.select(is_largest, zero, e)
    share = lax.div(e, size)
    rest = total(lax.select(is_largest, zero, ct))
    of_largest = lax.sub(lax.mul(ct, lax.div(total(others), size)), lax.mul(share, rest))
    return lax.select(is_largest, of_largest, lax.sub(ct, lax.mul(share, total(ct))))


@functools.cache
def over_axes(pull: Callable, axes: tuple[int, ...]) -> Formula:
    return Formula((lambda ct, x: pull(ct, x, axes),), {}, broadcasts=False)


def keeps_places(spread: Any, axes: Sequence[int], like: Any) -> bool:
    """Whether a sum over some axes was spread over them, and over no others."""
    kept = tuple(d for d in range(like.aval.ndim) if d not in axes)
    return spread.params["broadcast_dimensions"] == kept and len(spread.params["shape"]) == like.aval.ndim


def of_a_sum(pull: Callable, *names: str) -> Callable:
    """A finder of x and what the last of some operations have made of its sum, or of that of its exponentials."""

    def find(tape, primals, tracers):
        x, y = tracers
        if x is None or y is None:
            return None
        made = Made(tape)
        first = made.find(y.slot, *names)
        spread = made.find(y.slot, *names[: names.index("broadcast_in_dim") + 1])
        total = made.find(y.slot, *names[: names.index("reduce_sum") + 1])
        if first is None or made.origin(first.parents[0]) != made.origin(x.slot):
            return None
        return (over_axes(pull, total.params["axes"]), x) if keeps_places(spread, total.params["axes"], x) else None

    return find


class LastOperation(Rule):
    """An operation that may be the last one of a function."""

    def __init__(self, usual: Rule, find: Callable | None = None):
        self.usual, self.find = usual, find
        self.formula = "that of the function it ends, or the operation's own"

    def map(self, wrap):
        return LastOperation(wrap(self.usual), self.find)

    def record(self, tape, primitive, primals, tracers, params, linear):
        if linear or any(is_complex(x) for x in map(shaped, primals)):
            return self.usual.record(tape, primitive, primals, tracers, params, linear)
        found = self.find(tape, primals, tracers) if self.find else None
        if found is not None:
            rule, x = found
            out = tape.evaluate(primitive, primals, params, linear)
            return emit(rule, tape, primitive, [x.primal], [x], out)
        out = self.usual.record(tape, primitive, primals, tracers, params, linear)
        (constant, operand), side = primals, tracers[0]
        if side is not None:
            constant, operand = operand, constant
        c = None if None not in tracers else number(constant)
        # A difference is known by what is subtracted from.
        if c is not None and (side is None or primitive is not lax.sub_p):
            with_numbers.setdefault(tape, {})[out.slot] = c, operand
        return out


def last_operations(rules: Mapping[Any, Rule]) -> dict[Any, Rule]:
    finders = {
        lax.mul_p: product,
        lax.div_p: of_a_sum(of_normalized, "broadcast_in_dim", "reduce_sum"),
        lax.sub_p: of_a_sum(of_log_softmax, "log", "broadcast_in_dim", "reduce_sum", "exp"),
        lax.add_p: None,
    }
    return {p: LastOperation(rules[p], find) for p, find in finders.items()}
