"""Algebra that a person would not write down, as rewrites of single operations.

Each keeps the numbers: what is exact in floating point, up to the sign of a zero, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.program import Equation, dtype_of
from funcgrad.inspect.source.simplify import (
    Rewrite,
    Rule,
    Simplifier,
    instead,
    is_value,
    like,
    literal,
    same_type,
    value_key,
)  # fmt: skip

#: Operations on each element, whose operands numpy's rules broadcast.
ELEMENTWISE = {
    "add", "sub", "mul", "div", "rem", "pow", "atan2", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "and", "or",
    "xor", "select_n", "add_any", "nextafter",
}  # fmt: skip
FOLDED: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "sqrt": np.sqrt,
    "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater, "eq": np.equal,
    "ge": np.greater_equal, "ne": np.not_equal, "not": np.logical_not, "square": np.square,
}  # fmt: skip


def handed_on(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations that change nothing."""
    x, out = eqn.inputs[0], eqn.outputs[0]
    if not same_type(x, out):
        return None
    params = eqn.params
    if eqn.name == "transpose" and tuple(params["permutation"]) != tuple(range(len(out.aval.shape))):
        return None
    if eqn.name == "reshape" and params.get("dimensions") is not None:
        return None
    if params.get("strides") is not None:
        return None
    return Rewrite(x)


def folded(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations on constants."""
    out = eqn.outputs[0].aval
    if out.shape or any(type(x) is not Literal for x in eqn.inputs):
        return None
    if eqn.name in ("convert_element_type", "select_n"):
        if eqn.name == "select_n":
            return Rewrite(eqn.inputs[1 + int(eqn.inputs[0].val)])
        return Rewrite(literal(np.asarray(eqn.inputs[0].val).astype(out.dtype), out))
    with np.errstate(all="ignore"):
        value = FOLDED[eqn.name](*[np.asarray(x.val) for x in eqn.inputs])
    return Rewrite(literal(value, out))


def uniform(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations on arrays whose elements are all one number."""
    numbers = []
    for x in eqn.inputs:
        made = s.maker(x, "full")
        numbers.append(made.inputs[0] if made is not None else x)
    if any(type(x) is not Literal for x in numbers) or not eqn.outputs[0].aval.shape:
        return None
    with np.errstate(all="ignore"):
        value = FOLDED[eqn.name](*[np.asarray(x.val) for x in numbers])
    return instead(eqn, "full", literal(value, eqn.outputs[0].aval))


def broadcast(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """``broadcast_in_dim`` in two steps: new dimensions of size one, and then numpy's broadcasting."""
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    if len(eqn.inputs) != 1 or eqn.params.get("sharding") is not None or not hasattr(x.aval, "shape"):
        return None
    dims, shape = eqn.params["broadcast_dimensions"], out.shape
    if not x.aval.shape:
        if type(x) is Var and shape and set(shape) == {1}:
            return instead(eqn, "expand_dims", x, axes=tuple(range(len(shape))))
        return instead(eqn, "full", x) if shape else Rewrite(x)
    middle = tuple([x.aval.shape[dims.index(i)] if i in dims else 1 for i in range(len(shape))])
    new = tuple([i for i in range(len(shape)) if i not in dims])
    if not new:
        return instead(eqn, "broadcast_to", x)
    expanded = Var(out.update(shape=middle))
    step = like(eqn, "expand_dims", [x], expanded, axes=new)
    if middle == shape:
        return Rewrite(expanded, step)
    if set(new) == set(range(len(new))):
        return instead(eqn, "broadcast_to", x)
    var = Var(out)
    return Rewrite(var, step, like(eqn, "broadcast_to", [expanded], var))


def reshaped(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Reshapes that add or drop dimensions of size one, and reshapes of reshapes."""
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    if eqn.name == "reshape" and (eqn.params.get("dimensions") is not None or eqn.params.get("sharding") is not None):
        return None
    made = s.maker(x, "reshape", "squeeze", "expand_dims")
    if (made is not None and made.params.get("dimensions") is None) or (made is not None and made.name == "squeeze"):
        source = made.inputs[0]
        if same_type(source, eqn.outputs[0]):
            return Rewrite(source)
        if eqn.name == "reshape" or made.name == "reshape":
            return instead(eqn, "reshape", source, new_sizes=out.shape, dimensions=None, sharding=None)
    if eqn.name == "reshape":
        axes = new_axes(x.aval.shape, out.shape)
        if axes:
            return instead(eqn, "expand_dims", x, axes=axes)
        dropped = new_axes(out.shape, x.aval.shape)
        if dropped:
            return instead(eqn, "squeeze", x, dimensions=dropped)
    return None


def squeezed_twice(s: Simplifier, eqn: Equation) -> Rewrite | None:
    made = s.maker(eqn.inputs[0], "squeeze")
    if made is None:
        return None
    left = [i for i in range(made.inputs[0].aval.ndim) if i not in made.params["dimensions"]]
    dims = (*made.params["dimensions"], *(left[i] for i in eqn.params["dimensions"]))
    return instead(eqn, "squeeze", made.inputs[0], dimensions=tuple(sorted(dims)))


def new_axes(shape: Sequence[int], wider: Sequence[int]) -> tuple[int, ...]:
    """The axes of ``wider`` that are of size one and not in ``shape``, none if that is not all the difference."""
    axes, i = [], 0
    for k, size in enumerate(wider):
        if i < len(shape) and shape[i] == size:
            i += 1
        elif size == 1:
            axes.append(k)
        else:
            return ()
    return tuple(axes) if i == len(shape) else ()


def without_broadcast(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Leave broadcasting to the operator."""
    out = eqn.outputs[0].aval
    inputs = list(eqn.inputs)
    for i, x in enumerate(inputs):
        made = s.maker(x, "broadcast_to", "full", "expand_dims")
        while made is not None:
            source = made.inputs[0]
            if made.name == "expand_dims" and not leading(made):
                break
            others = [y.aval.shape for k, y in enumerate(inputs) if k != i]
            if np.broadcast_shapes(source.aval.shape, *others) != out.shape:
                break
            inputs[i] = source
            made = s.maker(source, "broadcast_to", "full", "expand_dims")
    same = all(x is y for x, y in zip(inputs, eqn.inputs, strict=True))
    return None if same else instead(eqn, eqn.name, *inputs, **eqn.params)


def leading(made: Equation) -> bool:
    """Whether the new dimensions come first, where numpy adds them by itself."""
    return set(made.params["axes"]) == set(range(len(made.params["axes"])))


def arithmetic(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Ones and zeros, signs, and factors that are powers of two."""
    x, y = eqn.inputs
    out = eqn.outputs[0]
    name = eqn.name
    if name == "add_any":
        return instead(eqn, "add", x, y)
    if name in ("mul", "add") and type(y) is Literal and type(x) is not Literal:
        return instead(eqn, name, y, x, **eqn.params) if name == "mul" else unit(x, y, out, 0)
    if name == "mul":
        return unit(y, x, out, 1) or negated(s, eqn, x, y) or scaled(s, eqn, x, y)
    if name == "add":
        for one, other in ((x, y), (y, x)):
            made = s.maker(other, "full")
            if made is not None and is_value(made.inputs[0], 0) and same_type(one, out):
                return Rewrite(one)
        minus = s.maker(y, "neg")
        if minus is not None:
            return instead(eqn, "sub", x, minus.inputs[0])
        minus = s.maker(x, "neg")
        if minus is not None:
            return instead(eqn, "sub", y, minus.inputs[0])
        for one, other in ((x, y), (y, x)):
            made = s.maker(other, "mul")
            if made is not None and s.only_use(other) and is_negative(made.inputs[0]):
                return subtracted(eqn, one, made)
        return unit(y, x, out, 0)
    if name == "sub":
        minus = s.maker(y, "neg")
        if minus is not None:
            return instead(eqn, "add", x, minus.inputs[0])
        return instead(eqn, "neg", y) if is_value(x, 0) and same_type(y, out) else unit(x, y, out, 0)
    if name == "div":
        return unit(x, y, out, 1) or negated(s, eqn, x, y)
    return None


def is_negative(x: Any) -> bool:
    return type(x) is Literal and jnp.issubdtype(dtype_of(x), np.floating) and bool(x.val < 0)


def subtracted(eqn: Equation, x: Any, made: Equation) -> Rewrite:
    """``x - c * y`` for ``x + -c * y``."""
    factor, y = made.inputs
    product, var = Var(made.outputs[0].aval), Var(eqn.outputs[0].aval)
    positive = literal(-np.asarray(factor.val), factor.aval)
    return Rewrite(var, like(made, "mul", [positive, y], product), like(eqn, "sub", [x, product], var))


def unit(x: Any, y: Any, out: Any, value: int) -> Rewrite | None:
    """``x``, where the other operand is the operation's unit."""
    return Rewrite(x) if is_value(y, value) and same_type(x, out) else None


def negated(s: Simplifier, eqn: Equation, x: Any, y: Any) -> Rewrite | None:
    """Signs in front."""
    if eqn.name == "mul" and is_value(x, -1) and same_type(y, eqn.outputs[0]):
        return instead(eqn, "neg", y)
    for one, other in ((x, y), (y, x)):
        minus = s.maker(one, "neg")
        if minus is not None and s.only_use(one):
            if type(other) is Literal and eqn.name == "mul":
                return instead(eqn, "mul", literal(-np.asarray(other.val), other.aval), minus.inputs[0])
            pair = [minus.inputs[0], other] if one is x else [other, minus.inputs[0]]
            product, var = Var(eqn.outputs[0].aval), Var(eqn.outputs[0].aval)
            return Rewrite(var, like(eqn, eqn.name, pair, product), like(eqn, "neg", [product], var))
    return None


def scaled(s: Simplifier, eqn: Equation, x: Any, y: Any) -> Rewrite | None:
    """A constant times a constant times a value, where taking the constants together does not round."""
    made = s.maker(y, "mul")
    if type(x) is not Literal or made is None or type(made.inputs[0]) is not Literal:
        return None
    first, second = x.val, made.inputs[0].val
    if not jnp.issubdtype(dtype_of(x), np.floating) or not (is_power_of_two(first) or is_power_of_two(second)):
        return None
    factor = literal(np.asarray(first) * np.asarray(second), x.aval)
    if not 1e-30 < abs(float(factor.val)) < 1e30:
        return None
    return instead(eqn, "mul", factor, made.inputs[1])


def is_power_of_two(x: Any) -> bool:
    return math.isfinite(float(x)) and abs(math.frexp(float(x))[0]) == 0.5


def powers(s: Simplifier, eqn: Equation) -> Rewrite | None:
    if eqn.name == "integer_pow":
        if eqn.params["y"] == 1:
            return Rewrite(eqn.inputs[0])
        if eqn.params["y"] == 2:
            return instead(eqn, "square", eqn.inputs[0])
    return None


def double_negation(s: Simplifier, eqn: Equation) -> Rewrite | None:
    minus = s.maker(eqn.inputs[0], eqn.name)
    if minus is not None:
        return Rewrite(minus.inputs[0])
    if eqn.name == "neg":
        difference = s.maker(eqn.inputs[0], "sub")
        if difference is not None and s.only_use(eqn.inputs[0]):
            return instead(eqn, "sub", *reversed(difference.inputs))
    return None


def turned(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """On the way back, a transposed product as one the other way round; and a transpose of a transpose."""
    (x,) = eqn.inputs
    order = tuple(eqn.params["permutation"])
    made = s.maker(x, "transpose")
    if made is not None:
        first = made.params["permutation"]
        return instead(eqn, "transpose", made.inputs[0], permutation=tuple([first[i] for i in order]))
    made = s.maker(x, "dot_general")
    if made is None or order != (1, 0) or not s.only_use(x) or made.params.get("out_sharding") is not None:
        return None
    (a, b), (batch, _) = made.params["dimension_numbers"]
    if batch or not eqn.backward or made.inputs[0].aval.ndim != made.inputs[1].aval.ndim:
        return None
    params = {**made.params, "dimension_numbers": ((b, a), ((), ()))}
    precision = params.get("precision")
    if isinstance(precision, tuple):
        params["precision"] = precision[::-1]
    return instead(eqn, "dot_general", *reversed(made.inputs), **params)


def product_of_turned(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A product of a transposed matrix as a contraction over its other dimension."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    if batch[0] or any(x.aval.ndim > 2 for x in eqn.inputs) or eqn.params.get("out_sharding") is not None:
        return None
    inputs, dims = list(eqn.inputs), [tuple(c) for c in contracted]
    for i, x in enumerate(inputs):
        made = s.maker(x, "transpose")
        if made is not None and len(dims[i]) == 1:
            inputs[i], dims[i] = made.inputs[0], (1 - dims[i][0],)
    if all(x is y for x, y in zip(inputs, eqn.inputs, strict=True)):
        return None
    return instead(eqn, "dot_general", *inputs, **{**eqn.params, "dimension_numbers": (tuple(dims), batch)})


def summed(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Sums over dimensions of size one."""
    (x,) = eqn.inputs
    axes, shape = eqn.params["axes"], x.aval.shape
    if all(shape[i] == 1 for i in axes) and eqn.params.get("out_sharding") is None:
        return instead(eqn, "squeeze", x, dimensions=tuple(axes))
    return None


def sign_outside(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A sum or a view of negatives."""
    minus = s.maker(eqn.inputs[0], "neg")
    if minus is None or not s.only_use(eqn.inputs[0]):
        return None
    total, var = Var(eqn.outputs[0].aval), Var(eqn.outputs[0].aval)
    return Rewrite(var, like(eqn, eqn.name, minus.inputs, total, **eqn.params), like(eqn, "neg", [total], var))


def extreme(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """The larger of a value and -inf."""
    bound = -np.inf if eqn.name == "max" else np.inf
    for x, y in (eqn.inputs, eqn.inputs[::-1]):
        if is_value(x, bound) and same_type(y, eqn.outputs[0]):
            return Rewrite(y)
    return None


def clipped(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """The smaller of a bound and the larger of another."""
    for upper, y in (eqn.inputs, eqn.inputs[::-1]):
        made = s.maker(y, "max")
        if type(upper) is Literal and made is not None and s.only_use(y):
            for lower, x in (made.inputs, made.inputs[::-1]):
                if type(lower) is Literal and same_type(x, eqn.outputs[0]):
                    return instead(eqn, "clip", x, lower, upper)
    return None


def mask_itself(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """``where(mask, True, False)``."""
    which, *cases = eqn.inputs
    if which.aval.dtype != np.bool_ or len(cases) != 2 or not same_type(which, eqn.outputs[0]):
        return None
    values = [c.inputs[0] if (c := s.maker(x, "full")) is not None else x for x in cases]
    return Rewrite(which) if is_value(values[0], False) and is_value(values[1], True) else None


def triangle(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Row numbers compared with column numbers."""
    x, y = eqn.inputs
    offset = 0
    shifted = s.maker(x, "add")
    if shifted is not None:
        numbers = [v for v in shifted.inputs if type(v) is Literal]
        if len(numbers) != 1:
            return None
        offset = int(numbers[0].val)
        x = next(v for v in shifted.inputs if type(v) is not Literal)
    rows, columns = s.maker(x, "iota"), s.maker(y, "iota")
    if rows is None or columns is None or rows.inputs or columns.inputs or len(eqn.outputs[0].aval.shape) != 2:
        return None
    if x.aval.shape != y.aval.shape or (rows.params["dimension"], columns.params["dimension"]) != (0, 1):
        return None
    return instead(eqn, "tri", offset=offset)


REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "mean")


def keeping_dimensions(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A reduction whose dimensions are put back right away."""
    made = s.maker(eqn.inputs[0], *REDUCTIONS)
    if made is None or made.params.get("keepdims") or not s.only_use(eqn.inputs[0]):
        return None
    shape = made.inputs[0].aval.shape
    kept = tuple([1 if i in made.params["axes"] else n for i, n in enumerate(shape)])
    if eqn.outputs[0].aval.shape != kept:
        return None
    return instead(eqn, made.name, made.inputs[0], **{**made.params, "keepdims": True})


def dropping_dimensions(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A reduction that keeps its dimensions, without them."""
    made = s.maker(eqn.inputs[0], *REDUCTIONS)
    if made is None or not made.params.get("keepdims") or not s.only_use(eqn.inputs[0]):
        return None
    if tuple(sorted(eqn.params["dimensions"])) != tuple(sorted(made.params["axes"])):
        return None
    return instead(eqn, made.name, made.inputs[0], **{**made.params, "keepdims": False})


def mean(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A sum divided by the number of its terms."""
    x, y = eqn.inputs
    made = s.maker(x, "reduce_sum")
    if made is None or type(y) is not Literal or not s.only_use(x) or made.inputs[0].aval.dtype not in WIDE:
        return None
    count = math.prod(made.inputs[0].aval.shape[i] for i in made.params["axes"])
    if not is_value(y, count) or not same_type(eqn.outputs[0], x):
        return None
    return instead(eqn, "mean", made.inputs[0], **made.params)


#: Types in which ``jnp`` sums as ``lax`` does.
WIDE = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex64), np.dtype(np.complex128))


def unpadded(s: Simplifier, eqn: Equation) -> Rewrite | None:
    return None if any(any(config) for config in eqn.params["padding_config"]) else Rewrite(eqn.inputs[0])


def compared(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A mask that is not False."""
    x, y = eqn.inputs
    return Rewrite(x) if x.aval.dtype == np.bool_ and is_value(y, False) and same_type(x, eqn.outputs[0]) else None


def decided(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A choice by a number."""
    which, *cases = eqn.inputs
    if type(which) is not Literal or not same_type(cases[int(which.val)], eqn.outputs[0]):
        return None
    return Rewrite(cases[int(which.val)])


def same_cases(s: Simplifier, eqn: Equation) -> Rewrite | None:
    first = eqn.inputs[1]
    same = all(value_key(x) == value_key(first) for x in eqn.inputs[2:])
    return Rewrite(first) if same and same_type(first, eqn.outputs[0]) else None


def barrier(s: Simplifier, eqn: Equation) -> Rewrite | None:
    return Rewrite(eqn.inputs[0]) if len(eqn.inputs) == 1 and type(eqn.inputs[0]) is Literal else None


REWRITES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(FOLDED, (folded,)),
    **{name: (*((folded,) if name in FOLDED else ()), without_broadcast) for name in ELEMENTWISE},
    **dict.fromkeys(("add", "sub", "mul"), (folded, uniform, without_broadcast, arithmetic)),
    "max": (folded, without_broadcast, extreme),
    "min": (folded, without_broadcast, extreme, clipped),
    "pad": (unpadded,),
    "ne": (folded, without_broadcast, compared),
    "ge": (folded, triangle, without_broadcast),
    "add_any": (arithmetic,),
    "div": (folded, without_broadcast, arithmetic, mean),
    "neg": (folded, double_negation),
    "not": (folded, double_negation),
    "convert_element_type": (handed_on, folded),
    "broadcast_in_dim": (handed_on, broadcast),
    "broadcast_to": (handed_on,),
    "slice": (handed_on,),
    "reshape": (handed_on, reshaped, keeping_dimensions),
    "squeeze": (handed_on, squeezed_twice, sign_outside, dropping_dimensions, reshaped),
    "expand_dims": (handed_on, keeping_dimensions, sign_outside, reshaped),
    "transpose": (handed_on, turned),
    "dot_general": (product_of_turned,),
    "integer_pow": (powers,),
    "reduce_sum": (summed, sign_outside),
    "mean": (sign_outside,),
    "reduce_max": (summed,),
    "reduce_min": (summed,),
    "select_n": (folded, decided, same_cases, mask_itself, without_broadcast),
}
